"""Who runs as whom on one machine (standard library only: the bootstrap imports it before anything is installed)."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict


class CannotStart(Exception):
    """A part of the stack cannot start; the text says what to do."""


class Ids(TypedDict, total=False):
    """What `subprocess` needs to start a process as somebody else; empty = as ourselves."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True)
class Person:
    """One uid and gid of this machine, with or without an entry in its password file."""

    uid: int
    gid: int
    name: str

    def ids(self) -> Ids:
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if os.geteuid() == 0 else {}


#: the gateway's uid where no `beamport-gateway` user was made: outside the ranges of people, daemons and subuids
GATEWAY_ID = 64101


def ourselves() -> Person:
    return Person(os.geteuid(), os.getegid(), "root" if os.geteuid() == 0 else f"uid {os.geteuid()}")


def _named(*names: str) -> Person | None:
    for name in names:
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return Person(found.pw_uid, found.pw_gid, name)
    return None


def portal_person() -> Person:
    """PostgreSQL, Redis, web and worker: `beamport` if there is such a user, else `nobody`; a plain user's own self."""
    if os.geteuid() != 0:
        return ourselves()
    person = _named(os.environ.get("BEAMPORT_USER", "beamport"), "nobody")
    if person is None or person.uid == 0:
        raise CannotStart("No plain user to run PostgreSQL as. Make one: useradd --system beamport")
    return person


def gateway_person() -> Person:
    """The gateway, apart from the portal: it alone may reach instances, and must not reach PostgreSQL."""
    if os.geteuid() != 0:
        return ourselves()
    return _named("beamport-gateway") or Person(GATEWAY_ID, GATEWAY_ID, "the gateway's uid")


def make_folder(path: Path, mode: int, owner: Person | None = None, group: int | None = None) -> Path:
    """Make a folder with exactly this mode and owner; made twice is fine. A link in its place is refused."""
    if path.is_symlink():
        raise CannotStart(f"{path} is a symbolic link. Move it away; the portal makes a folder there.")
    path.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0 and (owner or group is not None):
        os.chown(path, owner.uid if owner else -1, group if group is not None else owner.gid if owner else -1)
    path.chmod(mode)
    return path


def closed_to(path: Path, person: Person) -> Path | None:
    """Return the first folder on the way to `path` that `person` may not cross, None when all are open."""
    for folder in reversed([path, *path.parents]):
        if not folder.exists():
            return None
        info = folder.stat()
        bit = 0o100 if info.st_uid == person.uid else 0o010 if info.st_gid == person.gid else 0o001
        if folder.is_dir() and not info.st_mode & bit:
            return folder
    return None
