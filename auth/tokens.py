"""API tokens: `bpt_<prefix>_<secret>`; the database keeps the prefix and the SHA-256 of the secret."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from django.db import transaction
from django.db.models import QuerySet

from auth import roles
from auth.access import UNUSED_LATELY
from auth.models import ApiToken, User
from portal import audit
from portal.lib import clock, hashing
from portal.lib.clock import Now
from portal.lib.errors import BadRequest, Conflict, NotFound, TooMany
from portal.lib.slugs import random_slug

SCHEME = "bpt"
#: what a token may be made for, as the page says it
SCOPES = {
    "me:read": "read who you are",
    "experiments:read": "find experiments that you may see",
    "instances:read": "see your instances",
    "instances:write": "make, start, stop and delete your instances",
    "tokens:read": "list your tokens",
    "tokens:write": "revoke your tokens",
}
_NAME_LENGTH = 100
#: of one user: valid at a time, and made in an hour
MOST, MOST_AN_HOUR = 50, 20
_HOUR = timedelta(hours=1)


def of(user: User) -> QuerySet[ApiToken]:
    """Return a user's tokens, spent ones too, newest first."""
    return ApiToken.objects.filter(user=user).order_by("-pk")


def valid(rows: QuerySet[ApiToken]) -> QuerySet[ApiToken]:
    return rows.filter(revoked_at__isnull=True, expires_at__gt=Now())


def issue(user: User, *, scopes: Iterable[str], lasts: timedelta, name: str = "") -> tuple[ApiToken, str]:
    """Make a token and return it with its text, which is shown this once and stored nowhere."""
    wanted = sorted(set(scopes))
    if not wanted or not set(wanted) <= set(SCOPES):
        raise BadRequest(f"Scopes are {', '.join(sorted(SCOPES))}; at least one is needed.")
    if not timedelta(0) < lasts <= ApiToken.LONGEST:
        raise BadRequest(f"A token lasts between a moment and {ApiToken.LONGEST.days} days.")
    if len(name) > _NAME_LENGTH or not name.isprintable():
        raise BadRequest(f"A name has at most {_NAME_LENGTH} characters that can be printed.")
    secret = hashing.random_secret()
    with transaction.atomic():
        _require_room(user)
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


def _require_room(user: User) -> None:
    """Count under the user's lock, so that many requests at once make no more."""
    User.objects.select_for_update(no_key=True).get(pk=user.pk)
    if of(user).filter(created_at__gt=Now() - _HOUR).count() >= MOST_AN_HOUR:
        raise TooMany(f"You have made {MOST_AN_HOUR} tokens within an hour.", retry_after=int(_HOUR.total_seconds()))
    if valid(of(user)).count() >= MOST:
        raise Conflict(f"You have {MOST} valid tokens.", next_step="Revoke one that is no longer needed.")


def revoke(user: User, prefix: str, *, by: User | None = None) -> None:
    """End one of the user's tokens at once; NotFound when it is not theirs or already over. `by`: not the user."""
    about = ("api-token", prefix)
    with audit.attempt("token_revoked", actor=by or user, about=about, on_behalf_of=by and user):
        if by is not None:
            roles.require_over(by, "end-any-session", user)
        if not valid(of(user)).filter(prefix=prefix).update(revoked_at=Now()):
            raise NotFound


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
