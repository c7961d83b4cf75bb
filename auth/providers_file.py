"""The file of OpenID providers (BEAMPORT_PROVIDERS): read at start, and refused as a whole for anything wrong in it.

Each table is one provider, named by the slug in its addresses. Keys: docs/operate/sign-in.md.
"""

from __future__ import annotations

import base64
import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured

from auth.claims import TABLE
from portal.lib import variables

#: signature algorithms we accept: asymmetric ones only, whatever a provider announces
ALGORITHMS: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
#: the first word of our own addresses below /auth/
RESERVED: Final = frozenset(
    {"account", "admin", "api", "link", "logout", "person", "policies", "sessions", "sign-in", "signed-out"}
)
REQUIRED: Final = ("title", "issuer", "client_id", "client_secret_file")
#: keys of the file that are called otherwise in the code
FIELDS: Final[Mapping[str, str]] = {"client_secret_file": "client_secret"}
LARGEST_LOGO = 32 * 1024
_LOGOS = {".svg": "image/svg+xml", ".png": "image/png", ".webp": "image/webp"}
_SLUG = re.compile(r"[a-z][a-z0-9-]{0,39}")
_HOST = re.compile(r"(?!-)[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})*")
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749 §3.3

Table = dict[str, Any]
Reader = Callable[[Any], Any]


class BadProviders(ImproperlyConfigured):
    """What is wrong with the file, a sentence each."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class _Wrong(ValueError):
    pass


def read(path: Path, *, demo: bool = False) -> dict[str, Table]:
    """Return the providers' fields by slug. In the demo they may lie on loopback without TLS."""
    try:
        text = path.read_bytes().decode()
        tables = tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise BadProviders([f"{path}: {_why(error)}. BEAMPORT_PROVIDERS names a TOML file of providers."]) from None
    if not tables:
        raise BadProviders([f"{path}: it lists no provider. Write a table for each, as in deploy/providers/."])
    reading = _Reading(path, text, demo)
    found = {slug: reading.provider(slug, table) for slug, table in tables.items()}
    reading.find_twins(found)
    if reading.faults:
        raise BadProviders([fault for _, fault in sorted(reading.faults)])
    return found


class _Reading:
    """One look at the file, which notes each fault with its line and goes on."""

    def __init__(self, path: Path, text: str, demo: bool) -> None:
        self.path, self.text, self.demo = path, text, demo
        self.readers = _readers(path.parent, demo=demo)
        self.faults: list[tuple[int, str]] = []

    def provider(self, slug: str, table: object) -> Table:
        if not isinstance(table, dict):
            self._wrong("is no table. Each provider is a table of its own: [slug], then its keys.", slug)
            return {}
        if (why := _slug_fault(slug, demo=self.demo)) is not None:
            self._wrong(why, slug)
            return {}
        for name in REQUIRED:
            if name not in table:
                self._wrong(f"{name} is missing.", slug)
        found: Table = {}
        for name, value in table.items():
            try:
                found[FIELDS.get(name, name)] = self.readers.get(name, self._unknown(name))(value)
            except _Wrong as error:
                self._wrong(str(error), slug, name)
        return found

    def find_twins(self, found: Mapping[str, Table]) -> None:
        first: dict[str, str] = {}
        for slug, provider in found.items():
            issuer = provider.get("issuer", "")
            if issuer and first.setdefault(issuer, slug) != slug:
                why = f"[{first[issuer]}] has {issuer} already. One provider, one table."
                self._wrong(why, slug, "issuer")

    def _unknown(self, name: str) -> Reader:
        def refuse(_: object) -> None:
            if name == "client_secret":
                raise _Wrong("a secret does not stand in this file. Name a file that holds it: client_secret_file.")
            near = difflib.get_close_matches(name, self.readers)
            hint = f"Is {near[0]} meant?" if near else f"There are: {', '.join(sorted(self.readers))}."
            raise _Wrong(f"no such key. {hint}")

        return refuse

    def _wrong(self, why: str, slug: str, key: str = "") -> None:
        line = _line_of(self.text, slug, key)
        self.faults.append((line, f"{self.path}, line {line}, [{slug}]{key and ' '}{key}: {why}"))


def _readers(folder: Path, *, demo: bool) -> dict[str, Reader]:
    return {
        "title": _text(60),
        "description": _text(300),
        "logo": lambda value: _logo(folder, value),
        "issuer": lambda value: _issuer(value, demo=demo),
        "client_id": _text(255),
        "client_secret_file": lambda value: _secret(folder, value),
        "scopes": _scopes,
        "algorithms": _algorithms,
        "extra_audiences": lambda value: frozenset(_texts(value)),
        "asserts_scopes": lambda value: frozenset(_texts(value)),
        "endpoint_hosts": lambda value: frozenset(_hosts(value)),
        "private_networks": _networks,
        "pkce": lambda value: _one_of(value, "require", "send"),
        "monitoring_subjects": lambda value: frozenset(_texts(value)),
        "required_assurance": lambda value: _one_of(value, "high", "low", "medium"),
        "required_acr": _texts,
        "facility_claims": _facility_claims,
        "claims": _claims,
        "posix_claims": _posix_claims,
        "policy_agreements": _agreements,
        "end_session": _flag,
        "keeps_id_token": _flag,
    }


def _slug_fault(slug: str, *, demo: bool) -> str | None:
    if not _SLUG.fullmatch(slug):
        return "is no slug: 1 to 40 of a-z, 0-9 and -, a letter first. It stands in the redirect URI."
    if slug in RESERVED or (demo and slug == "demo"):
        return "is taken by the portal itself. Choose another slug."
    return None


# ---- one value each ----
def _text(longest: int) -> Reader:
    def reader(value: object) -> str:
        if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > longest:
            raise _Wrong(f"must be a text of one line and 1 to {longest} characters.")
        return value

    return reader


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) and one and one.isprintable() for one in value):
        raise _Wrong('must be a list of texts, like ["one", "two"].')
    return tuple(value)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise _Wrong("must be true or false.")
    return value


def _one_of(value: object, *allowed: str) -> str:
    if value not in allowed:
        raise _Wrong(f"must be of: {', '.join(allowed)}.")
    return str(value)


def _algorithms(value: object) -> frozenset[str]:
    if not isinstance(value, list) or not value or not ALGORITHMS.issuperset(map(str, value)):
        raise _Wrong(f"must be a list of: {', '.join(sorted(ALGORITHMS))}.")
    return frozenset(value)


def _issuer(value: object, *, demo: bool) -> str:
    issuer = _text(255)(value)
    try:
        parts = urlsplit(issuer)
        _ = parts.port
    except ValueError:
        raise _Wrong("is no address.") from None
    if parts.scheme != "https" and not (demo and parts.scheme == "http"):
        raise _Wrong("must begin with https://. Copy it from the provider's discovery document, byte for byte.")
    if not parts.hostname or parts.username is not None or {"?", "#", " "} & set(issuer) or not issuer.isascii():
        raise _Wrong("must be an address without user, query and fragment, as the discovery document has it.")
    return issuer


def _scopes(value: object) -> tuple[str, ...]:
    scopes = _texts(value)
    if "openid" not in scopes or not all(_SCOPE.fullmatch(scope) for scope in scopes):
        raise _Wrong('must be a list of single scopes with "openid" among them.')
    return scopes


def _hosts(value: object) -> tuple[str, ...]:
    hosts = tuple(host.lower() for host in _texts(value))
    if not all(_HOST.fullmatch(host) for host in hosts):
        raise _Wrong("must be a list of host names, without https:// and path.")
    return hosts


def _networks(value: object) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    networks = _texts(value)
    try:
        return tuple(map(ipaddress.ip_network, networks))
    except ValueError:
        raise _Wrong('must be a list of networks, like ["10.1.0.0/16"].') from None


def _facility_claims(value: object) -> dict[str, str]:
    good = isinstance(value, dict) and all(isinstance(slug, str) and _SLUG.fullmatch(slug) for slug in value.values())
    if not good:
        raise _Wrong('must be a table of claim = "slug of the facility".')
    return dict(value)  # type: ignore[call-overload]


def _agreements(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(version, str) and version for version in value.values()):
        raise _Wrong('must be a table of "address of the policy" = "version of the rules of use".')
    return dict(value)


def _claims(value: object) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict) or not value.keys() <= TABLE.keys():
        raise _Wrong(f"must be a table of these, each with names of claims: {', '.join(TABLE)}.")
    return {name: _texts(names) for name, names in value.items()}


def _posix_claims(value: object) -> dict[str, dict[str, str]]:
    if not isinstance(value, dict) or not all(_is_posix(slug, names) for slug, names in value.items()):
        raise _Wrong('must be a table of facilities, each { uid = "claim", gid = "claim" }; also groups and home.')
    return value


def _is_posix(facility: str, names: object) -> bool:
    if not isinstance(names, dict) or not {"uid", "gid"} <= names.keys() <= {"uid", "gid", "groups", "home"}:
        return False
    return bool(_SLUG.fullmatch(facility)) and all(isinstance(claim, str) and claim for claim in names.values())


def _secret(folder: Path, value: object) -> str:
    path = _beside(folder, value, os.environ.get("CREDENTIALS_DIRECTORY"))
    try:
        secret = variables.secret_file("it", path)
    except variables.BadVariable as error:
        raise _Wrong(str(error)) from None
    if not secret.isascii() or not secret.isprintable():
        raise _Wrong(f"{path} holds no secret: one line of text.")
    return secret


def _logo(folder: Path, value: object) -> str:
    """Return the picture as an address that holds it, so that no page asks another server."""
    path = _beside(folder, value)
    kind = _LOGOS.get(path.suffix.lower())
    try:
        picture = path.read_bytes()
    except OSError as error:
        raise _Wrong(f"{path} cannot be read: {_why(error)}.") from None
    if kind is None or not 0 < len(picture) <= LARGEST_LOGO:
        raise _Wrong(f"must name a file .svg, .png or .webp of at most {LARGEST_LOGO // 1024} KiB.")
    return f"data:{kind};base64,{base64.b64encode(picture).decode()}"


def _beside(folder: Path, value: object, credentials: str | None = None) -> Path:
    """Return the path: relative ones lie among the service's credentials (systemd), else beside the file."""
    name = _text(1000)(value)
    if credentials and (Path(credentials) / name).exists():
        return Path(credentials) / name
    return folder / name


def _why(error: Exception) -> str:
    return error.strerror or "cannot be opened" if isinstance(error, OSError) else str(error)


def _line_of(text: str, slug: str, key: str = "") -> int:
    """Return where the table begins, or the key in it; the first line when it is written some other way."""
    lines = text.splitlines()
    quoted = rf"\s*[\"']?{re.escape(slug)}[\"']?\s*"
    start = next((at for at, line in enumerate(lines) if re.match(rf"\s*(\[{quoted}[\].]|{quoted}=)", line)), 0)
    if key:
        found = rf"\s*([\"']?{re.escape(key)}[\"']?\s*=|\[{quoted}\.\s*{re.escape(key)}\s*\])"
        start = next((at for at in range(start, len(lines)) if re.match(found, lines[at])), start)
    return start + 1
