"""Claims come in every shape; a profile comes out, or less of one."""

from __future__ import annotations

from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from auth.claims import (
    LEVELS,
    MFA,
    MOST_VALUES,
    TABLE,
    Profile,
    as_list,
    assured,
    at,
    clean,
    person_id,
    profile_of,
    values_of,
)

EDUTEAMS = {
    "sub": "7be41f09c2d84a6f9d3e5a1b0c72e468@eduteams.example",
    "voperson_id": ["7be41f09c2d84a6f9d3e5a1b0c72e468@umbrella.example"],
    "name": "Jana Nováková", "email": "jana@facility.example", "email_verified": True,
    "orcid": "https://orcid.org/0000-0002-1825-0097", "schac_home_organization": "facility.example",
    "eduperson_scoped_affiliation": ["member@eduteams.example"],
    "voperson_external_affiliation": ["faculty@facility.example", "member@facility.example"],
    "eduperson_entitlement": ["urn:geant:eduteams.example:group:umbrella#umbrella.example"],
    "eduperson_assurance": ["https://refeds.org/assurance", "https://refeds.org/assurance/IAP/medium"],
}  # fmt: skip


def test_a_proxys_claims_become_a_profile() -> None:
    assert profile_of(EDUTEAMS) == Profile(
        name="Jana Nováková",
        email="jana@facility.example",
        email_verified=True,
        voperson_id="7be41f09c2d84a6f9d3e5a1b0c72e468@umbrella.example",
        organisation="facility.example",
        orcid="https://orcid.org/0000-0002-1825-0097",
        assurance=("https://refeds.org/assurance", "https://refeds.org/assurance/IAP/medium"),
        affiliations=("member@eduteams.example", "faculty@facility.example", "member@facility.example"),
        entitlements=("urn:geant:eduteams.example:group:umbrella#umbrella.example",),
    )


def test_nothing_is_a_profile_too() -> None:
    assert profile_of({}) == Profile()


def test_one_text_and_a_list_of_one_mean_the_same() -> None:
    alone = {
        "eduperson_assurance": "https://refeds.org/assurance",
        "voperson_id": "one@x.example",
        "email": "a@b.example",
    }
    assert profile_of(alone) == profile_of({name: [value] for name, value in alone.items()})


def test_entitlements_of_all_three_names_are_joined() -> None:
    claims = {"eduperson_entitlement": "urn:a", "entitlements": ["urn:b", "urn:a"], "entitlement": ["urn:c"]}
    assert profile_of(claims).entitlements == ("urn:a", "urn:b", "urn:c")


def test_a_flood_of_entitlements_is_cut() -> None:
    flood = [f"urn:x:{number}" for number in range(5000)]
    assert len(profile_of({"entitlements": flood, "entitlement": flood}).entitlements) == MOST_VALUES


@pytest.mark.parametrize("value", [["a", "b"], [], None, 7, ["x" * 256], {"a": 1}])
def test_not_exactly_one_voperson_id_is_none(value: Any) -> None:
    assert profile_of({"voperson_id": value}).voperson_id == ""


@pytest.mark.parametrize(
    ("value", "verified"),
    [(True, True), ("true", False), (1, False), ("yes", False), (False, False), (None, False)],
)
def test_an_e_mail_is_verified_only_by_true(value: Any, verified: bool) -> None:
    assert profile_of({"email": "a@b.example", "email_verified": value}).email_verified is verified


def test_an_e_mail_may_be_verified_by_name() -> None:
    claims = {"email": "a@b.example", "voperson_verified_email": ["a@b.example"]}
    assert profile_of(claims).email_verified


@pytest.mark.parametrize("value", ["no address", "a@b.example\nBcc: x", "@", 5, None, "x" * 300 + "@b.example"])
def test_what_is_no_e_mail_is_left_out(value: Any) -> None:
    profile = profile_of({"email": value, "email_verified": True})
    assert (profile.email, profile.email_verified) == ("", False)


@pytest.mark.parametrize(
    ("given_name", "kept"),
    [
        ("e\u0301va", "éva"),
        ("  Jana\t\n Nováková ", "Jana Nováková"),
        ("a\x00b\x1bc", "abc"),
        ("\ud800x", "x"),
        ("محمد", "محمد"),
        ("👩‍🔬 Marie", "👩‍🔬 Marie"),
        ("x" * 500, "x" * 200),
        (None, ""),
        (["list"], ""),
        ("a\u0378b\U000f0000c", "abc"),
        ("\x00" * 300 + "late", "late"),
        ("\x00" * 800 + "too late", ""),
    ],
)
def test_names_are_made_fit_to_show(given_name: Any, kept: str) -> None:
    assert clean(given_name) == kept


def test_a_name_is_put_together_when_it_has_to_be() -> None:
    assert profile_of({"given_name": "Jana", "family_name": "Nováková"}).name == "Jana Nováková"


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("X-1001", "X-1001"),
        (["X-1001"], "X-1001"),
        (["X-1001", "X-1002"], ""),
        (7, ""),
        ("", ""),
        ("x" * 101, ""),
        ("a\x00", ""),
    ],
)
def test_a_persons_id_is_one_plain_text(value: Any, found: str) -> None:
    assert person_id({"facility_person_id": value}, "facility_person_id") == found


# ---- one table for each provider ----
def test_a_provider_may_call_things_otherwise() -> None:
    table = {"name": ("displayName", "cn"), "verified_emails": ("mail_ok",), "entitlements": ("realm_access.groups",)}
    said = {
        "cn": "Jana N.", "name": "not asked", "email": "a@b.example", "mail_ok": "a@b.example",
        "entitlements": ["urn:a"], "realm_access": {"groups": ["urn:b"]}, "org_domain": "facility.example",
    }  # fmt: skip
    assert profile_of(said, table) == Profile(
        name="Jana N.",
        email="a@b.example",
        email_verified=True,
        organisation="facility.example",
        entitlements=("urn:b",),
    )


@pytest.mark.parametrize("field", TABLE)
def test_each_line_of_the_table_counts(field: str) -> None:
    """What is said under another name is read when the table names it, and else is not."""
    address, word = "a@b.example", "word"
    values = {"email": address, "verified_emails": [address], "email_verified": True}
    said = {"email": address} | {f"x-{field}": values.get(field, word)}
    if field == "email":
        del said["email"]
    assert profile_of(said, {field: (f"x-{field}",)}) != profile_of(said)


@pytest.mark.parametrize(
    ("said", "organisation"),
    [
        ({"org_domain": "a.example", "schac_home_organization": "b.example"}, "a.example"),
        ({"org_domain": "", "schac_home_organization": "b.example"}, "b.example"),
        ({"org_domain": "\x00", "schac_home_organization": ["b.example", "c.example"]}, "b.example"),
        ({"org_domain": [], "schac_home_organization": [7]}, ""),
    ],
)
def test_the_first_claim_with_something_in_it_counts(said: dict[str, Any], organisation: str) -> None:
    assert profile_of(said).organisation == organisation


def test_an_organisation_is_not_endless() -> None:
    assert profile_of({"org_domain": "x" * 300}).organisation == "x" * 200


@pytest.mark.parametrize(("length", "kept"), [(254, True), (255, False)])
def test_an_e_mail_is_not_endless(length: int, kept: bool) -> None:
    address = "x" * (length - len("@b.example")) + "@b.example"
    assert bool(profile_of({"email": address}).email) is kept


@pytest.mark.parametrize("other", ["eduperson_orcid", "orcid"])
def test_an_orcid_comes_under_two_names_and_is_short(other: str) -> None:
    assert profile_of({other: "0" * 100}).orcid == "0" * 64


def test_a_name_with_control_characters_loses_them_alone() -> None:
    assert profile_of({"name": ["Jana\x00 Nov\u0007áková", "other"]}).name == "Jana Nováková"


@pytest.mark.parametrize(
    ("acr", "kept"), [(MFA, MFA), ([MFA], MFA), ([MFA, "other"], ""), ({}, ""), ("x" * 256, ""), ("x" * 255, "x" * 255)]
)
def test_how_somebody_signed_in_is_one_word(acr: Any, kept: str) -> None:
    assert profile_of({"acr": acr}).acr == kept
    assert MFA == "https://refeds.org/profile/mfa"


def test_a_missing_voperson_id_is_nothing_to_tell_of() -> None:
    with structlog.testing.capture_logs() as told:
        profile_of({})
        assert told == []
        profile_of({"voperson_id": ["a", "b"]})
    (row,) = told
    assert (row["event"], row["field"], row["values"]) == ("claim without exactly one value", "voperson_id", 2)


def test_a_flood_is_told_of() -> None:
    with structlog.testing.capture_logs() as told:
        as_list(["x"] * MOST_VALUES)
        assert told == []
        assert len(as_list(["x"] * (MOST_VALUES + 1))) == MOST_VALUES
    (row,) = told
    assert (row["event"], row["values"], MOST_VALUES) == ("claim cut short", 1001, 1000)


@pytest.mark.parametrize(("length", "kept"), [(2048, 1), (2049, 0)])
def test_a_value_has_two_thousand_characters_at_most(length: int, kept: int) -> None:
    assert len(as_list("x" * length)) == kept


@pytest.mark.parametrize("value", ["a\x00", "a\x1f", "a\x85", "a\ud800", ""])
def test_a_value_is_plain_text(value: str) -> None:
    assert as_list([value, "b"]) == ["b"]


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"a": {"b": {"c": 1}}}, 1),
        ({"a.b.c": 2, "a": {"b": {"c": 1}}}, 2),
        ({"a": {"b": [1]}}, None),
        ({"a": "b"}, None),
        ({"a": {"b.c": 1}}, None),
        ({}, None),
    ],
)
def test_a_dot_leads_into_a_claim(said: dict[str, Any], found: object) -> None:
    assert at(said, "a.b.c") == found
    assert values_of({"a": {"b": "x"}}, "a.b") == ["x"]


@pytest.mark.parametrize(
    ("words", "level"),
    [
        ([], ""),
        (["/IAP/low"], "low"),
        (["/IAP/medium", "/IAP/low"], "medium"),
        (["/profile/cappuccino"], "medium"),
        (["/IAP/low", "/IAP/high"], "high"),
        (["/profile/espresso", "/profile/cappuccino"], "high"),
        (["/IAP/none", "", "/ID/unique", "/version/2"], ""),
    ],
)
def test_how_well_somebody_is_known(words: list[str], level: str) -> None:
    profile = profile_of({"eduperson_assurance": [f"https://refeds.org/assurance{word}" for word in words]})
    assert assured(profile) == LEVELS[level]
    assert LEVELS == {"": 0, "low": 1, "medium": 2, "high": 3}


@pytest.mark.parametrize("value", [True, "yes"])
def test_only_true_itself_verifies(value: Any) -> None:
    said = {"email": "a@b.example", "mail_verified": value}
    assert profile_of(said, {"email_verified": ("mail_verified",)}).email_verified is (value is True)


@pytest.mark.parametrize(("length", "kept"), [(100, True), (101, False)])
def test_a_persons_id_is_short(length: int, kept: bool) -> None:
    assert bool(person_id({"id": "x" * length}, "id")) is kept


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*EDUTEAMS, "given_name", "acr", "entitlement", "org_domain"]), JSON))
def test_no_shape_raises_and_everything_can_be_stored(claims: dict[str, Any]) -> None:
    profile = profile_of(claims)
    for text in (profile.name, profile.email, profile.voperson_id, profile.organisation, profile.orcid, profile.acr,
                 *profile.assurance, *profile.affiliations, *profile.entitlements):  # fmt: skip
        text.encode()
        assert "\x00" not in text
    assert len(profile.name) <= 200
    assert as_list(claims.get("name")) is not None
