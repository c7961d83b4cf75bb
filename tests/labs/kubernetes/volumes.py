"""Opens the volumes that the controllers' own provisioner makes: root's folders, where pods of other uids cannot write.

A storage driver does this as `fsGroup` asks; folders of the node are left as they are.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path


def main(folder: Path) -> None:
    while True:
        for volume in folder.iterdir():
            if volume.is_dir() and volume.stat().st_mode & 0o777 != 0o777:
                volume.chmod(0o777)
        time.sleep(0.1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
