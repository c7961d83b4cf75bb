"""What a session sees: the arguments of its bubblewrap and its environment. Pure, but for asking where things lie."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from instances.providers.local.bubblewrap import ISOLATION, system_binds

IMAGE = "/opt/image"
WORK = "/work"
DATA = "/work/data"
HOME = "/work/home"
SOCKETS = "/run/sockets"
#: on tmpfs: what must work when home and disk are full, and is of no use after a stop
SESSION = "/run/session"
USER = "scientist"
_MIB = 2**20
#: of the host's /etc only what programs need to start and to show text
_ETC = ("ld.so.cache", "fonts", "alternatives", "ssl/certs", "localtime", "mime.types", "inputrc")


@dataclass(frozen=True)
class Places:
    """Folders on the host that one session uses."""

    image: Path
    scratch: Path
    sockets: Path
    etc: Path
    home: Path | None
    data: tuple[tuple[str, str], ...]


def interpreter_prefix(image: Path) -> Path | None:
    """Return the base interpreter's folder when the sandbox has to show it beside /usr."""
    prefix = (image / "bin" / "python").resolve().parent.parent
    return None if not prefix.is_dir() or prefix == Path("/") or prefix.is_relative_to("/usr") else prefix


def arguments(places: Places, environment: dict[str, str], memory: int) -> list[str]:
    """Return all of bubblewrap's arguments before the command."""
    result = [*ISOLATION, *_folders("/etc", "/opt", "/run", WORK), *system_binds(), *_etc(places.etc)]
    prefix = interpreter_prefix(places.image)
    if prefix is not None:
        result += ["--ro-bind", str(prefix), str(prefix)]
    shared = str(max(64 * _MIB, memory // 4))
    result += ["--proc", "/proc", "--dev", "/dev"]
    result += ["--size", shared, "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]  # noqa: S108  (the sandbox's own)
    result += ["--perms", "1777", "--size", shared, "--tmpfs", "/tmp"]  # noqa: S108  (the sandbox's own)
    result += ["--perms", "0700", "--size", str(64 * _MIB), "--tmpfs", SESSION]
    result += ["--ro-bind", str(places.image), IMAGE]
    result += ["--bind", str(places.sockets), SOCKETS]
    result += ["--bind", str(places.scratch), WORK]
    # a tmpfs under the data: no folder that a session could have renamed or linked is on the way to a mount
    result += ["--perms", "0755", "--size", str(_MIB), "--tmpfs", DATA]
    for source, target in places.data:
        result += ["--ro-bind", source, target]
    result += ["--remount-ro", DATA]
    if places.home is not None:
        result += ["--bind", str(places.home), HOME]
    result += ["--remount-ro", "/", "--chdir", WORK]
    for name, value in environment.items():
        result += ["--setenv", name, value]
    return result


def command(processes: int | None, data: int | None) -> list[str]:
    """Return what runs inside; limits that no cgroup keeps are set there, where they count this session only."""
    start = [f"{IMAGE}/bin/start-session"]
    if processes is None and data is None:
        return start
    limits = [f"--nproc={processes}"] if processes else []
    limits += [f"--data={data}"] if data else []
    return ["/usr/bin/prlimit", *limits, "--", *start]


def environment(token: str, cores: float) -> dict[str, str]:
    """Return the whole environment of a session; nothing of the portal's is in it."""
    threads = str(max(1, round(cores)))
    return {
        "PATH": f"{IMAGE}/bin:/usr/local/bin:/usr/bin:/bin",
        "HOME": HOME,
        "USER": USER,
        "LOGNAME": USER,
        "SHELL": "/bin/bash",
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        "IMAGE": IMAGE,
        "SOCKETS": SOCKETS,
        "JUPYTER_TOKEN": token,
        "XDG_RUNTIME_DIR": SESSION,
        "XDG_CACHE_HOME": f"{WORK}/.cache",
        "JUPYTER_RUNTIME_DIR": f"{SESSION}/jupyter",
        "JUPYTER_CONFIG_DIR": f"{SESSION}/config",
        "JUPYTER_DATA_DIR": f"{SESSION}/data",
        "JUPYTER_PATH": f"{HOME}/.local/share/jupyter",
        "JUPYTERLAB_SETTINGS_DIR": f"{HOME}/.jupyter/lab/user-settings",
        "JUPYTERLAB_WORKSPACES_DIR": f"{WORK}/.jupyter/workspaces",
        "IPYTHONDIR": f"{SESSION}/ipython",
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "NUMEXPR_MAX_THREADS": threads,
    }


def etc_files(uid: int, gid: int) -> dict[str, str]:
    """Return the small files that take the place of the host's accounts and names."""
    return {
        "passwd": f"{USER}:x:{uid}:{gid}:{USER}:{HOME}:/bin/bash\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
        "group": f"{USER}:x:{gid}:\nnogroup:x:65534:\n",
        "hosts": "127.0.0.1 localhost session\n::1 localhost\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
        "profile": "PS1='\\w$ '\n",
    }


def _folders(*paths: str) -> list[str]:
    """Make folders that all may enter: what bubblewrap makes on the way to a mount is 0700."""
    return [part for path in paths for part in ("--perms", "0755", "--dir", path)]


def _etc(own: Path) -> list[str]:
    result = _folders("/etc/ssl")
    for name in _ETC:
        if os.path.exists(f"/etc/{name}"):
            result += ["--ro-bind", f"/etc/{name}", f"/etc/{name}"]
    for name in etc_files(0, 0):
        result += ["--ro-bind", str(own / name), f"/etc/{name}"]
    return result
