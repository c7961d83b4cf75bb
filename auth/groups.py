"""What a provider says of somebody → groups → roles, by rules in the database.

Looked at anew at each sign-in: what the provider no longer says is gone here, and a membership lapses by itself when
nobody signs in for as long as its rule says.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final

import structlog
from django.core.exceptions import ValidationError
from django.db.models import Exists, OuterRef, Q, QuerySet

from auth import claims, entitlements, providers
from auth.claims import Profile
from auth.entitlements import Entitlement
from auth.models import GroupMember, GroupRole, GroupRule, Identity
from auth.roles import Role
from portal import audit
from portal.lib import bus
from portal.lib.clock import Now
from portal.lib.errors import NotFound

log = structlog.get_logger("auth.groups")

#: characters of what a provider said that are kept of a sign-in, for dry runs
KEPT: Final = 64 * 1024
#: the longest that a membership may outlive the last sign-in
LONGEST: Final = timedelta(days=366)


@dataclass(frozen=True)
class Statement:
    """What a provider said about somebody at a sign-in, as far as rules ask."""

    #: as it came → as it reads, of namespaces that this provider may speak for
    entitlements: Mapping[str, Entitlement]
    #: claim → its values
    listed: Mapping[str, Iterable[str]]
    assured: int
    second_factor: bool

    def fulfils(self, rule: GroupRule) -> str | None:
        """Return the words that fulfil a rule, or None."""
        if self.assured < claims.LEVELS[rule.minimum_assurance] or (rule.requires_mfa and not self.second_factor):
            return None
        if rule.kind == GroupRule.Kind.CLAIM:
            wanted = unicodedata.normalize("NFC", rule.value)
            values = self.listed.get(rule.claim, ())
            return next((value for value in values if unicodedata.normalize("NFC", value) == wanted), None)
        return next((words for words, said in self.entitlements.items() if _is_asked_for(said, rule)), None)


def statement(provider: str, profile: Profile, listed: Mapping[str, Iterable[str]], acr: str) -> Statement:
    """Read what was said; entitlements of namespaces that are not this provider's count as not said."""
    fences = _fences(provider)
    said = entitlements.parse_all(profile.entitlements[: claims.MOST_VALUES])
    ours = {words: one for words, one in said.items() if entitlements.lies_within(one.namespace, fences)}
    if len(said) > len(ours):
        log.warning("entitlements of namespaces that are not this provider's", provider=provider)
    return Statement(ours, listed, claims.assured(profile), acr == claims.MFA)


def recompute(identity: Identity, said: Mapping[str, Any], profile: Profile, acr: str) -> None:
    """Make the identity's memberships what the rules of its provider give now. Runs in the sign-in's transaction.

    `acr` says how the person signed in this time: the ID token's.
    """
    rules = list(_rules().filter(provider=identity.provider, enabled=True))
    names = sorted({rule.claim for rule in rules if rule.kind == GroupRule.Kind.CLAIM})
    listed = {name: claims.values_of(said, name) for name in names}
    _keep(identity, profile, listed, acr)
    now = statement(identity.provider, profile, listed, acr)
    _settle(identity, {rule: words for rule in rules if (words := _gives(rule, now)) is not None})


class Effect(StrEnum):
    GETS = "gets"
    KEEPS = "keeps"
    LOSES = "loses"


@dataclass(frozen=True)
class Foreseen:
    """What a rule would do to somebody at their next sign-in, if they were as they were at the last."""

    identity: Identity
    effect: Effect
    said: str


def dry_run(rule: GroupRule) -> list[Foreseen]:
    """Tell what a rule, saved or not, would change: over what was said of everybody at their last sign-in."""
    rule.makes_admins = rule.group.roles.filter(role=Role.ADMIN).exists()  # type: ignore[attr-defined]
    members = set(
        GroupMember.objects.filter(rule_id=rule.pk, expires_at__gt=Now()).values_list("identity_id", flat=True)
        if rule.pk
        else ()
    )
    identities = Identity.objects.select_related("user").order_by("pk")
    foreseen = []
    for identity in identities.filter(provider=rule.provider) | identities.filter(pk__in=members):
        words = _gives(rule, _last_statement(identity)) if identity.provider == rule.provider else None
        if words is not None:
            effect = Effect.KEEPS if identity.pk in members else Effect.GETS
            foreseen.append(Foreseen(identity, effect, words))
        elif identity.pk in members:
            foreseen.append(Foreseen(identity, Effect.LOSES, ""))
    return foreseen


# ---- rules ----
def _rules() -> QuerySet[GroupRule]:
    admins = GroupRole.objects.filter(group=OuterRef("group"), role=Role.ADMIN)
    return GroupRule.objects.select_related("group").annotate(makes_admins=Exists(admins))


def _gives(rule: GroupRule, now: Statement) -> str | None:
    """Return the words that make somebody a member by this rule; a lax rule never makes an admin."""
    if rule.makes_admins and not rule.is_fit_for_admin:  # type: ignore[attr-defined]
        log.error("a rule would make admins without assurance and a second factor", rule=rule.pk)
        return None
    return now.fulfils(rule) if rule.enabled else None


def _is_asked_for(said: Entitlement, rule: GroupRule) -> bool:
    return (
        said.namespace == rule.namespace
        and said.path == entitlements.path_of(rule.path)
        and said.authority == rule.authority
        and (not rule.role or (said.role,) == entitlements.path_of(rule.role))
    )


def _fences(provider: str) -> frozenset[str]:
    """The namespaces for which a provider may speak; none unless configured."""
    try:
        return providers.get(provider).namespaces
    except NotFound:
        return frozenset()


def check_rule(rule: GroupRule) -> None:
    """Raise ValidationError for a rule that could never be fulfilled, or that must not be."""
    wrong = _entitlement_faults(rule) if rule.kind == GroupRule.Kind.ENTITLEMENT else _claim_faults(rule)
    if not timedelta(0) < rule.lasts <= LONGEST:
        wrong["lasts"] = f"A membership lasts at least a moment and at most {LONGEST.days} days after a sign-in."
    if not rule.is_fit_for_admin and rule.group_id and rule.group.roles.filter(role=Role.ADMIN).exists():
        wrong["group"] = "This group makes admins: the rule must ask for assurance medium or high, and a second factor."
    if wrong:
        raise ValidationError(wrong)


def _entitlement_faults(rule: GroupRule) -> dict[str, str]:
    wrong = {name: "A rule on entitlements has none." for name in ("claim", "value") if getattr(rule, name)}
    said = f"{rule.namespace}:group:{rule.path}" + (f":role={rule.role}" if rule.role else "")
    read = entitlements.parse(said + (f"#{rule.authority}" if rule.authority else ""))
    if read is None or (read.namespace, read.path) != (rule.namespace, entitlements.path_of(rule.path)):
        wrong["path"] = "Namespace, group, role and authority make no entitlement. Write them as in the entitlement."
    elif not entitlements.lies_within(rule.namespace, _fences(rule.provider)):
        wrong["namespace"] = f"{rule.provider} may not speak for this namespace: see asserts_scopes of the provider."
    return wrong


def _claim_faults(rule: GroupRule) -> dict[str, str]:
    of_entitlements = ("namespace", "path", "role", "authority")
    wrong = {name: "A rule on a claim has none." for name in of_entitlements if getattr(rule, name)}
    return wrong | {name: "A rule on a claim needs it." for name in ("claim", "value") if not getattr(rule, name)}


# ---- members ----
def _settle(identity: Identity, given: Mapping[GroupRule, str]) -> None:
    members = GroupMember.objects.filter(identity=identity, rule__isnull=False).select_related("group")
    by_rule = list(members.annotate(lasts=Q(expires_at__gt=Now())))
    before = {member.rule_id: member.group.slug for member in by_rule if member.lasts}
    kept = {rule.pk for rule in given}
    gone = [one.pk for one in by_rule if one.rule_id not in kept or one.user_id != identity.user_id]
    if gone:
        GroupMember.objects.filter(pk__in=gone).delete()
    mine = {"user": identity.user, "identity": identity, "seen_at": Now()}
    GroupMember.objects.bulk_create(
        [
            GroupMember(**mine, group=rule.group, rule=rule, said=words, expires_at=Now() + rule.lasts)
            for rule, words in given.items()
        ],
        update_conflicts=True,
        unique_fields=["user", "group", "identity", "rule"],
        update_fields=["said", "seen_at", "expires_at"],
    )
    after = {rule.pk: rule.group.slug for rule in given}
    joined = sorted({after[pk] for pk in after.keys() - before.keys()})
    left = sorted({before[pk] for pk in before.keys() - after.keys()})
    if joined or left:
        about = ("user", identity.user.uid)
        audit.record(
            "groups_changed", actor=identity.user, about=about, provider=identity.provider, joined=joined, left=left
        )
        bus.publish(bus.GATEWAY, {"rights": str(identity.user.uid)})


# ---- what is kept for dry runs ----
def _keep(identity: Identity, profile: Profile, listed: Mapping[str, Iterable[str]], acr: str) -> None:
    room = KEPT
    kept: dict[str, list[str]] = {}
    for name, values in (("", profile.entitlements), *listed.items()):
        kept[name] = []
        for value in values:
            room -= len(value.encode())
            if room >= 0:
                kept[name].append(value)
    known = identity.claims_subset | {"acr": acr, "entitlements": kept.pop(""), "listed": kept}
    if known != identity.claims_subset:
        identity.claims_subset = known
        identity.save(update_fields=["claims_subset"])


def _last_statement(identity: Identity) -> Statement:
    kept = identity.claims_subset
    profile = Profile(assurance=tuple(identity.assurance), entitlements=tuple(kept.get("entitlements", ())))
    return statement(identity.provider, profile, kept.get("listed", {}), kept.get("acr", ""))
