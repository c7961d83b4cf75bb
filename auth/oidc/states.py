"""Attempts to sign in: rows, ten a session, ten minutes each, taken once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from auth.models import LoginState, Session, User
from auth.oidc.errors import SignInStale
from portal.lib.clock import Now
from portal.lib.hashing import digest, random_secret

LIFETIME = timedelta(minutes=10)
MOST = 10


@dataclass(frozen=True)
class Begun:
    state: str
    nonce: str
    verifier: str


def begin(
    session: Session, provider: str, next_path: str, intent: str = LoginState.Intent.LOGIN, user: User | None = None
) -> Begun:
    """Note a new attempt of this browser; the oldest go when there are too many, the others keep working."""
    begun = Begun(random_secret(), random_secret(), random_secret(384))
    LoginState.objects.create(
        state_hash=digest(begun.state),
        session=session,
        provider=provider,
        nonce=begun.nonce,
        verifier=begun.verifier,
        next=next_path,
        intent=intent,
        user=user,
    )
    # one statement: between two, another tab's attempt could come and go
    newest_first = LoginState.objects.filter(session=session).order_by("-created_at", "-pk")
    LoginState.objects.filter(pk__in=newest_first.values("pk")[MOST:]).delete()
    return begun


def consume(session: Session | None, provider: str, state: str) -> LoginState:
    """Take the attempt that this state belongs to. Of several callbacks with one state exactly one gets it.

    What it kept secret leaves the row with it: what was read here is whole, or was taken by another.
    """
    if session is None or not state:
        raise SignInStale("no-attempt")
    attempt = LoginState.objects.filter(
        state_hash=digest(state),
        session=session,
        provider=provider,
        consumed_at__isnull=True,
        created_at__gt=Now() - LIFETIME,
    )
    taken = attempt.first()
    if taken is None or not attempt.update(consumed_at=Now(), nonce="", verifier=""):
        raise SignInStale("unknown-state")
    if taken.intent != LoginState.Intent.LOGIN and (taken.user_id is None or taken.user_id != session.user_id):
        raise SignInStale("state-of-another-user")
    return taken
