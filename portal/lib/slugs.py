"""Random names for hosts and readable names for machines."""

from __future__ import annotations

import re
import secrets
import unicodedata

_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"


def random_slug(length: int = 16) -> str:
    """Return a DNS label with 5 bits a character (16 → 80 bits); begins with a letter, never reused."""
    return secrets.choice(_ALPHABET[:24]) + "".join(secrets.choice(_ALPHABET) for _ in range(length - 1))


def slugify_host(text: str, limit: int = 40) -> str:
    """Return `text` as a DNS label (may be empty); free text itself is stored as given."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:limit].strip("-")
