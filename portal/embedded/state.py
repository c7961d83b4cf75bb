"""The state folder: where it lies, who owns what in it, the secrets that are made once (standard library only)."""

from __future__ import annotations

import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from portal.embedded.people import CannotStart, Person, closed_to, make_folder, ourselves
from portal.lib import variables

ROOT = Path(__file__).resolve().parent.parent.parent
SECRETS = ("secret_key", "instance_key", "gateway_token", "deployment_id", "oidc_client_secret")
#: who besides the portal needs which of them; each reads a copy of its own
COPIES = {
    "gateway": ("gateway_token", "instance_key"),
    "supervisor": ("instance_key",),
    "identity": ("oidc_client_secret",),
}
LEAST_FREE = 2 * 2**30
#: the kernel's limit of a unix socket's path, and the longest of ours below the state folder: a session's socket
#: (`local/<machine name>/run/jupyter.sock`, where a machine's name has up to 40 characters)
LONGEST_SOCKET = 107
LONGEST_BELOW = len("/local/") + 40 + len("/run/jupyter.sock")


def state_folder() -> Path:
    """`BEAMPORT_STATE`, else /var/lib/beamport for root and var/ in the checkout for everybody else."""
    default = "/var/lib/beamport" if os.geteuid() == 0 else str(ROOT / "var")
    return Path(os.path.abspath(os.environ.get("BEAMPORT_STATE") or default))


def check_disk(folder: Path, least: int = LEAST_FREE) -> None:
    """Refuse to start where the next log line or table row might not fit any more."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < least:
        raise CannotStart(
            f"Only {free / 2**30:.1f} GB free on the disk of {folder}; at least {least / 2**30:.0f} GB are needed. "
            f"Free some, or set BEAMPORT_STATE to a folder on another disk."
        )


def check_length(folder: Path) -> None:
    room = LONGEST_SOCKET - LONGEST_BELOW
    if len(os.fsencode(folder)) > room:
        raise CannotStart(
            f"The state folder's path is too long for unix sockets: {folder} has {len(os.fsencode(folder))} bytes, "
            f"at most {room} fit. Set BEAMPORT_STATE to a shorter path, for example /var/tmp/beamport."
        )


def prepare(folder: Path) -> Path:
    """Make the state folder itself, so that nobody's rights are in its way; refuse where it cannot work."""
    check_length(folder)
    check_disk(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if folder.stat().st_uid == os.geteuid():
            folder.chmod(0o711)
    except OSError as error:
        raise CannotStart(
            f"Cannot make the state folder {folder}: {error.strerror}. Set BEAMPORT_STATE to a folder of your own."
        ) from error
    if not os.access(folder, os.W_OK):
        raise CannotStart(f"Cannot write to the state folder {folder}. Set BEAMPORT_STATE to a folder of your own.")
    return folder


@dataclass(frozen=True)
class State:
    """The folder with its two owners."""

    folder: Path
    portal: Person
    gateway: Person

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def secrets(self) -> Path:
        return self.folder / "secrets"

    def lay(self) -> None:
        """Make every folder with its mode and owner. Repeated at each start: modes are kept, not assumed."""
        prepare(self.folder)
        for person in (self.portal, self.gateway):
            if closed := closed_to(self.folder, person):
                raise CannotStart(
                    f"{person.name} cannot cross {closed}, so nothing in {self.folder} can be used. "
                    f"Run chmod o+x {closed}, or set BEAMPORT_STATE to a folder elsewhere (/var/lib/beamport)."
                )
        root = ourselves()
        for name, mode, owner, group in (
            ("run", 0o711, root, None),
            ("run/back", 0o700, self.portal, None),
            ("run/front", 0o2710, self.portal, self.gateway.gid),
            ("run/supervisor", 0o711, root, None),
            ("log", 0o711, root, None),
            ("homes", 0o711, root, None),
            ("local", 0o711, root, None),
            ("images", 0o755, root, None),
            ("cache", 0o755, root, None),
            ("static", 0o755, self.portal, None),
            ("data", 0o755, self.portal, None),
            ("secrets", 0o711, root, None),
        ):
            make_folder(self.folder / name, mode, owner, group)
        self._keep_secrets()

    def _keep_secrets(self) -> None:
        for name in SECRETS:
            path = self.secrets / name
            if not path.exists():
                _write(path, secrets.token_urlsafe(48), self.portal)
        readers = {"gateway": self.gateway, "supervisor": ourselves(), "identity": self.portal}
        for reader, names in COPIES.items():
            make_folder(self.secrets / reader, 0o700, readers[reader])
            for name in names:
                _write(self.secrets / reader / name, self.secret(name), readers[reader])

    def secret(self, name: str) -> str:
        """What the operator gave by `<NAME>` or `<NAME>_FILE`, else what was made once under secrets/."""
        try:
            return variables.read(name.upper(), os.environ, self.secrets) or ""
        except variables.BadVariable as error:
            raise CannotStart(str(error)) from error


def _write(path: Path, text: str, owner: Person) -> None:
    """Write a file that only its owner reads; whole or not at all."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
        if os.geteuid() == 0:
            os.fchown(descriptor, owner.uid, owner.gid)
    fresh.rename(path)
