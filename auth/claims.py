"""Claims of any shape → what we keep of a person. Pure; a wrong type never raises, it counts as absent."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog
from django.core.exceptions import ValidationError
from django.core.validators import validate_email

log = structlog.get_logger("auth.claims")

MOST_VALUES = 1000
LONGEST_VALUE = 2048
Table = Mapping[str, tuple[str, ...]]

#: our word for it → the claims that say it; a provider's own table replaces single lines. Of claims that hold one
#: value the first that says something counts; lists are joined.
TABLE: Final[Table] = {
    "name": ("name",),
    "given_name": ("given_name",),
    "family_name": ("family_name",),
    "email": ("email",),
    "email_verified": ("email_verified",),
    "verified_emails": ("voperson_verified_email",),
    "voperson_id": ("voperson_id",),
    "organisation": ("org_domain", "schac_home_organization"),
    "orcid": ("orcid", "eduperson_orcid"),
    "acr": ("acr",),
    "assurance": ("eduperson_assurance",),
    "affiliations": ("eduperson_scoped_affiliation", "voperson_external_affiliation"),
    # AARC-G002, AARC-G069 and RFC 9068, MyAcademicID
    "entitlements": ("eduperson_entitlement", "entitlements", "entitlement"),
}
#: REFEDS Multi-Factor Authentication Profile
MFA: Final = "https://refeds.org/profile/mfa"
_REFEDS: Final = "https://refeds.org/assurance"
#: how well somebody is known, as rules and providers ask for it; "": not asked
LEVELS: Final = {"": 0, "low": 1, "medium": 2, "high": 3}


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


def profile_of(said: Mapping[str, Any], table: Table | None = None) -> Profile:
    """Read a profile out of ID token and userinfo claims together."""
    claims = _Claims(said, {**TABLE, **(table or {})})
    email = claims.email()
    return Profile(
        name=claims.name(),
        email=email,
        email_verified=bool(email) and (claims.is_true("email_verified") or email in claims.every("verified_emails")),
        voperson_id=claims.only("voperson_id"),
        organisation=claims.line("organisation"),
        orcid=claims.line("orcid", 64),
        acr=claims.only("acr"),
        assurance=claims.every("assurance"),
        affiliations=claims.every("affiliations"),
        entitlements=claims.every("entitlements"),
    )


@dataclass(frozen=True)
class _Claims:
    """What a provider said, asked in our words."""

    said: Mapping[str, Any]
    table: Table

    def every(self, field: str) -> tuple[str, ...]:
        values = [value for claim in self.table[field] for value in values_of(self.said, claim)]
        return tuple(dict.fromkeys(values))[:MOST_VALUES]

    def line(self, field: str, longest: int = 200) -> str:
        """The first claim with something to show in it, made fit to show."""
        said = (at(self.said, claim) for claim in self.table[field])
        lines = (clean(value[0] if isinstance(value, list) and value else value, longest) for value in said)
        return next(filter(None, lines), "")

    def is_true(self, field: str) -> bool:
        """Only by `true` itself: `"true"` and 1 are somebody's guess."""
        return any(at(self.said, claim) is True for claim in self.table[field])

    def only(self, field: str) -> str:
        """`voperson_id` is formally multi-valued; not exactly one value is as good as none."""
        values = self.every(field)
        if len(values) == 1 and len(values[0]) <= 255:
            return values[0]
        if any(at(self.said, claim) is not None for claim in self.table[field]):
            log.warning("claim without exactly one value", field=field, values=len(values))
        return ""

    def name(self) -> str:
        return self.line("name") or clean(f"{self.line('given_name')} {self.line('family_name')}")

    def email(self) -> str:
        email = next(iter(self.every("email")), "")
        try:
            validate_email(email)
        except ValidationError:
            return ""
        return email if len(email) <= 254 else ""


def at(said: Mapping[str, Any], claim: str) -> object:
    """Return a claim: by its whole name, else a dot leads into it (`realm_access.roles`)."""
    if claim in said:
        return said[claim]
    inner: object = said
    for part in claim.split("."):
        inner = inner.get(part) if isinstance(inner, Mapping) else None
    return inner


def values_of(said: Mapping[str, Any], claim: str) -> list[str]:
    """Return the plain texts of a claim."""
    return as_list(at(said, claim))


def assured(profile: Profile) -> int:
    """Return how well the person is known (REFEDS Assurance Framework): 0 unknown, 1 low, 2 medium, 3 high."""
    words = {
        f"{_REFEDS}/IAP/low": 1,
        f"{_REFEDS}/IAP/medium": 2,
        f"{_REFEDS}/IAP/high": 3,
        f"{_REFEDS}/profile/cappuccino": 2,
        f"{_REFEDS}/profile/espresso": 3,
    }
    return max((words.get(value, 0) for value in profile.assurance), default=0)


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
    kept = (character for character in text if unicodedata.category(character) not in ("Cc", "Cn", "Co"))
    return " ".join("".join(kept).split())[:longest].strip()


def person_id(claims: Mapping[str, Any], claim: str) -> str:
    """Return the user office's id of the person, when the claim holds exactly one plain short text."""
    values = values_of(claims, claim)
    return values[0] if len(values) == 1 and len(values[0]) <= 100 else ""


def _is_plain(value: str) -> bool:
    return 0 < len(value) <= LONGEST_VALUE and not any(
        unicodedata.category(character) in ("Cc", "Cs") for character in value
    )
