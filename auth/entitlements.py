"""Group entitlements as AARC-G069 (and G002 before it) writes them, read strictly. Pure; nothing raises.

    urn:<nid>:<namespace>[:<subnamespace>]*:group:<group>[:<subgroup>]*[:role=<role>][#<authority>]

What is not exactly of this shape is no group membership: capabilities (`:res:`), other URNs, two roles.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

#: bytes; a longer value counts as absent
LONGEST: Final = 2048
#: one component of a URN (RFC 8141), each character of it matching in one way only
_COMPONENT: Final = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=@/]|%[0-9A-Fa-f]{2})+")
_ROLE: Final = "role="


@dataclass(frozen=True)
class Entitlement:
    """A membership as asserted. Namespace and authority stay as they were sent; group and role are decoded."""

    namespace: str
    path: tuple[str, ...]
    role: str = ""
    authority: str = ""


def parse(value: str) -> Entitlement | None:
    """Return the membership that a value asserts, or None."""
    if len(value) > LONGEST or not value.isascii():
        return None
    urn, mark, authority = value.partition("#")
    components = urn.split(":")
    if not all(map(_COMPONENT.fullmatch, components)):
        return None
    if mark and not all(map(_COMPONENT.fullmatch, authority.split(":"))):
        return None
    # urn, nid and at least one namespace stand before the word, a group behind it
    if components[0] != "urn" or "group" not in components[3:-1]:
        return None
    at = components.index("group", 3)
    path, role = _roles_apart(components[at + 1 :])
    decoded = [_decoded(part) for part in path]
    plain_role = _decoded(role) if role else ""
    if not decoded or None in decoded or plain_role is None:
        return None
    return Entitlement(":".join(components[:at]), tuple(map(str, decoded)), plain_role, authority)


def parse_all(values: Iterable[str]) -> dict[str, Entitlement]:
    """Return those of the values that assert a membership, by the text they came as."""
    found = ((value, parse(value)) for value in values)
    return {value: entitlement for value, entitlement in found if entitlement is not None}


def path_of(text: str) -> tuple[str, ...] | None:
    """Read a group path as a rule has it, written as in an entitlement; None when it is none."""
    path = [_decoded(part) if _COMPONENT.fullmatch(part) else None for part in text.split(":")]
    return None if None in path else tuple(map(str, path))


def lies_within(namespace: str, fences: Collection[str]) -> bool:
    """Tell whether a namespace is one of these, or a sub-namespace: whole components, byte for byte."""
    parts = namespace.split(":")
    return any(parts[: len(fence)] == fence for fence in (fence.split(":") for fence in fences))


def _roles_apart(components: list[str]) -> tuple[list[str], str]:
    """Split the role off the end. A role anywhere else, a second one or an empty one leaves no path."""
    roles = [component for component in components if component.startswith(_ROLE)]
    if not roles:
        return components, ""
    if len(roles) > 1 or not components[-1].startswith(_ROLE) or roles[0] == _ROLE:
        return [], ""
    return components[:-1], roles[0].removeprefix(_ROLE)


def _decoded(component: str) -> str | None:
    """Percent-decode once and normalise; None for bytes that are no text, and for control characters."""
    try:
        text = unicodedata.normalize("NFC", unquote_to_bytes(component).decode())
    except UnicodeDecodeError:
        return None
    return None if any(unicodedata.category(character) == "Cc" for character in text) else text
