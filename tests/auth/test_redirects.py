"""`safe_next` never leads to another site, and keeps what it lets through."""

from __future__ import annotations

from urllib.parse import quote, unquote, urljoin, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from auth.redirects import LONGEST, safe_next

HERE = "http://localhost:8000"

EVIL = [
    "https://evil.example", "//evil.example", "///evil.example", "////evil.example", "/\\evil.example",
    "\\\\evil.example", "/\t/evil.example", "/\n/evil.example", "\t//evil.example", " //evil.example",
    "javascript:alert(1)", "data:text/html,x", "http:evil.example", "http:///evil.example", "evil.example",
    "/%2f/evil.example", "/%2Fevil.example", "/%5Cevil.example", "%2F%2Fevil.example", "/\x00", "/\x7f", "/\u2028x",
    "//user:pw@evil.example", "/\u2215/evil\\", "／／evil.example", "/／evil.example", "/" + "x" * LONGEST, "", None,
    "?next=1", "#x", "/\ud800", "//[::1", "/\r\nSet-Cookie: a=b",
]  # fmt: skip

FINE = [
    "/", "/instances", "/doi/10.22003/XFEL.EU-DATA-700000-00",
    "/doi/10.1002/(SICI)1521-3951(199911)216:1%3C135::AID-PSSB135%3E3.0.CO;2-%23",
    "/instances/new?dois=10.22003%2FXFEL.EU-DATA-700000-00,10.5291%2FILL-DATA.1&plan=3#start",
    "/doi/10.1000/a%2Fb%23c%3Fd%25e", "/enter/abc?n=0a&to=%2Flab%2Ftree%2FWelcome.ipynb", "/a//b", "/a?u=https://x.example",
]  # fmt: skip


@pytest.mark.parametrize("wanted", EVIL)
def test_what_might_lead_elsewhere_falls_back_to_the_home_page(wanted: str | None) -> None:
    assert safe_next(wanted) == "/"


@pytest.mark.parametrize("wanted", FINE)
def test_paths_of_this_portal_come_back_whole(wanted: str) -> None:
    assert safe_next(wanted) == wanted


def test_other_alphabets_are_encoded_not_lost() -> None:
    assert safe_next("/search?q=Röntgen") == "/search?q=R%C3%B6ntgen"


PIECES = st.sampled_from(
    [
        "/",
        "\\",
        "//",
        "%2f",
        "%5c",
        "@",
        ":",
        "evil.example",
        ".",
        "..",
        "\t",
        "\n",
        " ",
        "?",
        "#",
        ";",
        "http:",
        "／",
        "\x00",
    ]
)


@given(st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=8).map("".join).map(lambda text: "/" + text)))
@example("/%09/evil.example")
@example("/..//evil.example")
@example("/;//evil.example")
def test_whatever_comes_in_the_result_is_a_path_of_this_origin(wanted: str) -> None:
    result = safe_next(wanted)
    assert result.isascii()
    assert result.isprintable()
    assert "\\" not in result
    for reading in (result, unquote(result)):
        assert reading.startswith("/")
        assert not reading.startswith(("//", "/\\"))
    assert urlsplit(urljoin(HERE + "/auth/", result)).netloc == urlsplit(HERE).netloc
    assert safe_next(result) == result


@given(st.text(alphabet=st.characters(codec="ascii", categories=["L", "N", "P", "S"]), min_size=1, max_size=80))
def test_every_doi_survives_when_encoded(suffix: str) -> None:
    wanted = "/doi/10.1000/" + quote(suffix, safe="")
    assert safe_next(wanted) == wanted
