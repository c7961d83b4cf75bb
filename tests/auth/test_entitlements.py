"""Group entitlements are read strictly: what is not exactly of the shape of AARC-G069 is no membership."""

from __future__ import annotations

import unicodedata
from urllib.parse import quote

import pytest
from aarc_entitlement import G069
from hypothesis import given, settings
from hypothesis import strategies as st

from auth.entitlements import LONGEST, Entitlement, lies_within, parse, parse_all, path_of

UMBRELLA = "urn:geant:eduteams.org:service:umbrellaid.org"
PLAIN = "urn:geant:login.example:group:beam:night#login.example"


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (
            f"{UMBRELLA}:group:umbrellaid#umbrellaid.org",
            Entitlement(UMBRELLA, ("umbrellaid",), "", "umbrellaid.org"),
        ),
        (
            f"{UMBRELLA}:group:umbrellaid:eosc-future:wp6#umbrellaid.org",
            Entitlement(UMBRELLA, ("umbrellaid", "eosc-future", "wp6"), "", "umbrellaid.org"),
        ),
        (
            "urn:mace:egi.eu:group:vo.example.eu:sub:role=member#aai.egi.eu",
            Entitlement("urn:mace:egi.eu", ("vo.example.eu", "sub"), "member", "aai.egi.eu"),
        ),
        (
            "urn:geant:h-df.de:group:HDF:beam%20time#login.helmholtz.de",
            Entitlement("urn:geant:h-df.de", ("HDF", "beam time"), "", "login.helmholtz.de"),
        ),
        ("urn:geant:x.example:group:one", Entitlement("urn:geant:x.example", ("one",), "", "")),
        # the first word `group` ends the namespace: who names subgroups cannot move them into another one
        ("urn:geant:x.example:group:a:group:b", Entitlement("urn:geant:x.example", ("a", "group", "b"), "", "")),
        ("urn:geant:group:group:a", Entitlement("urn:geant:group", ("a",), "", "")),
        ("urn:group:x.example:group:a", Entitlement("urn:group:x.example", ("a",), "", "")),
        ("urn:geant:x.example:group:a#host:443", Entitlement("urn:geant:x.example", ("a",), "", "host:443")),
        ("urn:geant:x.example:group:Role=a", Entitlement("urn:geant:x.example", ("Role=a",), "", "")),
    ],
)
def test_memberships_are_read(text: str, read: Entitlement) -> None:
    assert parse(text) == read


@pytest.mark.parametrize(
    ("sent", "group"),
    [
        ("%C3%A9t%C3%A9", "été"),
        ("e%CC%81t%C3%A9", "été"),
        ("a%3Ab", "a:b"),
        ("a%23b", "a#b"),
        ("role%3Dpi", "role=pi"),
        ("a%252Fb", "a%2Fb"),
        ("a%25b", "a%b"),
    ],
)
def test_groups_and_roles_are_decoded_once_and_normalised(sent: str, group: str) -> None:
    assert parse(f"urn:geant:x.example:group:{sent}") == Entitlement("urn:geant:x.example", (group,))
    with_role = parse(f"urn:geant:x.example:group:g:role={sent}")
    assert with_role is not None
    assert with_role.role == group


def test_namespace_and_authority_are_left_as_they_were_sent() -> None:
    said = parse("urn:GEANT:x%2Eexample:group:a#Login%2Eexample")
    assert said == Entitlement("urn:GEANT:x%2Eexample", ("a",), "", "Login%2Eexample")


@pytest.mark.parametrize(
    "text",
    [
        "", "urn", "urn:", "group:a", "umbrellaid", "https://x.example/group/a",
        "URN:geant:x.example:group:a", "Urn:geant:x.example:group:a", " urn:geant:x.example:group:a",
        "urn:geant:x.example:group:a ", "urn:geant:x.example:group:a\n", "urn:geant:x.example:Group:a",
        "urn:geant:x.example:groups:a", "urn:geant:x.example:group", "urn:geant:x.example:group:",
        "urn:geant:x.example:group::a", "urn:geant:x.example:group:a:", "urn::x.example:group:a", "urn:geant::group:a",
        "urn:geant:group:a", "urn:group:a", "urn:geant:x.example::group:a",
        # capabilities and other URNs
        "urn:mace:egi.eu:res:rcauth#aai.egi.eu", "urn:mace:egi.eu:goc.egi.eu:1:SITE:Site+Admin@egi.eu",
        # a role is one, named, and the last
        "urn:geant:x.example:group:a:role=pi:role=admin#x", "urn:geant:x.example:group:a:role=pi:role=pi#x",
        "urn:geant:x.example:group:a:role=pi:b#x", "urn:geant:x.example:group:a:role=#x",
        "urn:geant:x.example:group:role=pi#x", "urn:geant:x.example:group:role=pi:a#x",
        # authority: none, or one that is something
        "urn:geant:x.example:group:a#", "urn:geant:x.example:group:a#x#y", "urn:geant:x.example:group:a##x",
        "urn:geant:x.example:group:a#x:", "#urn:geant:x.example:group:a", "urn:geant:x.example#y:group:a",
        # what no URN has in it
        "urn:geant:x.example:group:a b", "urn:geant:x.example:group:\u00e9", "urn:geant:x.example:group:a\x00",
        "urn:geant:x.example:group:a\x7f", "urn:geant:x.example:group:a?=q", "urn:geant:x.example:group:a\\b",
        "urn:geant:x.example:group:%", "urn:geant:x.example:group:%4", "urn:geant:x.example:group:%zz",
        "urn:geant:x.example:group:a#\u00e9", "urn:geant:x.ex\u0430mple:group:a", "urn:geant:x.example:group:\ud800",
        "urn:geant:x.example:group:<b>", 'urn:geant:x.example:group:"a"', "urn:geant:x.example:group:a|b",
        # and what must not come out of it
        "urn:geant:x.example:group:%FF", "urn:geant:x.example:group:%C3", "urn:geant:x.example:group:%00",
        "urn:geant:x.example:group:a%0Ab", "urn:geant:x.example:group:%C2%85", "urn:geant:x.example:group:%ED%A0%80",
        "urn:geant:x.example:group:a:role=%0D%0A", "urn:geant:x.example:group:a:role=%FF",
    ],
)  # fmt: skip
def test_anything_else_is_none(text: str) -> None:
    assert parse(text) is None


def test_two_kibibytes_are_the_most() -> None:
    start = "urn:geant:x.example:group:"
    longest = start + "a" * (LONGEST - len(start))
    assert LONGEST == 2048
    assert parse(longest) is not None
    assert parse(longest + "a") is None


def test_only_memberships_are_left_of_many() -> None:
    assert list(parse_all(["urn:x:y:group:a", "nonsense", "urn:x:y:res:b", "urn:x:y:group:a:b"])) == [
        "urn:x:y:group:a",
        "urn:x:y:group:a:b",
    ]


@pytest.mark.parametrize(
    ("fence", "inside"),
    [
        ("urn:geant:x.example", True),
        ("urn:geant:x.example:one", True),
        ("urn:geant:x.example:one:two", False),
        ("urn:geant", True),
        ("urn:geant:x.exam", False),
        ("urn:geant:x.example:on", False),
        ("urn:geant:X.example", False),
        ("geant:x.example", False),
        ("x.example", False),
        ("urn:geant:x.example:", False),
        ("", False),
    ],
)
def test_a_namespace_lies_within_whole_components_only(fence: str, inside: bool) -> None:
    assert lies_within("urn:geant:x.example:one", [fence]) is inside
    assert lies_within("urn:geant:x.example:one", ["urn:other:y", fence]) is inside


def test_nothing_lies_within_no_fence() -> None:
    assert not lies_within("urn:geant:x.example", [])


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("a:b", ("a", "b")),
        ("beam%20time", ("beam time",)),
        ("", None),
        ("a::b", None),
        ("a b", None),
        ("a:%00", None),
        ("a:%FF", None),
    ],
)
def test_a_rules_path_is_written_as_in_an_entitlement(text: str, path: tuple[str, ...] | None) -> None:
    assert path_of(text) == path


@given(st.text(max_size=30) | st.from_regex(r"urn:[a-z]+:[a-z.]+(:[^:]*)*:group(:[^#]*)*(#.*)?"))
def test_nothing_raises_and_what_is_read_is_clean(text: str) -> None:
    said = parse(text)
    if said is not None:
        for part in (*said.path, said.role):
            assert part == unicodedata.normalize("NFC", part)
            assert part.isprintable() or not any(unicodedata.category(one) == "Cc" for one in part)
        assert text.startswith(f"{said.namespace}:group:")


WORDS = st.text("abcABC01-._~", min_size=1, max_size=6)
NAMES = st.text("abcé 漢%:#=/", min_size=1, max_size=6).map(lambda name: quote(name, safe=""))


@settings(max_examples=50)
@given(WORDS, st.lists(WORDS, min_size=1, max_size=3), st.lists(NAMES, min_size=1, max_size=3), WORDS, WORDS)
def test_another_reader_reads_the_same(
    nid: str, namespaces: list[str], groups: list[str], role: str, authority: str
) -> None:
    """KIT's aarc-entitlement, which leaves letters of the namespace small and percent-encoding as it is."""
    text = f"urn:{nid}:{':'.join(namespaces)}:group:{':'.join(groups)}:role={role}#{authority}"
    said, theirs = parse(text), G069(text)
    assert said is not None
    namespace = ("urn", theirs.namespace_id, theirs.delegated_namespace, *theirs.subnamespaces)
    assert said.namespace.lower() == ":".join(namespace)
    assert said.path == path_of(":".join((theirs.group, *theirs.subgroups)))
    assert ((said.role,), said.authority) == (path_of(theirs.role), theirs.group_authority)
