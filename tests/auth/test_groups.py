"""What a provider says makes members, by rules; what it no longer says unmakes them, and time does."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import structlog
from django.core.exceptions import ValidationError

from auth import groups, providers
from auth.claims import MFA, profile_of
from auth.groups import Effect
from auth.models import GroupMember, GroupRule, Identity
from auth.providers import Provider
from auth.roles import Role, held_by, may
from portal.audit import AuditEvent
from portal.lib import bus
from portal.lib.clock import Now
from tests.factories.auth import FacilityFactory, IdentityFactory
from tests.factories.rights import (
    NAMESPACE,
    GroupFactory,
    GroupMemberFactory,
    GroupRoleFactory,
    GroupRuleFactory,
    claim_rule,
    entitlement,
)

pytestmark = pytest.mark.django_db

REFEDS = "https://refeds.org/assurance"


@pytest.fixture(autouse=True)
def fences(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The namespaces that the provider may speak for; a test may change them."""
    scopes = {NAMESPACE, "x.example"}

    def registry() -> dict[str, Provider]:
        given = {"title": "Demo", "issuer": "https://provider.example", "client_id": "c", "client_secret": "s"}
        return {"demo": Provider(slug="demo", asserts_scopes=frozenset(scopes), **given)}

    monkeypatch.setattr(providers, "registry", registry)
    return scopes


@pytest.fixture
def identity() -> Identity:
    return IdentityFactory()


def sign_in(identity: Identity, *said: str, acr: str = "", **more: Any) -> None:
    """What a sign-in does about groups, once it knows who somebody is."""
    claims = {"eduperson_entitlement": list(said)} | more
    profile = profile_of(claims)
    Identity.objects.filter(pk=identity.pk).update(assurance=list(profile.assurance))
    identity.refresh_from_db()
    groups.recompute(identity, claims, profile, acr)


def members(rule: GroupRule) -> int:
    return GroupMember.objects.filter(rule=rule).count()


# ---- who comes in ----
def test_an_entitlement_makes_a_member_with_the_groups_roles(identity: Identity) -> None:
    facility = FacilityFactory()
    held = GroupRoleFactory(role=Role.STAFF, facility=facility)
    rule = GroupRuleFactory(group=held.group, lasts=timedelta(days=10))
    sign_in(identity, "nonsense", entitlement())
    member = GroupMember.objects.get()
    assert (member.user, member.group, member.identity, member.rule) == (identity.user, held.group, identity, rule)
    assert member.said == entitlement()
    assert member.expires_at is not None
    assert timedelta(days=9, hours=23) < member.expires_at - member.seen_at < timedelta(days=10, minutes=1)
    (role,) = held_by(identity.user)
    assert (role.role, role.facility, role.until) == (Role.STAFF, facility, member.expires_at)
    assert role.source == f"group {held.group.title}"


@pytest.mark.parametrize(
    "said",
    [
        entitlement(path="bea"),
        entitlement(path="beams"),
        entitlement(path="Beam"),
        entitlement(path="beam:night"),
        entitlement(path="x:beam"),
        entitlement(authority=""),
        entitlement(authority="login.x.example.evil"),
        entitlement(authority="LOGIN.x.example"),
        entitlement(namespace=f"{NAMESPACE}:sub"),
        entitlement(namespace="urn:geant:X.example"),
        entitlement(namespace=f"{NAMESPACE}.evil"),
        entitlement(namespace="urn:geant"),
        entitlement(namespace="urn:GEANT:x.example"),
        f"{entitlement(authority='')}:role=a:role=b#login.x.example",
        entitlement() + "\x00",
        entitlement() + "#" + "a" * 2048,
        entitlement().replace(":group:", ":res:"),
        entitlement(path="b%65am%20"),
    ],
)
def test_what_is_not_the_same_in_every_component_makes_nobody(identity: Identity, said: str) -> None:
    rule = GroupRuleFactory()
    sign_in(identity, said)
    assert not members(rule)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("beam%20time", "beam%20time"),
        ("caf%C3%A9", "cafe%CC%81"),
        ("b%65am", "beam"),
        ("beam:night%2Fday", "beam:night%2fday"),
    ],
)
def test_group_names_are_compared_as_decoded(identity: Identity, path: str, said: str) -> None:
    rule = GroupRuleFactory(path=path)
    sign_in(identity, entitlement(path=said))
    assert members(rule)


@pytest.mark.parametrize(
    ("asked", "said", "comes"),
    [
        ("", "", True),
        ("", "pi", True),
        ("pi", "pi", True),
        ("pi", "", False),
        ("pi", "PI", False),
        ("p%69", "pi", True),
    ],
)
def test_a_role_in_the_group_may_be_asked_for(identity: Identity, asked: str, said: str, comes: bool) -> None:
    rule = GroupRuleFactory(role=asked)
    sign_in(identity, entitlement(role=said))
    assert bool(members(rule)) is comes


@pytest.mark.parametrize(
    ("fence", "comes"),
    [
        (NAMESPACE, True),
        ("urn:geant", True),
        (f"{NAMESPACE}:sub", False),
        ("urn:geant:x.examp", False),
        ("urn:geant:other.example", False),
        ("x.example", False),
    ],
)
def test_a_provider_speaks_for_its_own_namespaces_only(
    identity: Identity, fences: set[str], fence: str, comes: bool
) -> None:
    rule = GroupRuleFactory()
    fences.clear()
    fences.add(fence)
    sign_in(identity, entitlement())
    assert bool(members(rule)) is comes


def test_without_namespaces_a_providers_entitlements_say_nothing(identity: Identity, fences: set[str]) -> None:
    rule = GroupRuleFactory()
    fences.clear()
    sign_in(identity, entitlement())
    assert not members(rule)


def test_a_provider_that_is_not_configured_says_nothing() -> None:
    identity = IdentityFactory(provider="gone")
    rule = GroupRuleFactory(provider="gone")
    sign_in(identity, entitlement())
    assert not members(rule)


def test_a_rule_of_another_provider_makes_nobody(identity: Identity) -> None:
    rule = GroupRuleFactory(provider="other")
    sign_in(identity, entitlement())
    assert not members(rule)


def test_a_rule_that_is_switched_off_makes_nobody(identity: Identity) -> None:
    rule = GroupRuleFactory(enabled=False)
    sign_in(identity, entitlement())
    assert not members(rule)


@pytest.mark.parametrize(
    ("said", "comes"),
    [
        ({"groups": ["night", "beam"]}, True),
        ({"groups": "beam"}, True),
        ({"groups": ["beams"]}, False),
        ({"groups": ["Beam"]}, False),
        ({"groups": {"beam": True}}, False),
        ({"groups": [["beam"]]}, False),
        ({"groups": None}, False),
        ({}, False),
        ({"realm_access": {"roles": ["beam"]}}, False),
    ],
)
def test_a_claim_that_lists_the_value_makes_a_member(identity: Identity, said: dict[str, Any], comes: bool) -> None:
    rule = claim_rule()
    sign_in(identity, **said)
    assert bool(members(rule)) is comes


@pytest.mark.parametrize(
    "said",
    [{"realm_access": {"roles": ["a", "beam"]}}, {"realm_access.roles": ["beam"]}, {"realm_access": {"roles": "beam"}}],
)
def test_a_dot_leads_into_a_claim(identity: Identity, said: dict[str, Any]) -> None:
    rule = claim_rule(claim="realm_access.roles")
    sign_in(identity, **said)
    assert GroupMember.objects.get().said == "beam"
    assert members(rule)


@pytest.mark.parametrize(
    "said", [{"realm_access": ["beam"]}, {"realm_access": "roles"}, {"realm_access": {"roles": {}}}]
)
def test_a_dot_that_leads_nowhere_finds_nothing(identity: Identity, said: dict[str, Any]) -> None:
    rule = claim_rule(claim="realm_access.roles")
    sign_in(identity, **said)
    assert not members(rule)


def test_a_listed_value_is_compared_as_normalised(identity: Identity) -> None:
    rule = claim_rule(value="caf\u00e9")
    sign_in(identity, groups=["cafe\u0301"])
    assert members(rule)


@pytest.mark.parametrize(
    ("words", "comes"),
    [
        ([], [True, False, False, False]),
        ([REFEDS], [True, False, False, False]),
        ([f"{REFEDS}/IAP/low"], [True, True, False, False]),
        ([f"{REFEDS}/IAP/low", f"{REFEDS}/IAP/medium"], [True, True, True, False]),
        ([f"{REFEDS}/profile/cappuccino"], [True, True, True, False]),
        ([f"{REFEDS}/IAP/high"], [True, True, True, True]),
        ([f"{REFEDS}/profile/espresso"], [True, True, True, True]),
        ([f"{REFEDS}/IAP/higher"], [True, False, False, False]),
        ([f"{REFEDS}/iap/high"], [True, False, False, False]),
        (["http://refeds.org/assurance/IAP/high"], [True, False, False, False]),
    ],
)
def test_a_rule_may_ask_how_well_somebody_is_known(identity: Identity, words: list[str], comes: list[bool]) -> None:
    rules = [GroupRuleFactory(minimum_assurance=asked) for asked in ("", "low", "medium", "high")]
    sign_in(identity, entitlement(), eduperson_assurance=words)
    assert [bool(members(rule)) for rule in rules] == comes


@pytest.mark.parametrize(
    ("acr", "comes"),
    [(MFA, True), ("", False), ("https://refeds.org/profile/sfa", False), (MFA + "/", False), (MFA.upper(), False)],
)
def test_a_rule_may_ask_for_a_second_factor(identity: Identity, acr: str, comes: bool) -> None:
    rule = GroupRuleFactory(requires_mfa=True)
    sign_in(identity, entitlement(), acr=acr)
    assert bool(members(rule)) is comes


def test_the_second_factor_is_the_id_tokens_word_not_userinfos(identity: Identity) -> None:
    rule = GroupRuleFactory(requires_mfa=True)
    claims = {"entitlements": [entitlement()], "acr": MFA}
    groups.recompute(identity, claims, profile_of(claims), "")
    assert not members(rule)


def test_a_thousand_entitlements_are_looked_at(identity: Identity) -> None:
    rule = GroupRuleFactory()
    others = [entitlement(path=f"other-{number}") for number in range(1000)]
    sign_in(identity, *others[:999], entitlement())
    assert members(rule)
    sign_in(identity, *others, entitlement())
    assert not members(rule)


# ---- never an admin on a provider's word alone ----
@pytest.mark.parametrize(
    "given",
    [{}, {"requires_mfa": True}, {"minimum_assurance": "high"}, {"requires_mfa": True, "minimum_assurance": "low"}],
)
def test_a_lax_rule_never_makes_an_admin(identity: Identity, given: dict[str, Any]) -> None:
    admins = GroupRoleFactory(role=Role.ADMIN)
    rule = GroupRuleFactory(group=admins.group, **given)
    sign_in(identity, entitlement(), acr=MFA, eduperson_assurance=[f"{REFEDS}/IAP/high"])
    assert not members(rule)
    assert held_by(identity.user) == []


def test_a_group_that_becomes_the_admins_makes_no_admin_of_who_is_in_it(identity: Identity) -> None:
    rule = GroupRuleFactory()
    sign_in(identity, entitlement())
    GroupRoleFactory(group=rule.group, role=Role.ADMIN)
    GroupRoleFactory(group=rule.group, role=Role.STAFF)
    assert [held.role for held in held_by(identity.user)] == [Role.STAFF]
    assert not may(identity.user, "open-admin")


@pytest.mark.parametrize("level", ["medium", "high"])
def test_a_strict_rule_makes_an_admin_of_who_fulfils_it(identity: Identity, level: str) -> None:
    admins = GroupRoleFactory(role=Role.ADMIN)
    GroupRuleFactory(group=admins.group, requires_mfa=True, minimum_assurance=level)
    said = {"eduperson_assurance": [f"{REFEDS}/IAP/{level}"]}
    sign_in(identity, entitlement(), acr=MFA, **said)
    assert may(identity.user, "manage-policies")
    sign_in(identity, entitlement(), acr="https://refeds.org/profile/sfa", **said)
    assert not may(identity.user, "manage-policies")


def test_who_is_put_among_the_admins_by_hand_is_one(identity: Identity) -> None:
    admins = GroupRoleFactory(role=Role.ADMIN)
    GroupMemberFactory(group=admins.group, user=identity.user)
    assert may(identity.user, "manage-policies")


# ---- who goes ----
def test_gone_at_the_provider_is_gone_here_at_the_next_sign_in(identity: Identity) -> None:
    held = GroupRoleFactory()
    rule = GroupRuleFactory(group=held.group)
    sign_in(identity, entitlement())
    sign_in(identity)
    assert not members(rule)
    assert held_by(identity.user) == []


def test_a_membership_lapses_to_the_second(identity: Identity) -> None:
    held = GroupRoleFactory()
    GroupRuleFactory(group=held.group)
    sign_in(identity, entitlement())
    GroupMember.objects.update(expires_at=Now() + timedelta(seconds=30))
    assert held_by(identity.user)
    GroupMember.objects.update(expires_at=Now())
    assert held_by(identity.user) == []


def test_a_sign_in_renews_what_would_lapse(identity: Identity) -> None:
    held = GroupRoleFactory()
    GroupRuleFactory(group=held.group)
    sign_in(identity, entitlement())
    GroupMember.objects.update(expires_at=Now(), seen_at=Now() - timedelta(days=31))
    sign_in(identity, entitlement())
    member = GroupMember.objects.get()
    assert held_by(identity.user)[0].until == member.expires_at
    assert member.seen_at > member.expires_at - timedelta(days=30, minutes=1)  # type: ignore[operator]
    assert [event.detail["joined"] for event in AuditEvent.objects.all()] == [[held.group.slug]] * 2


def test_a_rule_that_is_switched_off_or_deleted_takes_its_members_roles(identity: Identity) -> None:
    held = GroupRoleFactory()
    rule = GroupRuleFactory(group=held.group)
    sign_in(identity, entitlement())
    GroupRule.objects.update(enabled=False)
    assert held_by(identity.user) == []
    GroupRule.objects.update(enabled=True)
    assert held_by(identity.user)
    rule.delete()
    assert held_by(identity.user) == []


def test_another_identity_of_the_user_keeps_what_it_gave(identity: Identity) -> None:
    held = GroupRoleFactory()
    GroupRuleFactory(group=held.group)
    second = IdentityFactory(user=identity.user)
    sign_in(identity, entitlement())
    sign_in(second, entitlement())
    assert len(held_by(identity.user)) == 2
    sign_in(identity)
    assert len(held_by(identity.user)) == 1


def test_who_is_in_a_group_by_hand_stays_whatever_the_provider_says(identity: Identity) -> None:
    held = GroupRoleFactory()
    GroupRuleFactory(group=held.group)
    GroupMemberFactory(group=held.group, user=identity.user, identity=identity)
    sign_in(identity, entitlement())
    sign_in(identity)
    assert GroupMember.objects.get().rule is None
    assert held_by(identity.user)


def test_an_identity_that_moved_to_another_user_takes_its_memberships_along(identity: Identity) -> None:
    held = GroupRoleFactory()
    GroupRuleFactory(group=held.group)
    sign_in(identity, entitlement())
    old = identity.user
    Identity.objects.filter(pk=identity.pk).update(user=IdentityFactory().user)
    assert held_by(old) == []
    sign_in(identity, entitlement())
    assert GroupMember.objects.get().user == identity.user != old


# ---- what is written down ----
def test_a_change_leaves_one_row_and_no_change_none(identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(bus, "publish", lambda topic, message: told.append((topic, message)))
    first, second = GroupRuleFactory(), GroupRuleFactory(path="night")
    sign_in(identity, entitlement())
    event = AuditEvent.objects.get()
    assert (event.action, event.actor_uid, event.object_id) == (
        "groups_changed",
        identity.user.uid,
        str(identity.user.uid),
    )
    assert event.detail == {"provider": "demo", "joined": [first.group.slug], "left": []}
    sign_in(identity, entitlement())
    assert AuditEvent.objects.count() == 1
    sign_in(identity, entitlement(path="night"))
    event = AuditEvent.objects.latest("pk")
    assert event.detail == {"provider": "demo", "joined": [second.group.slug], "left": [first.group.slug]}
    assert told == [(bus.GATEWAY, {"rights": str(identity.user.uid)})] * 2


def test_of_a_flood_only_so_much_is_kept(identity: Identity) -> None:
    claim_rule(claim="groups")
    flood = [entitlement(path=f"{'a' * 900}-{number}") for number in range(300)]
    sign_in(identity, *flood, groups=["b" * 2000] * 10 + ["last"])
    identity.refresh_from_db()
    kept = identity.claims_subset
    size = sum(map(len, [*kept["entitlements"], *kept["listed"]["groups"]]))
    assert groups.KEPT - 3000 < size <= groups.KEPT == 65_536
    assert kept["entitlements"] == flood[: len(kept["entitlements"])]


def test_what_is_not_the_providers_to_say_is_told_of(identity: Identity) -> None:
    with structlog.testing.capture_logs() as told:
        sign_in(identity, entitlement(), "nonsense")
        assert told == []
        sign_in(identity, entitlement(), entitlement(namespace="urn:other:y"))
    (row,) = told
    assert (row["event"], row["provider"]) == ("entitlements of namespaces that are not this provider's", "demo")


def test_a_lax_rule_for_admins_is_told_of(identity: Identity) -> None:
    rule = GroupRuleFactory(group=GroupRoleFactory(role=Role.ADMIN).group)
    with structlog.testing.capture_logs() as told:
        sign_in(identity, entitlement())
    (row,) = told
    assert (row["event"], row["rule"]) == ("a rule would make admins without assurance and a second factor", rule.pk)


def test_admins_of_another_group_are_no_matter_to_a_rule(identity: Identity) -> None:
    GroupRoleFactory(role=Role.ADMIN)
    rule = GroupRuleFactory(group=GroupRoleFactory(role=Role.STAFF).group)
    assert groups.dry_run(rule) == []
    sign_in(identity, entitlement())
    assert members(rule)
    assert [row.effect for row in groups.dry_run(rule)] == [Effect.KEEPS]
    rule.full_clean()


def test_claims_of_rules_that_are_switched_off_are_not_kept(identity: Identity) -> None:
    claim_rule(enabled=False)
    sign_in(identity, groups=["beam"])
    identity.refresh_from_db()
    assert identity.claims_subset["listed"] == {}


# ---- foreseeing ----
def test_who_is_a_member_by_another_rule_would_come_in_by_this_one(identity: Identity) -> None:
    other, rule = GroupRuleFactory(), GroupRuleFactory(path="night")
    sign_in(identity, entitlement())
    assert members(other)
    rule.path = "beam"
    assert [row.effect for row in groups.dry_run(rule)] == [Effect.GETS]
    assert [effect.value for effect in Effect] == ["gets", "keeps", "loses"]


def test_a_dry_run_tells_who_would_come_stay_and_go() -> None:
    said = {
        "coming": [entitlement()],
        "staying": [entitlement(), entitlement("night")],
        "going": [entitlement("night")],
    }
    people = {name: IdentityFactory(subject=name) for name in said}
    IdentityFactory(subject="elsewhere", provider="other")
    rule = GroupRuleFactory(path="night")
    for name, identity in people.items():
        sign_in(identity, *said[name])
    rule.path = "beam"
    foreseen = {row.identity.subject: (row.effect, row.said) for row in groups.dry_run(rule)}
    assert foreseen == {
        "coming": (Effect.GETS, entitlement()),
        "staying": (Effect.KEEPS, entitlement()),
        "going": (Effect.LOSES, ""),
    }
    assert members(rule) == 2
    assert AuditEvent.objects.count() == 2  # a look leaves nothing


def test_a_dry_run_of_a_rule_that_is_not_saved_yet(identity: Identity) -> None:
    sign_in(identity, entitlement(), acr=MFA, eduperson_assurance=[f"{REFEDS}/IAP/medium"])
    rule = GroupRuleFactory.build(group=GroupFactory(), requires_mfa=True, minimum_assurance="medium")
    assert [(row.identity, row.effect) for row in groups.dry_run(rule)] == [(identity, Effect.GETS)]
    rule.minimum_assurance = "high"
    assert groups.dry_run(rule) == []


def test_a_dry_run_over_claims_that_a_rule_names(identity: Identity) -> None:
    rule = claim_rule(value="night")
    sign_in(identity, groups=["beam"])
    rule.value = "beam"
    assert [row.effect for row in groups.dry_run(rule)] == [Effect.GETS]


def test_a_dry_run_tells_that_a_lapsed_member_would_come_back(identity: Identity) -> None:
    rule = GroupRuleFactory()
    sign_in(identity, entitlement())
    GroupMember.objects.update(expires_at=Now())
    assert [row.effect for row in groups.dry_run(rule)] == [Effect.GETS]


def test_a_dry_run_makes_no_admin_by_a_lax_rule(identity: Identity) -> None:
    rule = GroupRuleFactory(group=GroupRoleFactory(role=Role.ADMIN).group)
    sign_in(identity, entitlement())
    assert groups.dry_run(rule) == []


def test_people_who_signed_in_before_there_were_rules_are_foreseen_as_nobody(identity: Identity) -> None:
    assert groups.dry_run(GroupRuleFactory()) == []


# ---- rules that make sense ----
@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"namespace": "urn:geant:other.example"}, "namespace"),
        ({"namespace": "urn:geant"}, "path"),
        ({"namespace": ""}, "path"),
        ({"namespace": "geant:x.example"}, "path"),
        ({"namespace": f"{NAMESPACE}:group:a"}, "path"),
        ({"path": ""}, "path"),
        ({"path": "beam:role=pi"}, "path"),
        ({"path": "beam time"}, "path"),
        ({"role": "pi:x"}, "path"),
        ({"role": "pi#x"}, "path"),
        ({"authority": "x#y"}, "path"),
        ({"provider": "gone"}, "namespace"),
        ({"claim": "groups"}, "claim"),
        ({"value": "beam"}, "value"),
        ({"lasts": timedelta(0)}, "lasts"),
        ({"lasts": timedelta(days=367)}, "lasts"),
    ],
)
def test_a_rule_that_cannot_be_fulfilled_is_refused(given: dict[str, Any], field: str) -> None:
    rule = GroupRuleFactory.build(group=GroupFactory(), **given)
    with pytest.raises(ValidationError) as refused:
        rule.full_clean()
    assert set(refused.value.message_dict) == {field}
    says = {"namespace": "may not speak for", "path": "make no entitlement", "lasts": "at most 366 days"}
    assert says.get(field, "A rule on entitlements has none.") in refused.value.message_dict[field][0]


@pytest.mark.parametrize(
    "given",
    [{"lasts": timedelta(seconds=1)}, {},
     {"path": "beam:night%20shift"}, {"role": "pi"}, {"authority": ""}, {"lasts": timedelta(days=366)},
     {"namespace": f"{NAMESPACE}:sub"}],
)  # fmt: skip
def test_a_rule_that_makes_sense_is_taken(given: dict[str, Any]) -> None:
    GroupRuleFactory.build(group=GroupFactory(), **given).full_clean()


@pytest.mark.parametrize("field", ["namespace", "path", "role", "authority"])
def test_a_rule_on_a_claim_has_nothing_of_an_entitlement(field: str) -> None:
    rule = claim_rule()
    rule.full_clean()
    setattr(rule, field, "x")
    with pytest.raises(ValidationError) as refused:
        rule.full_clean()
    assert set(refused.value.message_dict) == {field}


@pytest.mark.parametrize("field", ["claim", "value"])
def test_a_rule_on_a_claim_needs_claim_and_value(field: str) -> None:
    rule = claim_rule(**{field: ""})
    with pytest.raises(ValidationError) as refused:
        rule.full_clean()
    assert set(refused.value.message_dict) == {field}


@pytest.mark.parametrize(
    ("given", "fits"),
    [
        ({}, False),
        ({"requires_mfa": True, "minimum_assurance": "low"}, False),
        ({"minimum_assurance": "high"}, False),
        ({"requires_mfa": True, "minimum_assurance": "medium"}, True),
        ({"requires_mfa": True, "minimum_assurance": "high"}, True),
    ],
)
def test_a_lax_rule_for_a_group_of_admins_is_refused(given: dict[str, Any], fits: bool) -> None:
    group = GroupRoleFactory(role=Role.ADMIN).group
    rule = GroupRuleFactory.build(group=group, **given)
    if fits:
        rule.full_clean()
        return
    with pytest.raises(ValidationError) as refused:
        rule.full_clean()
    assert set(refused.value.message_dict) == {"group"}
    assert "must ask for assurance medium or high, and a second factor" in str(refused.value)


def test_a_group_with_a_lax_rule_gets_no_admins_role() -> None:
    lax = GroupRuleFactory()
    GroupRoleFactory.build(group=lax.group, role=Role.OPERATOR).full_clean()
    with pytest.raises(ValidationError, match="No admins"):
        GroupRoleFactory.build(group=lax.group, role=Role.ADMIN).full_clean()
    strict = GroupRuleFactory(requires_mfa=True, minimum_assurance="medium")
    GroupRoleFactory.build(group=strict.group, role=Role.ADMIN).full_clean()
