"""Our own TLS: certificates by name, and new ones taken over without a restart."""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography import x509

from instances.gateway.config import CannotStart, Config, Pair
from instances.gateway.log import Log

#: with forward secrecy and authenticated encryption; TLS 1.3 brings only such suites
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


class BadCertificate(Exception):
    """A certificate that cannot be used; the text says why."""


class Certificates:
    """The certificates in use; `context` is what the next handshake gets."""

    def __init__(self, config: Config, log: Log) -> None:
        self._pairs = config.tls
        self._needed = needed_names(config)
        self._log = log
        self._seen = _signature(self._pairs)
        try:
            self.context = load(self._pairs, self._needed)
        except BadCertificate as error:
            raise CannotStart(f"GATEWAY_TLS_CERT_FILE: {error}.") from error

    def reload(self) -> bool:
        """Take over what lies in the files now; what cannot be used changes nothing and is logged."""
        self._seen = _signature(self._pairs)
        try:
            self.context = load(self._pairs, self._needed)
        except BadCertificate as error:
            self._log.event("error", "new certificate refused, the old one stays", reason=error)
            return False
        self._log.event("info", "new certificate in use")
        return True

    def look(self) -> None:
        """Reload when a file has changed."""
        if _signature(self._pairs) != self._seen:
            self.reload()


def needed_names(config: Config) -> tuple[str, str]:
    """Return the names browsers will ask for: the portal's, and one of any instance."""
    return config.portal_host, f"*.{config.apps_host}"


def load(pairs: Sequence[Pair], needed: Sequence[str]) -> ssl.SSLContext:
    """Return a context that shows each name its certificate, others the first; raises BadCertificate."""
    by_name: dict[str, ssl.SSLContext] = {}
    contexts = []
    for pair in pairs:
        context = _context(pair)
        contexts.append(context)
        for name in _names(pair):
            by_name.setdefault(name, context)
    for name in needed:
        if name not in by_name and "*." + name.partition(".")[2] not in by_name:
            raise BadCertificate(f"no certificate is for {name}")

    def choose(handshake: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        asked = (name or "").lower()
        chosen = by_name.get(asked) or by_name.get("*." + asked.partition(".")[2])
        if chosen is not None:
            handshake.context = chosen

    contexts[0].sni_callback = choose
    return contexts[0]


def _context(pair: Pair) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    try:
        context.load_cert_chain(pair.certificate, pair.key, password=lambda: b"")  # never asks at a terminal
    except (OSError, ValueError) as error:  # SSLError is an OSError
        reason = error.strerror or getattr(error, "reason", "") if isinstance(error, OSError) else str(error)
        raise BadCertificate(f"{pair.certificate} and {pair.key} cannot be used together: {reason}") from error
    return context


def _names(pair: Pair) -> list[str]:
    """Return the names that a certificate is for; raises BadCertificate when it is not valid now."""
    certificate = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
    now = datetime.now(UTC)
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        raise BadCertificate(f"{pair.certificate} is not valid today, but until {certificate.not_valid_after_utc}")
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise BadCertificate(f"{pair.certificate} names no host") from None
    return [name.lower() for name in names.get_values_for_type(x509.DNSName)]


def _signature(pairs: Sequence[Pair]) -> list[tuple[int, int, int]]:
    """Return what changes with the files; a missing one is a change, too."""
    found = []
    for pair in pairs:
        for path in (pair.certificate, pair.key):
            try:
                status = os.stat(path)
                found.append((status.st_ino, status.st_mtime_ns, status.st_size))
            except OSError:
                found.append((0, 0, 0))
    return found
