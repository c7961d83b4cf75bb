"""What the supervisor keeps on disk: a folder a machine, homes, and which uid belongs to which home.

A machine's folder holds spec.json (no secret), scratch/ (= /work), run/ (sockets), etc/, log, and what ended it last.
A folder without a process is a stopped machine; no folder is no machine. Folders appear whole, by a rename, and go by
a rename; what a crash leaves half done begins with a dot and is swept.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from instances.providers.base import ImageMissing, Mount, MountKind, NoCapacity, Rejected, Service, Spec
from instances.providers.local import sandbox
from instances.providers.local.wire import home_key, name_of, refusal

#: the first of the uids that homes get when root runs the supervisor and nobody names another
FIRST_UID = 200_000
#: longest path of a unix socket that the gateway can connect to
LONGEST_SOCKET = 107


@dataclass(frozen=True)
class Ids:
    uid: int
    gid: int
    groups: tuple[int, ...] = ()


@dataclass(frozen=True)
class Record:
    """One machine as spec.json keeps it."""

    name: str
    deployment: str
    instance: str
    secret_epoch: int
    image: str
    memory: int
    cores: float
    disk: int
    services: tuple[Service, ...]
    data: tuple[tuple[str, str], ...]
    home: str
    ids: Ids


@dataclass(frozen=True)
class Ending:
    """Why a machine does not run: a stable code and a text for people; empty for a stop that was asked for."""

    reason: str = ""
    detail: str = ""


class Store:
    """The folders below the state folder. `shared` says that each home has a uid of its own (started as root)."""

    def __init__(self, state: Path, *, shared: bool, gateway_gid: int | None, reserve: int) -> None:
        self.machines, self.homes, self.images = state / "local", state / "homes", state / "images"
        self.shared, self.gateway_gid, self.reserve = shared, gateway_gid, reserve
        self._uids = self.machines / "uids.json"

    def lay(self) -> list[Path]:
        """Make the folders; return what an earlier supervisor left to remove."""
        for folder in (self.machines, self.homes):
            folder.mkdir(parents=True, exist_ok=True)
            if self.shared:
                folder.chmod(0o711)
        return [path for folder in (self.machines, self.homes) for path in folder.glob(".*-*")]

    # ---- machines ----
    def folder(self, name: str) -> Path:
        return self.machines / name_of(name)

    def names(self) -> list[str]:
        return sorted(path.parent.name for path in self.machines.glob("[!.]*/spec.json"))

    def read(self, name: str) -> Record | None:
        try:
            kept = json.loads((self.folder(name) / "spec.json").read_text())
        except FileNotFoundError:
            return None
        kept["services"] = tuple(Service(**service) for service in kept["services"])
        kept["data"] = tuple((source, target) for source, target in kept["data"])
        kept["ids"] = Ids(kept["ids"]["uid"], kept["ids"]["gid"], tuple(kept["ids"]["groups"]))
        return Record(**kept)

    def make(self, spec: Spec) -> Record:
        """Lay a machine's folder with its welcome files; the image, the disk and the home are checked here."""
        if len(os.fsencode(self.socket(spec.name, "jupyter"))) > LONGEST_SOCKET:
            raise Rejected("the state folder's path is too long for a machine's socket")
        self.image(spec.image.reference)
        self.check_disk()
        ids = self._ids(spec)
        record = Record(
            name=spec.name,
            deployment=spec.deployment,
            instance=spec.instance,
            secret_epoch=spec.secret_epoch,
            image=spec.image.reference,
            memory=spec.flavour.memory,
            cores=spec.flavour.cores,
            disk=spec.flavour.disk,
            services=spec.services,
            data=_data(spec.mounts),
            home=spec.home.key if spec.home else "",
            ids=ids,
        )
        fresh = self.machines / f".new-{spec.name}"
        shutil.rmtree(fresh, ignore_errors=True)
        try:
            self._lay_machine(fresh, record, spec)
            fresh.rename(self.folder(spec.name))
        except OSError as error:
            shutil.rmtree(fresh, ignore_errors=True)
            raise refusal(NoCapacity, "disk-full", f"the machine's folder was not made: {error.strerror}") from error
        return record

    def remount(self, record: Record, mounts: Iterable[Mount]) -> Record:
        """Put other data in the place of a machine's."""
        changed = replace(record, data=_data(mounts))
        _write(self.folder(record.name) / "spec.json", _kept(changed))
        return changed

    def _lay_machine(self, folder: Path, record: Record, spec: Spec) -> None:
        folder.mkdir(mode=0o711)
        folder.chmod(0o711 if self.shared else 0o700)
        for name, text in sandbox.etc_files(record.ids.uid, record.ids.gid).items():
            (folder / "etc").mkdir(mode=0o755, exist_ok=True)
            (folder / "etc" / name).write_text(text)
            (folder / "etc" / name).chmod(0o644)
        (folder / "etc").chmod(0o755)
        scratch = folder / "scratch"
        scratch.mkdir(mode=0o700)
        for path, text in spec.welcome.items():
            (scratch / path).parent.mkdir(parents=True, exist_ok=True)
            (scratch / path).write_text(text)
        if self.shared:
            for parent, _, files in os.walk(scratch):
                for path in (parent, *(os.path.join(parent, name) for name in files)):
                    os.chown(path, record.ids.uid, record.ids.gid)
        _write(folder / "spec.json", _kept(record))

    def open_run(self, record: Record) -> Path:
        """Make the folder of the sockets anew: the session's uid writes, the gateway's group may enter."""
        folder = self.folder(record.name) / "run"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        if self.shared:
            os.chown(folder, record.ids.uid, self.gateway_gid if self.gateway_gid is not None else -1)
            folder.chmod(0o2710)
        return folder

    def close_run(self, name: str) -> None:
        shutil.rmtree(self.folder(name) / "run", ignore_errors=True)

    def mount_points(self, record: Record) -> None:
        """Make the folders in /work that others are mounted on; a session may have taken away what it could."""
        scratch = self.folder(record.name) / "scratch"
        for name in ("data", "home"):
            path = scratch / name
            if path.is_symlink() or (path.exists() and not path.is_dir()):
                path.unlink()
            if not path.exists():
                path.mkdir(mode=0o755)
                if self.shared:
                    os.lchown(path, record.ids.uid, record.ids.gid)

    def socket(self, name: str, service: str) -> Path:
        return self.folder(name) / "run" / f"{service}.sock"

    def set_aside(self, name: str) -> Path:
        """Take a machine's folder out of sight at once; what is returned is to be removed."""
        aside = self.machines / f".gone-{name}-{os.urandom(4).hex()}"
        self.folder(name).rename(aside)
        self._release(f"machine:{name}")
        return aside

    # ---- why it does not run ----
    def started(self, name: str) -> None:
        """Note that it runs: found again without a process, it ended with its supervisor."""
        self.write_ending(name, Ending("supervisor-restarted"))

    def write_ending(self, name: str, ending: Ending) -> None:
        _write(self.folder(name) / "ended.json", {"reason": ending.reason, "detail": ending.detail})

    def ending(self, name: str) -> Ending:
        try:
            return Ending(**json.loads((self.folder(name) / "ended.json").read_text()))
        except (OSError, ValueError):
            return Ending()

    # ---- images and disk ----
    def image(self, reference: str) -> Path:
        """Return the folder that a reference means now."""
        folder = (self.images / name_of(reference)).resolve()
        if not (folder / "bin" / "start-session").is_file():
            raise ImageMissing(f"the image {reference!r} is not built here: python -m instances.providers.local.build")
        return folder

    def references(self) -> list[str]:
        if not self.images.is_dir():
            return []
        return sorted(
            path.name for path in self.images.iterdir() if not path.name.startswith(".") and path.is_symlink()
        )

    def check_disk(self) -> None:
        state = os.statvfs(self.machines)
        if state.f_bavail * state.f_frsize < self.reserve or (state.f_files > 0 and state.f_favail < 1000):
            raise refusal(NoCapacity, "disk-full", "The disk for sessions is full; an operator has to make room.")

    # ---- homes ----
    def home(self, record: Record) -> Path | None:
        """Return the home's folder, made when it is not there yet; refuse one of another uid."""
        if not record.home:
            return None
        folder = self.homes / home_key(record.home)
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise refusal(NoCapacity, "disk-full", f"the home was not made: {error.strerror}") from error
        if self.shared:
            owner = folder.stat().st_uid
            if owner == 0:
                os.chown(folder, record.ids.uid, record.ids.gid)
                folder.chmod(0o700)
            elif owner != record.ids.uid:
                raise refusal(Rejected, "home-owner", f"the home belongs to uid {owner}, not {record.ids.uid}")
        return folder

    def home_users(self, key: str) -> list[str]:
        """Return the machines that have this home, stopped ones too."""
        found = ((name, self.read(name)) for name in self.names())
        return [name for name, record in found if record and record.home == key]

    def set_home_aside(self, key: str) -> Path | None:
        """Take a home out of sight; its uid is never given to another."""
        folder = self.homes / home_key(key)
        if not folder.is_dir():
            return None
        aside = self.homes / f".gone-{key}-{os.urandom(4).hex()}"
        folder.rename(aside)
        self._release(key)
        return aside

    def _release(self, key: str) -> None:
        """Forget whose uid it was; the next one is counted up all the same."""
        uids = self._read_uids()
        if uids["homes"].pop(key, None) is not None:
            _write(self._uids, uids)

    def _ids(self, spec: Spec) -> Ids:
        """Who the session is: the person's own identity, else the uid of the home from the pool."""
        if not self.shared:
            return Ids(os.geteuid(), os.getegid())
        if spec.identity:
            return Ids(spec.identity.uid, spec.identity.gid, spec.identity.groups)
        key = spec.home.key if spec.home else f"machine:{spec.name}"
        uids = self._read_uids()
        if key not in uids["homes"]:
            uids["homes"][key] = uids["next"]
            uids["next"] += 1
            _write(self._uids, uids)
        uid = int(uids["homes"][key])
        return Ids(uid, uid)

    def _read_uids(self) -> dict[str, Any]:
        """Return who has which uid; a home on disk knows best, should the file be lost."""
        try:
            kept: dict[str, Any] = json.loads(self._uids.read_text())
        except FileNotFoundError:
            kept = {"next": FIRST_UID, "homes": {}}
            for folder in self.homes.glob("[!.]*"):
                owner = folder.stat().st_uid
                if owner >= FIRST_UID:
                    kept["homes"][folder.name] = owner
                    kept["next"] = max(kept["next"], owner + 1)
        return kept


def _data(mounts: Iterable[Mount]) -> tuple[tuple[str, str], ...]:
    return tuple((mount.source, mount.target) for mount in mounts if mount.kind is MountKind.DATA)


def _kept(record: Record) -> dict[str, Any]:
    kept = dict(vars(record))
    kept["services"] = [vars(service) for service in record.services]
    kept["ids"] = vars(record.ids)
    return kept


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file that only we read; whole or not at all, also through a power cut."""
    fresh = path.with_name(f".{path.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(descriptor)
    fresh.rename(path)
