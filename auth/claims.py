"""Claims of any shape → what we keep of a person. Pure; a wrong type never raises, it counts as absent."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from django.core.exceptions import ValidationError
from django.core.validators import validate_email

log = structlog.get_logger("auth.claims")

MOST_VALUES = 1000
LONGEST_VALUE = 2048
#: names under which entitlements come (AARC-G069, RFC 9068, eduPerson)
ENTITLEMENTS = ("eduperson_entitlement", "entitlements", "entitlement")


@dataclass(frozen=True)
class Profile:
    """What a provider says about a person. Contact data and hints: none of it decides who somebody is."""

    name: str = ""
    email: str = ""
    email_verified: bool = False
    voperson_id: str = ""
    organisation: str = ""
    orcid: str = ""
    acr: str = ""
    assurance: tuple[str, ...] = ()
    affiliations: tuple[str, ...] = ()
    entitlements: tuple[str, ...] = ()


def profile_of(claims: Mapping[str, Any]) -> Profile:
    """Read a profile out of ID token and userinfo claims together."""
    email = _email(claims)
    entitlements = [value for name in ENTITLEMENTS for value in as_list(claims.get(name))]
    return Profile(
        name=_name(claims),
        email=email,
        email_verified=bool(email)
        and (claims.get("email_verified") is True or email in as_list(claims.get("voperson_verified_email"))),
        voperson_id=_only(claims, "voperson_id"),
        organisation=clean(_first(claims, "org_domain") or _first(claims, "schac_home_organization")),
        orcid=clean(_first(claims, "orcid") or _first(claims, "eduperson_orcid"), 64),
        acr=clean(claims.get("acr"), 255),
        assurance=_distinct(as_list(claims.get("eduperson_assurance"))),
        affiliations=_distinct(
            as_list(claims.get("eduperson_scoped_affiliation")) + as_list(claims.get("voperson_external_affiliation"))
        ),
        entitlements=_distinct(entitlements),
    )


def as_list(value: object) -> list[str]:
    """Return the strings of a claim that may be one string or a list; the rest is dropped."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        return []
    if len(value) > MOST_VALUES:
        log.warning("claim cut short", values=len(value))
    return [item for item in value[:MOST_VALUES] if isinstance(item, str) and _is_plain(item)]


def clean(value: object, longest: int = 200) -> str:
    """Return text fit to store and show: NFC, one line, without control characters; empty for anything else."""
    if not isinstance(value, str):
        return ""
    # cut first, as normalising is dear; cut again, as it may lengthen
    text = unicodedata.normalize("NFC", value[: 4 * longest].encode("utf-8", "ignore").decode())
    text = "".join(" " if character.isspace() else character for character in text)
    kept = (character for character in text if unicodedata.category(character) not in ("Cc", "Cs", "Cn", "Co"))
    return " ".join("".join(kept).split())[:longest].strip()


def person_id(claims: Mapping[str, Any], claim: str) -> str:
    """Return the user office's id of the person, when the claim holds exactly one plain short text."""
    values = as_list(claims.get(claim))
    return values[0] if len(values) == 1 and len(values[0]) <= 100 else ""


def _name(claims: Mapping[str, Any]) -> str:
    whole = clean(claims.get("name"))
    return whole or clean(f"{clean(claims.get('given_name'))} {clean(claims.get('family_name'))}")


def _email(claims: Mapping[str, Any]) -> str:
    email = _first(claims, "email")
    try:
        validate_email(email)
    except ValidationError:
        return ""
    return email if len(email) <= 254 else ""


def _first(claims: Mapping[str, Any], name: str) -> str:
    values = as_list(claims.get(name))
    return values[0] if values else ""


def _only(claims: Mapping[str, Any], name: str) -> str:
    """`voperson_id` is formally multi-valued; not exactly one value is as good as none."""
    values = as_list(claims.get(name))
    if len(values) == 1 and len(values[0]) <= 255:
        return values[0]
    if name in claims:
        log.warning("claim without exactly one value", claim=name, values=len(values))
    return ""


def _distinct(values: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))[:MOST_VALUES]


def _is_plain(value: str) -> bool:
    return 0 < len(value) <= LONGEST_VALUE and not any(
        unicodedata.category(character) in ("Cc", "Cs") for character in value
    )
