"""Who users are on facilities' file systems: from claims of a provider that says so, or from a facility's list.

Only plain numbers that belong to people are taken: a wrong uid opens somebody else's files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import structlog
from django.db import IntegrityError, transaction

from auth import claims
from auth.models import Facility, PosixIdentity, User
from portal import audit
from portal.audit import AuditEvent

log = structlog.get_logger("auth.posix")

#: uids and gids below belong to a system, not to people; the highest is what the database holds
LOWEST: Final = 1000
HIGHEST: Final = 2**31 - 1
NOBODY: Final = frozenset({65534, 65535})
MOST_GROUPS: Final = 256
_NUMBER: Final = re.compile(r"[0-9]{1,10}")
_HOME: Final = re.compile(r"(/[A-Za-z0-9_][A-Za-z0-9._@+-]*){1,20}")


@dataclass(frozen=True)
class Posix:
    uid: int
    gid: int
    groups: list[int]
    home: str = ""


def read(uid: object, gid: object, groups: Iterable[object] = (), home: object = "") -> Posix | None:
    """Return the identity, or None when uid or gid are nobody's; groups and home that make no sense are left out."""
    own, main = number(uid), number(gid)
    if own is None or main is None:
        return None
    more = {found for group in groups if (found := number(group)) is not None} - {main}
    fits = isinstance(home, str) and len(home) <= 300 and _HOME.fullmatch(home)
    return Posix(own, main, sorted(more)[:MOST_GROUPS], str(home) if fits else "")


def number(value: object) -> int | None:
    """Return a uid or gid of people, from a number or a text of digits."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if LOWEST <= value <= HIGHEST and value not in NOBODY else None


def set_from_claims(user: User, said: Mapping[str, Any], names: Mapping[str, Mapping[str, str]]) -> None:
    """Make the user's identities what the claims say now: facility → (uid, gid, groups, home → claim).

    A facility that the claims are silent about has none from them; one from the facility's list stays.
    """
    for slug, claim_of in names.items():
        facility = Facility.objects.filter(slug=slug).first()
        if facility is None:
            log.warning("no such facility", facility=slug)
            continue
        of = {name: claims.at(said, claim) for name, claim in claim_of.items()}
        groups = of.get("groups")
        found = read(of.get("uid"), of.get("gid"), groups if isinstance(groups, list) else [groups], of.get("home"))
        if found is not None:
            put(user, facility, found, PosixIdentity.Source.CLAIM)
        else:
            user.posix_identities.filter(facility=facility, source=PosixIdentity.Source.CLAIM).delete()


def put(user: User, facility: Facility, posix: Posix, source: PosixIdentity.Source) -> bool:
    """Note who the user is there; False when the uid is somebody else's. The facility's own list outdoes a claim."""
    known = PosixIdentity.objects.filter(user=user, facility=facility).first()
    wanted = asdict(posix)
    if known is not None:
        same = {name: getattr(known, name) for name in wanted} == wanted
        listed = known.source == PosixIdentity.Source.IMPORT and source == PosixIdentity.Source.CLAIM
        if listed or (same and known.source == source):
            return True
    about = ("user", user.uid)
    try:
        with transaction.atomic():
            PosixIdentity.objects.update_or_create(user=user, facility=facility, defaults=wanted | {"source": source})
    except IntegrityError:
        refused = AuditEvent.Result.REFUSED
        audit.record("posix_identity", about=about, result=refused, reason="uid-of-another", facility=facility.slug)
        return False
    audit.record("posix_identity", about=about, facility=facility.slug, uid=posix.uid, gid=posix.gid, source=source)
    return True
