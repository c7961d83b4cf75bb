"""DOIs and Handles in every dress that people, search portals and PDFs give them."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from experiments.pids import LONGEST, LONGEST_TEXT, Kind, parse_pid, pid_url

DOI = "10.22003/XFEL.EU-DATA-700000-00"
LOWER = "10.22003/xfel.eu-data-700000-00"
SICI = "10.1002/(SICI)1099-1409(199908/10)3:6/7<672::AID-JPP192>3.0.CO;2-8"
SICI_HASH = "10.1002/(SICI)1096-8644(199605)100:1<1::AID-AJPA1>3.0.CO;2-#"

DRESSES = [
    "{}",
    "doi:{}",
    "DOI: {}",
    "DOI:\t{}",
    "doi {}",
    "http://doi.org/{}",
    "https://doi.org/{}",
    "HTTPS://DOI.ORG/{}",
    "https://dx.doi.org/{}",
    "https://www.doi.org/{}",
    "https:/doi.org/{}",  # a proxy that merges slashes
    "doi.org/{}",
    "info:doi/{}",
    "urn:doi:{}",
    "  {} ",
    "\n{}\r\n",
    "<{}>",
    "({})",
    "[{}]",
    '"{}"',
    "'{}'",
    "“{}”",
    "<https://doi.org/{}>",
    "(doi:{}).",
    "{}.",
    "{},",
    "{};",
    "{}:",
    "{}!",
    "{})",
    "{}]",
    "{}}}",
    "{}>",
    "{}?page=2",
    "{}#abstract",
    "{} and more text",
    "{}\nnext line",
    "{};jsessionid=8D2F",
    "https://in.xfel.eu/metadata/doi/{}",
    "https://data.facility.example:8443/landing/{}?tab=files#top",
    "https://search.example/?q=1&doi={}&page=2",
    "data.facility.example/doi/{}",
    "\ufeff{}",
    "\u200b{}\u200b",
]


@pytest.mark.parametrize("dress", DRESSES)
@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_every_dress_leads_to_the_same_doi(dress: str, rounds: int) -> None:
    text = dress.format(DOI)
    for _ in range(rounds):
        text = quote(text, safe="")
    pid = parse_pid(text)
    assert pid is not None
    assert pid.kind is Kind.DOI
    assert pid.canonical == LOWER
    assert pid.display == DOI


@pytest.mark.parametrize("text", [f"https://doi.org/{quote(DOI, safe='')}", DOI.replace("/", "%252F")])
def test_a_slash_may_be_escaped_with_or_without_host(text: str) -> None:
    pid = parse_pid(text)
    assert pid is not None
    assert pid.canonical == LOWER


@pytest.mark.parametrize("doi", [SICI, SICI_HASH])
@pytest.mark.parametrize("dress", ["{}", "https://doi.org/{}", "({})", "<{}>", "{}.", "{};jsessionid=1", "doi:{} x"])
def test_a_sici_stays_whole(doi: str, dress: str) -> None:
    pid = parse_pid(dress.format(doi))
    assert pid is not None
    assert pid.display == doi


@pytest.mark.parametrize(
    ("text", "display"),
    [
        ("10.1000/ab(c)", "10.1000/ab(c)"),
        ("(10.1000/ab(c))", "10.1000/ab(c)"),
        ("[10.1000/a[b]]", "10.1000/a[b]"),
        ("{10.1000/a{b}}", "10.1000/a{b}"),
        ("<10.1000/a<b>>", "10.1000/a<b>"),
        ("((10.1000/a))", "10.1000/a"),
        ("10.1000/abX", "10.1000/abX"),
        ("10.1000/a&b", "10.1000/a&b"),
        ("10.1000/a(b)c).", "10.1000/a(b)c"),
        ("10.1000.10.2/x", "10.1000.10.2/x"),
        ("10.1000/100%", "10.1000/100%"),
        ("10.1000/a/b/c", "10.1000/a/b/c"),
        ("１０.1000/ａ", "10.1000/a"),  # full width: NFKC
        ("10.1000/ÄÖ", "10.1000/ÄÖ"),
    ],
)
def test_odd_but_right(text: str, display: str) -> None:
    pid = parse_pid(text)
    assert pid is not None
    assert pid.display == display


def test_only_ascii_letters_are_lowered() -> None:
    pid = parse_pid("10.1000/ÄB")
    assert pid is not None
    assert pid.canonical == "10.1000/Äb"


@pytest.mark.parametrize(
    ("text", "fallbacks"),
    [
        ("10.1000/a,b", ("10.1000/a",)),
        ("10.1000/a,b,c", ("10.1000/a,b", "10.1000/a")),
        ("10.1000/a\u2013b", ("10.1000/a-b",)),
        ("10.1000/a\u2212b,c", ("10.1000/a-b,c", "10.1000/a\u2212b", "10.1000/a-b")),
        ("10.1000/a/", ("10.1000/a",)),
        ("10.1000/a", ()),
    ],
)
def test_fallbacks_come_after_the_exact_form(text: str, fallbacks: tuple[str, ...]) -> None:
    pid = parse_pid(text)
    assert pid is not None
    assert pid.canonical == text
    assert pid.fallbacks == fallbacks


def test_what_is_compared_comes_in_order() -> None:
    pid = parse_pid("10.1000/a,b,c")
    assert pid is not None
    assert pid.candidates == ("10.1000/a,b,c", "10.1000/a,b", "10.1000/a")
    assert {kind.name: kind.value for kind in Kind} == {"DOI": "doi", "HANDLE": "handle"}


@pytest.mark.parametrize(
    ("text", "fallbacks"),
    [
        ("10.1000/aX/", ("10.1000/ax",)),
        ("10.1000/a\u2013X/", ("10.1000/a-x/", "10.1000/a\u2013x", "10.1000/a-x")),
    ],
)
def test_a_slash_at_the_end_is_all_that_goes_with_it(text: str, fallbacks: tuple[str, ...]) -> None:
    pid = parse_pid(text)
    assert pid is not None
    assert pid.fallbacks == fallbacks


def test_the_longest_that_is_read() -> None:
    assert (LONGEST_TEXT, LONGEST) == (16_384, 2048)
    longest = "10.1000/" + "a" * (LONGEST - len("10.1000/"))
    assert parse_pid(longest) is not None
    assert parse_pid(longest + "a") is None
    padded = "10.1000/a" + " " * (LONGEST_TEXT - len("10.1000/a"))
    assert parse_pid(padded) is not None
    assert parse_pid(padded + " ") is None


@pytest.mark.parametrize(
    "text",
    [
        "20.500.12345/Ab-1",
        "hdl:20.500.12345/Ab-1",
        "https://hdl.handle.net/20.500.12345/Ab-1.",
        "info:hdl/20.500.12345/Ab-1",
    ],
)
def test_a_handle_is_no_doi(text: str) -> None:
    pid = parse_pid(text)
    assert pid is not None
    assert pid.kind is Kind.HANDLE
    assert pid.canonical == "20.500.12345/ab-1"
    assert pid.url == "https://hdl.handle.net/20.500.12345/Ab-1"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "abc",
        "700000",
        "lysozyme 10 keV",
        "10.1000",
        "10.1000/",
        "10.1000/ x",
        "compare:10.1000/a",
        "10.1000/...",
        "10.12/too-short",
        "10.1234567890/too-long",
        "10.1000/a\x00b",
        "10.1000/a\x07b",
        "10.1000/\ud800",
        "10.1000/%ff%fe",
        "https://example.org/1.2/3",
        "https://example.org/",
        "https://",
        "%",
        "%%%",
        "doi:",
        "<>",
        "10.1000/" + "a" * LONGEST,
        "1" * 100_000,
        quote(quote(quote("10.1000/a b#", safe=""), safe=""), safe=""),
        None,
        700000,
        b"10.1000/a",
    ],
)
def test_no_identifier(text: object) -> None:
    assert parse_pid(text) is None


def test_the_resolvers_address_escapes_what_a_url_must_not_hold() -> None:
    assert pid_url(SICI) == ("https://doi.org/10.1002/(SICI)1099-1409(199908/10)3:6/7%3C672::AID-JPP192%3E3.0.CO;2-8")
    assert '"' not in pid_url('10.1000/a"b')


SUFFIX = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Z"], exclude_characters="%"), min_size=1)


@given(st.text(max_size=300))
@example("10.1000/a;b>3.0.CO;2-8x")
@example("doi:doi: <10.1000/a>>")
@example("10.1000/%％41")
def test_reading_any_text_is_idempotent_and_never_raises(text: str) -> None:
    for candidate in (text, f"10.1000/{text}", f"https://a.example/x?doi=10.1000/{text}"):
        pid = parse_pid(candidate)
        if pid is None:
            continue
        again = parse_pid(pid.canonical)
        assert again is not None
        assert again.canonical == pid.canonical
        assert again.kind is pid.kind
        for form in pid.fallbacks:
            assert (parse_pid(form) or pid).canonical == form


@given(SUFFIX)
def test_ascii_case_and_quoting_play_no_part(suffix: str) -> None:
    text = f"10.1000/{suffix}"
    pid = parse_pid(text)
    swapped = "".join(c.swapcase() if c.isascii() else c for c in text)
    for other in (swapped, quote(text, safe=""), quote(quote(text, safe=""), safe="")):
        read = parse_pid(other)
        assert (read and read.canonical) == (pid and pid.canonical)


@pytest.mark.parametrize(
    "filler",
    [
        "(",
        ")",
        "<",
        ",",
        ".",
        "10.1111",
        "/10.1111.",
        "doi:",
        "doi ",
        "%25",
        "a.",
        ";2-",
        ">3.0.co;2-",
        "-",
        "&10.1000",
    ],
)
def test_no_text_makes_reading_slow(filler: str) -> None:
    """The longest text that is looked at, made of what a backtracking pattern trips over (the suite's timeout cuts)."""
    for start in ("", "https://a.example/?", "10.1000/"):
        for _ in range(20):
            parse_pid((start + filler * 16_000)[:16_000])
