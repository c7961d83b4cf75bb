"""Set up what is missing, then start: what `make` calls, with any Python and nothing installed.

The syntax and the imports of this file are those of Python 3.6, so that an older Python gets a sentence to read.
"""

import os
import sys

if sys.version_info < (3, 11):  # noqa: UP036  (this is the very check)
    sys.exit(
        f"Beamport needs Python 3.11 or newer; {sys.executable} is {sys.version_info[0]}.{sys.version_info[1]}. "
        "Name another one: make run PYTHON=python3.12"
    )

if __name__ == "__main__":
    os.umask(0o022)  # what is installed is for other uids to run
    from portal.embedded.setup import main

    sys.exit(main(sys.argv[1:]))
