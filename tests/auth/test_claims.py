"""Claims come in every shape; a profile comes out, or less of one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth.claims import MOST_VALUES, Profile, as_list, clean, person_id, profile_of

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
