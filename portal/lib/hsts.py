"""Strict-Transport-Security: what portal and gateway tell browsers outside the demo (RFC 6797)."""

from __future__ import annotations

SECONDS = 31_536_000


def value(seconds: int) -> str:
    return f"max-age={seconds}; includeSubDomains"
