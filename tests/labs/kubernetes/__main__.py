"""`python -m tests.labs.kubernetes build` builds the lab's programs and says where they lie."""

from __future__ import annotations

import sys

from tests.labs.kubernetes.build import CannotBuild, build


def main(argv: list[str]) -> int:
    if argv != ["build"]:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        print(build())
    except CannotBuild as error:
        print(f"The Kubernetes lab was not built: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
