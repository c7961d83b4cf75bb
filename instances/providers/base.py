"""The provider contract: few verbs, frozen values in and out; no models, no settings, no Celery.

Every call has a timeout. SDK errors are translated at the border into the four below. All providers pass
tests/providers/contract.py.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Protocol, runtime_checkable

from instances.lifecycle import Phase
from portal.lib import readers


class ProviderError(Exception):
    """Base of what a provider may raise; `code` is stable, the text is for operators."""

    code = "provider-error"


class ProviderUnavailable(ProviderError):
    """No usable answer: retry; nothing may be concluded."""

    code = "provider-unavailable"


class NoCapacity(ProviderError):
    """No room now: retry later and tell the user."""

    code = "no-capacity"


class Rejected(ProviderError):
    """The provider refused what we asked: our fault, an operator must look."""

    code = "rejected"


class ImageMissing(Rejected):
    code = "image-missing"


class MountMissing(Rejected):
    """A folder that was asked for is not there; the text names it and is shown to the people of the instance."""

    code = "mount-missing"


class MountKind(StrEnum):
    DATA = "data"
    HOME = "home"
    PROJECT = "project"
    SCRATCH = "scratch"


@dataclass(frozen=True)
class Service:
    """Something an image serves: `name` (`jupyter`), its port or socket name, the path a probe asks for."""

    name: str
    port: int
    probe: str = "/"
    required: bool = True


@dataclass(frozen=True)
class Endpoint:
    """Where a service is reached: kind `unix` with path, or `tcp` with host and port.

    `uid` says who listens there where addresses are given again: a pod's uid. Another uid is another place.
    """

    service: str
    kind: str
    path: str = ""
    host: str = ""
    port: int = 0
    uid: str = ""


@dataclass(frozen=True)
class Mount:
    """`source` on the provider's side, `target` inside the machine. Data are always read-only."""

    kind: MountKind
    source: str
    target: str
    read_only: bool = True


@dataclass(frozen=True)
class PosixId:
    uid: int
    gid: int
    groups: tuple[int, ...] = ()


@dataclass(frozen=True)
class FlavourSpec:
    """cores; memory and disk in bytes."""

    name: str
    cores: float
    memory: int
    disk: int
    gpus: int = 0
    gpu_kind: str = ""
    reference: str = ""


@dataclass(frozen=True)
class ImageSpec:
    """`reference` is the provider's own word for it (a Glance id, a registry reference, a local recipe's name)."""

    name: str
    reference: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Home:
    """The storage of (user, facility): `key` is stable and safe as a file name; `limit` in bytes."""

    key: str
    limit: int


@dataclass(frozen=True)
class Spec:
    """All that makes a machine. `name` is unique per instance and attempt; `deployment` is the full tag."""

    name: str
    deployment: str
    instance: str
    attempt: int
    image: ImageSpec
    flavour: FlavourSpec
    services: tuple[Service, ...]
    mounts: tuple[Mount, ...]
    home: Home | None
    identity: PosixId | None
    network: str
    secret_epoch: int
    #: public host name the services are reached under, for their own origin checks
    host: str
    #: files to lay into the home's or scratch's welcome place: relative path → text
    welcome: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Observation:
    """What was seen of one machine. `reason` is a stable code (`out-of-memory`, `image-missing` …), `detail` text.

    `at` is set by reconcile to PostgreSQL's time *before* it asked; providers leave it None.
    """

    ref: str
    name: str
    instance: str
    phase: Phase
    endpoints: tuple[Endpoint, ...] = ()
    reason: str = ""
    detail: str = ""
    deployment: str = ""
    at: datetime | None = None


@dataclass(frozen=True)
class Usage:
    """Bytes used, the limit (0 = none known) and when it was measured (None = never)."""

    used: int
    limit: int
    measured_at: datetime | None


@dataclass(frozen=True)
class Capacity:
    """How many machines of a flavour there is room for; `source` says where that is known from."""

    flavour: str
    free: int
    total: int
    gpus_free: int = 0
    source: str = ""


_NONE, _TEXT = readers.table({}), readers.text(200)


@dataclass(frozen=True)
class Options:
    """What rows of a kind may say, as far as it is known without asking anybody; readers as in portal.lib.readers."""

    provider: readers.Reader = _NONE
    image: readers.Reader = _NONE
    reference: readers.Reader = _TEXT
    #: options that say which cloud it is
    place: tuple[str, ...] = ()
    #: what a check of that cloud has kept in the row, each true of this place and of those before it
    kept: tuple[str, ...] = ()


@runtime_checkable
class Checked(Protocol):
    """A provider whose set-up lies outside the portal, and can be looked at before anybody needs it."""

    def problems(self) -> list[str]:
        """Return what an operator has to mend, a sentence each; empty when all is well."""

    def confirm(self) -> dict[str, Any]:
        """Return the options that bind the row to exactly this cloud, for the operator to keep."""


@dataclass(frozen=True)
class Finding:
    """What a trial found of one thing. `good` None: it could not be seen. `keep`: options that the row keeps of it."""

    what: str
    good: bool | None
    text: str
    keep: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Tried(Protocol):
    """A provider whose set-up can be tried out with a machine that is nobody's."""

    def trial(self, spec: Spec) -> Generator[Finding]:
        """Start such a machine, yield what is found, and remove all of it, however it ends."""


@runtime_checkable
class Surveyed(Protocol):
    """A provider whose surroundings an operator chooses from when the row's options are written."""

    def survey(self) -> list[tuple[str, str]]:
        """Return what there is, and what could not be seen and for want of which right: a kind and words each."""


@runtime_checkable
class Kept(Protocol):
    """A provider that holds connections or watches as long as it is kept."""

    def is_outdated(self) -> bool:
        """Tell whether what it was made from, besides its options, has changed: a file of credentials."""

    def close(self) -> None:
        """End its watches, and with them `watch`."""


class Provider(Protocol):
    """What every provider can do; see each method for what happens twice or when missing."""

    OPTIONS: ClassVar[Options]

    def create(self, spec: Spec) -> str:
        """Make the machine spec.name, or return the ref of the one with this name and tag; may not be started yet."""

    def delete(self, ref: str) -> None:
        """Remove the machine with all it owns, never a home; a missing one is fine; never another deployment's."""

    def start(self, ref: str, data: Sequence[Mount] | None = None) -> None:
        """Start a stopped machine with exactly these data mounts (None: as they were); a running one is left alone."""

    def stop(self, ref: str) -> None:
        """Stop it and keep its disk, also while it starts: it must not come up later. A stopped one is left alone.

        One that failed becomes stopped, or stays failed where only a new one mends it.
        """

    def reboot(self, ref: str, data: Sequence[Mount] | None = None) -> None:
        """Restart it with exactly these data mounts (None: as they were); its disk stays."""

    def observe(self) -> Iterable[Observation]:
        """Yield all that carries our tag in as few calls as possible; absence proves nothing, `look` does."""

    def look(self, ref: str) -> Observation:
        """Look at one machine; the only source of MISSING. `ref` may also be a spec.name when the ref was lost."""

    def watch(self, wake: Callable[[str], None]) -> None:
        """Optional: block, and call `wake(ref)` when something happened to ref; return when the source ends."""

    def home_usage(self, home: Home) -> Usage: ...

    def delete_home(self, home: Home) -> None:
        """Delete a home: its own act; raises Rejected while an instance uses it; a missing one is fine."""

    def console(self, ref: str) -> str:
        """Return the last lines of the machine's log, for people; empty when there are none."""

    def capacity(self) -> Iterable[Capacity]: ...

    def images(self) -> Iterable[ImageSpec]: ...

    def flavours(self) -> Iterable[FlavourSpec]: ...
