"""The file of providers: what it says is taken, and what is wrong with it is told with its line, all at once."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from auth import providers, providers_file
from auth.claims import TABLE
from auth.providers_file import BadProviders, read

EXAMPLES = sorted((Path(__file__).resolve().parent.parent.parent / "deploy" / "providers").glob("*.toml"))
GOOD = """
[sso]
title = "Facility account"
issuer = "https://login.example/realms/users"
client_id = "beamport"
client_secret_file = "secret"
"""

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Lays the file beside a good secret and a good logo."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    lay_secret(tmp_path / "secret")
    (tmp_path / "logo.svg").write_bytes(b"<svg/>")

    def writing(text: str) -> Path:
        path = tmp_path / "providers.toml"
        path.write_text(text)
        return path

    return writing


def lay_secret(path: Path, text: str = "a secret: with/odd characters%\n", mode: int = 0o640) -> None:
    path.write_text(text)
    path.chmod(mode)


def faults(path: Path, *, demo: bool = False) -> list[str]:
    with pytest.raises(BadProviders) as refused:
        read(path, demo=demo)
    assert str(refused.value) == "\n".join(refused.value.faults)
    return [fault.removeprefix(f"{path}") for fault in refused.value.faults]


def test_the_least_that_a_provider_needs(write: Write) -> None:
    assert read(write(GOOD)) == {
        "sso": {
            "title": "Facility account",
            "issuer": "https://login.example/realms/users",
            "client_id": "beamport",
            "client_secret": "a secret: with/odd characters%",
        }
    }


def test_everything_that_may_be_said(write: Write) -> None:
    more = """
    description = "For staff"
    logo = "logo.svg"
    scopes = ["openid", "profile"]
    algorithms = ["ES256"]
    extra_audiences = ["archive"]
    asserts_scopes = ["example.org", "urn:geant:example.org"]
    endpoint_hosts = ["SSO.example"]
    private_networks = ["10.1.0.0/16", "fd00::/8"]
    pkce = "require"
    monitoring_subjects = ["probe@example.org"]
    required_assurance = "medium"
    required_acr = ["https://refeds.org/profile/mfa"]
    end_session = false
    keeps_id_token = true
    [sso.facility_claims]
    office_id = "xfel"
    [sso.claims]
    name = ["displayName"]
    [sso.posix_claims.xfel]
    uid = "uidNumber"
    gid = "gidNumber"
    groups = "gidNumbers"
    home = "homeDirectory"
    [sso.policy_agreements]
    "https://aai.example/aup/1" = "1.0"
    """
    said = read(write(GOOD + more))["sso"]
    assert (
        said.items()
        >= {
            "description": "For staff",
            "logo": "data:image/svg+xml;base64,PHN2Zy8+",
            "scopes": ("openid", "profile"),
            "algorithms": frozenset({"ES256"}),
            "extra_audiences": frozenset({"archive"}),
            "asserts_scopes": frozenset({"example.org", "urn:geant:example.org"}),
            "endpoint_hosts": frozenset({"sso.example"}),
            "private_networks": (ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd00::/8")),
            "pkce": "require",
            "monitoring_subjects": frozenset({"probe@example.org"}),
            "required_assurance": "medium",
            "required_acr": ("https://refeds.org/profile/mfa",),
            "end_session": False,
            "keeps_id_token": True,
            "facility_claims": {"office_id": "xfel"},
            "claims": {"name": ("displayName",)},
            "posix_claims": {
                "xfel": {"uid": "uidNumber", "gid": "gidNumber", "groups": "gidNumbers", "home": "homeDirectory"}
            },
            "policy_agreements": {"https://aai.example/aup/1": "1.0"},
        }.items()
    )
    assert providers.Provider(slug="sso", **said).pkce == "require"


def test_the_least_and_the_most_of_tables_within(write: Write) -> None:
    """A name for each claim that we read; of POSIX uid and gid alone."""
    claims = "".join(f'{name} = ["x-{name}"]\n' for name in TABLE)
    posix = '[sso.posix_claims.xfel]\nuid = "uidNumber"\ngid = "gidNumber"\n'
    said = read(write(f"{GOOD}[sso.claims]\n{claims}{posix}"))["sso"]
    assert said["claims"] == {name: (f"x-{name}",) for name in TABLE}
    assert said["posix_claims"] == {"xfel": {"uid": "uidNumber", "gid": "gidNumber"}}


NO_LIST = 'must be a list of texts, like ["one", "two"].'
NO_ADDRESS = "must be an address without user, query and fragment, as the discovery document has it."
NO_ALGORITHMS = "must be a list of: ES256, ES384, ES512, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512."
NO_AGREEMENTS = 'must be a table of "address of the policy" = "version of the rules of use".'
NO_POSIX = 'must be a table of facilities, each { uid = "claim", gid = "claim" }; also groups and home.'
NO_CLAIMS = f"must be a table of these, each with names of claims: {', '.join(TABLE)}."
#: a line, and what is said of it
WRONG = [
    ('title = ""', "must be a text of one line and 1 to 60 characters."),
    (f'title = "{"x" * 61}"', "must be a text of one line and 1 to 60 characters."),
    ('title = "two\\nlines"', "must be a text of one line and 1 to 60 characters."),
    ("title = 7", "must be a text of one line and 1 to 60 characters."),
    (f'description = "{"x" * 301}"', "must be a text of one line and 1 to 300 characters."),
    (
        'issuer = "http://login.example"',
        "must begin with https://. Copy it from the provider's discovery document, byte for byte.",
    ),
    (
        'issuer = "login.example"',
        "must begin with https://. Copy it from the provider's discovery document, byte for byte.",
    ),
    ('issuer = "https://"', NO_ADDRESS),
    ('issuer = "https://a@login.example"', NO_ADDRESS),
    ('issuer = "https://login.example/?a=1"', NO_ADDRESS),
    ('issuer = "https://login.example/#a"', NO_ADDRESS),
    ('issuer = "https://login.example/a b"', NO_ADDRESS),
    ('issuer = "https://lögin.example"', NO_ADDRESS),
    ('issuer = "https://login.example:99999"', "is no address."),
    ('issuer = ["https://login.example"]', "must be a text of one line and 1 to 255 characters."),
    ('client_id = ""', "must be a text of one line and 1 to 255 characters."),
    (
        'client_secret = "in the open"',
        "a secret does not stand in this file. Name a file that holds it: client_secret_file.",
    ),
    ('client_secret_file = "nowhere"', "nowhere, which cannot be read: No such file or directory"),
    ('client_secret_file = ""', "must be a text of one line and 1 to 1000 characters."),
    ('logo = "nowhere.svg"', "nowhere.svg cannot be read: No such file or directory"),
    ('logo = "secret"', "must name a file .svg, .png or .webp of at most 32 KiB."),
    ('scopes = "openid"', NO_LIST),
    ('scopes = ["profile"]', 'must be a list of single scopes with "openid" among them.'),
    ('scopes = ["openid profile", "openid"]', 'must be a list of single scopes with "openid" among them.'),
    ('algorithms = ["HS256"]', NO_ALGORITHMS),
    ('algorithms = ["none"]', NO_ALGORITHMS),
    ("algorithms = []", NO_ALGORITHMS),
    ('algorithms = "RS256"', NO_ALGORITHMS),
    ('extra_audiences = [""]', NO_LIST),
    ("asserts_scopes = [1]", NO_LIST),
    ('endpoint_hosts = ["https://login.example"]', "must be a list of host names, without https:// and path."),
    ('endpoint_hosts = ["login.example:8443"]', "must be a list of host names, without https:// and path."),
    ('private_networks = ["10.1.0.1/16"]', 'must be a list of networks, like ["10.1.0.0/16"].'),
    ('private_networks = "10.1.0.0/16"', NO_LIST),
    ('pkce = "plain"', "must be of: require, send."),
    ("pkce = true", "must be of: require, send."),
    ('monitoring_subjects = "x"', NO_LIST),
    ('required_assurance = "extreme"', "must be of: high, low, medium."),
    ('required_acr = "mfa"', NO_LIST),
    ('end_session = "yes"', "must be true or false."),
    ("keeps_id_token = 1", "must be true or false."),
    ('facility_claims = "xfel"', 'must be a table of claim = "slug of the facility".'),
    ('facility_claims = {office = "No Slug"}', 'must be a table of claim = "slug of the facility".'),
    ("facility_claims = {office = 7}", 'must be a table of claim = "slug of the facility".'),
    ("posix_claims = {office = 7}", NO_POSIX),
    ('posix_claims = "uid"', NO_POSIX),
    ('posix_claims = {xfel = {uid = "uidNumber"}}', NO_POSIX),
    ('posix_claims = {xfel = {uid = "uidNumber", gid = 7}}', NO_POSIX),
    ('posix_claims = {xfel = {uid = "a", gid = "b", shell = "c"}}', NO_POSIX),
    ('posix_claims = {"No Slug" = {uid = "a", gid = "b"}}', NO_POSIX),
    ('claims = {nickname = ["x"]}', NO_CLAIMS),
    ('claims = {name = "displayName"}', NO_LIST),
    ("claims = []", NO_CLAIMS),
    ('policy_agreements = ["https://aai.example/aup/1"]', NO_AGREEMENTS),
    ("policy_agreements = {x = 1}", NO_AGREEMENTS),
    ('isuer = "x"', "no such key. Is issuer meant?"),
    ('colour = "red"', "no such key. There are: algorithms, asserts_scopes, "),
]


@pytest.mark.parametrize(("line", "why"), WRONG, ids=[line[:40] for line, _ in WRONG])
def test_what_is_wrong_is_told_with_its_line(write: Write, line: str, why: str) -> None:
    name = line.partition(" =")[0]
    kept = [known for known in GOOD.strip().splitlines() if not known.startswith(f"{name} =")]
    told = faults(write("# providers\n" + "\n".join([*kept, line])))
    missing = [] if name != "client_secret" else told[1:]
    assert len(told) - len(missing) == 1
    assert told[0].startswith(f", line {len(kept) + 2}, [sso] {name}: ")
    assert told[0].endswith(f": {why}") or (why[-1] != "." and why in told[0])


@pytest.mark.parametrize("name", providers_file.REQUIRED)
def test_what_is_missing_is_told(write: Write, name: str) -> None:
    text = "\n".join(line for line in GOOD.splitlines() if not line.startswith(name + " "))
    assert faults(write(text)) == [f", line 2, [sso]: {name} is missing."]


@pytest.mark.parametrize("slug", ["Sso", "9", "-a", "a_b", '"a b"', "x" * 41, '""'])
def test_a_slug_stands_in_an_address(write: Write, slug: str) -> None:
    told = faults(write(GOOD.replace("[sso]", f"[{slug}]")))
    why = "is no slug: 1 to 40 of a-z, 0-9 and -, a letter first. It stands in the redirect URI."
    assert told == [f", line 2, [{slug.strip(chr(34))}]: {why}"]


@pytest.mark.parametrize(
    "slug",
    ["account", "admin", "api", "link", "logout", "person", "policies", "sessions", "sign-in", "signed-out"],
)
def test_our_own_addresses_are_no_slugs(write: Write, slug: str) -> None:
    told = faults(write(GOOD.replace("[sso]", f"[{slug}]")))
    assert told == [f", line 2, [{slug}]: is taken by the portal itself. Choose another slug."]


def test_lengths_may_be_used_up(write: Write) -> None:
    slug = "x" * 40
    text = GOOD.replace("[sso]", f"[{slug}]").replace("Facility account", "t" * 60).replace("beamport", "c" * 255)
    said = read(write(text + f'description = "{"d" * 300}"'))[slug]
    assert [len(said[name]) for name in ("title", "client_id", "description")] == [60, 255, 300]
    assert providers_file.LARGEST_LOGO == 32_768


def test_the_demos_own_slug_is_taken_in_the_demo_only(write: Write) -> None:
    path = write(GOOD.replace("[sso]", "[demo]"))
    assert list(read(path)) == ["demo"]
    assert "is taken by the portal itself" in faults(path, demo=True)[0]


def test_the_demo_takes_http(write: Write) -> None:
    path = write(GOOD.replace("https:", "http:"))
    assert read(path, demo=True)["sso"]["issuer"].startswith("http://")
    assert "must begin with https://. Copy it from the provider's discovery document, byte for byte." in faults(path)[0]


def test_every_fault_is_told_at_once_with_its_own_line(write: Write) -> None:
    second = GOOD.replace("[sso]", "[ egi ]").replace("https", "ftp").replace('title = "', 'title = "' + "x" * 60)
    told = faults(write(GOOD.replace("beamport", "") + second + 'sso = "no table"'))
    assert [fault.partition(": ")[0] for fault in told] == [
        *(", line 5, [sso] client_id", ", line 9, [egi] title", ", line 10, [egi] issuer", ", line 13, [egi] sso")
    ]


def test_a_value_outside_a_table_is_told(write: Write) -> None:
    assert faults(write('sso = "x"' + GOOD.replace("[sso]", "[other]"))) == [
        ", line 1, [sso]: is no table. Each provider is a table of its own: [slug], then its keys."
    ]


def test_two_tables_with_one_issuer_are_refused(write: Write) -> None:
    told = faults(write(GOOD + GOOD.replace("[sso]", "[again]")))
    assert told == [
        ", line 10, [again] issuer: [sso] has https://login.example/realms/users already. One provider, one table."
    ]


def test_what_is_no_toml_is_told_with_its_place(write: Write) -> None:
    told = faults(write(GOOD + "title 7"))
    assert len(told) == 1
    assert "(at line 7, column 7)" in told[0]
    assert "BEAMPORT_PROVIDERS names a TOML file of providers." in told[0]


@pytest.mark.parametrize("text", ["", "# nobody yet\n"])
def test_a_file_without_providers_is_refused(write: Write, text: str) -> None:
    assert faults(write(text)) == [": it lists no provider. Write a table for each, as in deploy/providers/."]


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    assert "No such file or directory" in faults(tmp_path / "nowhere.toml")[0]
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    assert "can't decode" in faults(tmp_path / "binary.toml")[0]


def test_a_table_whose_name_is_written_in_odd_ways_begins_in_the_first_line(write: Write) -> None:
    text = GOOD.replace("[sso]", '["\\u0073so"]').replace("title", "# title")
    assert faults(write(text)) == [", line 1, [sso]: title is missing."]


def test_an_error_without_words_has_some(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> bytes:
        raise OSError

    path = write(GOOD)
    monkeypatch.setattr(Path, "read_bytes", fail)
    assert faults(path)[0].startswith(": cannot be opened. ")


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        ("secret", 0o644, "everybody on this machine can read: chmod o-r"),
        ("", 0o600, "which is empty"),
        ("two\nlines", 0o600, "holds no secret: one line of text."),
        ("sécret", 0o600, "holds no secret"),
    ],
)
def test_a_secret_that_is_none_is_refused(write: Write, tmp_path: Path, text: str, mode: int, why: str) -> None:
    lay_secret(tmp_path / "secret", text, mode)
    (told,) = faults(write(GOOD))
    assert told.startswith(", line 6, [sso] client_secret_file: ")
    assert why in told
    assert f": it names {tmp_path}" in told or f": {tmp_path}" in told


def test_a_service_finds_the_secret_among_its_credentials(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    path = write(GOOD)
    assert read(path)["sso"]["client_secret"] == "a secret: with/odd characters%"
    lay_secret(credentials / "secret", "the service's own", 0o400)
    assert read(path)["sso"]["client_secret"] == "the service's own"


@pytest.mark.parametrize("size", [0, providers_file.LARGEST_LOGO + 1])
def test_a_logo_has_a_size(write: Write, tmp_path: Path, size: int) -> None:
    (tmp_path / "logo.svg").write_bytes(b"x" * size)
    assert "of at most 32 KiB" in faults(write(GOOD + 'logo = "logo.svg"'))[0]
    for good in (1, providers_file.LARGEST_LOGO):
        (tmp_path / "logo.svg").write_bytes(b"x" * good)
        assert read(write(GOOD + 'logo = "logo.svg"'))["sso"]["logo"].startswith("data:image/svg+xml;base64,e")


@pytest.mark.parametrize(("name", "kind"), [("a.svg", "svg+xml"), ("a.PNG", "png"), ("a.webp", "webp")])
def test_a_logo_is_a_picture_of_one_of_three_kinds(write: Write, tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).write_bytes(b"picture")
    assert read(write(GOOD + f'logo = "{name}"'))["sso"]["logo"] == f"data:image/{kind};base64,cGljdHVyZQ=="


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_are_good_but_for_the_secret(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    for slug in ("umbrella", "egi", "helmholtz", "sso", "orcid"):
        lay_secret(tmp_path / f"client_secret_{slug}")
    for slug, said in read(example).items():
        provider = providers.Provider(slug=slug, **said)
        assert provider.description
        assert provider.issuer.startswith("https://")


def test_there_is_an_example_for_each_kind() -> None:
    assert [path.stem for path in EXAMPLES] == ["eduteams", "egi-check-in", "helmholtz-id", "keycloak", "orcid"]


def test_a_provider_speaks_for_subjects_and_namespaces() -> None:
    scopes = frozenset({"Example.org", "urn:geant:Example.org"})
    provider = providers.Provider("sso", "x", "https://login.example", "b", "s", asserts_scopes=scopes)
    assert provider.subject_scopes == {"example.org"}
    assert provider.namespaces == {"urn:geant:Example.org"}


def test_each_key_of_the_file_is_described() -> None:
    page = (EXAMPLES[0].parents[2] / "docs" / "operate" / "sign-in.md").read_text()
    known = providers_file._readers(Path(), demo=False)
    assert [name for name in known if not re.search(rf"[`.]{name}[`\].]", page)] == []
