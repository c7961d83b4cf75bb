"""API tokens: `bpt_<prefix>_<secret>`; the database keeps the prefix and the SHA-256 of the secret."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from auth.access import UNUSED_LATELY
from auth.models import ApiToken, User
from portal import audit
from portal.lib import clock, hashing
from portal.lib.clock import Now
from portal.lib.errors import BadRequest
from portal.lib.slugs import random_slug

SCHEME = "bpt"
SCOPES = frozenset({"me:read", "experiments:read", "instances:read", "instances:write"})


def issue(user: User, *, scopes: Iterable[str], lasts: timedelta, name: str = "") -> tuple[ApiToken, str]:
    """Make a token and return it with its text, which is shown this once and stored nowhere."""
    wanted = sorted(set(scopes))
    if not wanted or not set(wanted) <= SCOPES:
        raise BadRequest(f"Scopes are {', '.join(sorted(SCOPES))}; at least one is needed.")
    if not timedelta(0) < lasts <= ApiToken.LONGEST:
        raise BadRequest(f"A token lasts between a moment and {ApiToken.LONGEST.days} days.")
    secret = hashing.random_secret()
    token = ApiToken.objects.create(
        user=user,
        name=name,
        prefix=random_slug(12),
        secret_hash=hashing.digest(secret),
        scopes=wanted,
        expires_at=clock.now() + lasts,
    )
    audit.record("token_issued", actor=user, about=("api-token", token.prefix), scopes=wanted)
    return token, f"{SCHEME}_{token.prefix}_{secret}"


def find(text: str) -> ApiToken | None:
    """Return the valid token of an active user that this text is, else None."""
    scheme, _, rest = text.partition("_")
    prefix, _, secret = rest.partition("_")
    if scheme != SCHEME or not secret or "\0" in text:
        return None
    token = (
        ApiToken.objects.select_related("user")
        .annotate(unused_lately=UNUSED_LATELY)
        .filter(prefix=prefix, revoked_at__isnull=True, expires_at__gt=Now(), user__in=User.objects.active())
        .first()
    )
    if token is None or not hashing.same(token.secret_hash, hashing.digest(secret)):
        return None
    if token.unused_lately:
        ApiToken.objects.filter(UNUSED_LATELY, pk=token.pk).update(last_used_at=Now())
    return token
