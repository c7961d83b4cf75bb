"""From root to a session's uid: joins the cgroup, drops everything, checks the mounts' sources, becomes bubblewrap.

Run as a program by the supervisor (`launch.py ORDER STATUS`, two descriptors): ORDER holds one JSON object, STATUS gets
one JSON object when something is wrong and is closed by a successful exec. Standard library only, nothing of ours:
it starts in the time of an empty interpreter.
"""

import json
import os
import resource
import sys
from typing import Any

_PR_SET_NO_NEW_PRIVS = 38


def join(files: list[str]) -> None:
    """Enter the cgroups; the children to come are born in them."""
    for path in files:
        with open(path, "w") as file:
            file.write(str(os.getpid()))


def limit(limits: dict[str, int]) -> None:
    """Set rlimits by name (`CORE`, `NOFILE` …), never above what we were given ourselves."""
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("300")  # when the whole machine runs short, a session goes before the portal


def drop(uid: int, gid: int, groups: list[int]) -> None:
    """Become the session's uid for good."""
    import ctypes

    if os.geteuid() == 0:
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")


def check(sources: list[tuple[str, str]]) -> dict[str, str] | None:
    """Return what is wrong with the first source that this uid cannot read; only it can know."""
    for source, target in sources:
        if not os.path.isdir(source):
            there = os.path.lexists(source)
            return {"fault": "not-a-folder" if there else "missing", "target": target, "source": source}
        if not os.access(source, os.R_OK | os.X_OK):
            return {"fault": "denied", "target": target, "source": source}
    return None


def main() -> None:
    order_fd, status = (int(number) for number in sys.argv[1:])
    os.set_inheritable(status, False)
    try:
        with os.fdopen(order_fd) as file:
            order: dict[str, Any] = json.load(file)
        join(order["cgroups"])
        limit(order["limits"])
        os.umask(0o022)
        drop(order["uid"], order["gid"], order["groups"])
        fault = check(order["sources"])
        if fault is None:
            environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
            os.execve(order["argv"][0], order["argv"], environment)  # noqa: S606  (no shell, that is the point)
    except OSError as error:
        fault = {"fault": "launch", "target": "", "source": f"{error.strerror or error} {error.filename or ''}".strip()}
    os.write(status, json.dumps(fault).encode())
    sys.exit(1)


if __name__ == "__main__":
    main()
