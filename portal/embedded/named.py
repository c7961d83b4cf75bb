"""Run a command under a user name: `python named.py initdb …`.

initdb refuses a uid that no password file knows, as containers and directories that are down give one. In a user
namespace of its own the same uid wears a known one's name; what is written belongs to the real uid.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import sys
from pathlib import Path

CLONE_NEWUSER = 0x1000_0000


def has_name() -> bool:
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return True


def wear_a_name() -> None:
    """Enter a user namespace in which our uid is one that has a name."""
    known = next(entry for entry in pwd.getpwall() if entry.pw_uid != 0)
    uid, gid = os.geteuid(), os.getegid()
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER):
        raise OSError(
            f"uid {uid} has no name here, and user namespaces are not allowed: add it to /etc/passwd "
            f"({os.strerror(ctypes.get_errno())})"
        )
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{known.pw_uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{known.pw_gid} {gid} 1")


if __name__ == "__main__":
    try:
        wear_a_name()
        os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606  (no shell)
    except OSError as error:
        sys.exit(str(error))
