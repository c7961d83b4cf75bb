"""Steps of the set-up: each says what it does and how long it took; its failure says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from portal.embedded.people import CannotStart

#: words in a tool's complaint, and what they mean to the person who typed `make run`
_HINTS = (
    (
        ("no space left", "enospc", "disk quota exceeded"),
        "The disk is full. Free some space, or set BEAMPORT_STATE to a folder on another disk.",
    ),
    (
        ("certificate", "self-signed", "self_signed", "unknownissuer", "ssl_error"),
        "The registry's TLS certificate is not trusted here. Behind a site's own CA, add it to the system's "
        "certificates (update-ca-certificates), or name it in SSL_CERT_FILE and NODE_EXTRA_CA_CERTS.",
    ),
    (
        ("401", "403", "407", "e401", "e403", "forbidden", "unauthorized", "proxy authentication"),
        "The package registry refused. Check your proxy or mirror settings (pip.conf, uv.toml, .npmrc, HTTPS_PROXY).",
    ),
    (
        (
            "dns error",
            "name resolution",
            "could not resolve",
            "failed to lookup",
            "enotfound",
            "eai_again",
            "timed out",
            "etimedout",
            "econnrefused",
            "connection refused",
            "unreachable",
            "error sending request",
            "newconnectionerror",
            "network",
        ),
        "The package registry cannot be reached. Check the network or proxy (HTTPS_PROXY), or name a mirror in "
        "pip.conf, uv.toml and .npmrc; then run the same command again: what is done stays done.",
    ),
    (
        ("hash mismatch", "do not match", "eintegrity", "hashes"),
        "A package is not the one that was locked. Do not go on; clear the cache (uv cache clean), try again, and "
        "report it if it stays so.",
    ),
)


def hint(complaint: str) -> str:
    """What to do about a tool's complaint; empty when it says nothing we know."""
    text = complaint.lower()
    return next((advice for words, advice in _HINTS if any(word in text for word in words)), "")


@contextmanager
def step(what: str, usually: str = "") -> Iterator[None]:
    """Print what is being done, and how long it took."""
    began = time.monotonic()
    print(f"{what}{f' (usually {usually})' if usually else ''} …", flush=True)
    yield
    print(f"{what}: done in {time.monotonic() - began:.1f} s", flush=True)


def run(argv: Sequence[str], *, environment: Mapping[str, str] | None = None, seconds: float = 1800) -> str:
    """Run a tool quietly; when it fails, raise with what it said and what to do about it."""
    try:
        done = subprocess.run(
            list(argv),
            env=dict(os.environ if environment is None else environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise CannotStart(f"{argv[0]} took longer than {seconds:.0f} s.\n{hint('timed out')}") from error
    except OSError as error:
        raise CannotStart(f"{argv[0]} cannot be run: {error.strerror}") from error
    if done.returncode:
        complaint = (done.stderr.strip() or done.stdout.strip())[-3000:]
        shown = "\n".join(f"    {line}" for line in complaint.splitlines()[-20:])
        advice = hint(complaint)
        raise CannotStart(f"{' '.join(argv[:4])} … failed:\n{shown}" + (f"\n{advice}" if advice else ""))
    return done.stdout


def give_up(error: Exception) -> int:
    """Say in one place, and last, why nothing was started."""
    sys.stdout.flush()
    print(f"\nCannot start: {error}", file=sys.stderr)
    return 1
