"""What happens to people and their sessions; each right changes in one function here, and leaves an audit row."""

from __future__ import annotations

from django.conf import settings
from django.contrib.auth import SESSION_KEY, login, user_logged_in
from django.db import transaction
from django.http import HttpRequest
from django.middleware.csrf import rotate_token

from auth import access, roles
from auth.middleware import name_identity
from auth.models import Identity, Session, User
from auth.oidc import kept
from auth.oidc.proof import SignInProof
from auth.sessions import IDENTITY_KEY, store_of
from portal import audit
from portal.lib.clock import Now
from portal.lib.errors import Conflict
from portal.lib.hashing import digest

#: the audit log and Identity.last_login_at have it; Django would write it a third time
user_logged_in.disconnect(dispatch_uid="update_last_login")


def open_session(request: HttpRequest, identity: Identity, proof: SignInProof) -> Session:
    """Sign an identity's user in: new key, fresh lifetime. Another user's session in this browser ends."""
    user = identity.user
    if SESSION_KEY in request.session:
        request.session.cycle_key()  # Django's login() does so for visitors only
    login(request, user, backend="auth.backends.PortalOIDCBackend")
    request.session[IDENTITY_KEY] = identity.pk
    store = store_of(request)
    store.save(
        provider_sid=proof.sid,
        provider_acr=proof.acr,
        authenticated_at=proof.authenticated_at,
        id_token=kept.seal(proof.id_token),
        user_agent=request.headers.get("User-Agent", "")[:200],
        created_at=Now(),
        last_used_at=Now(),
        expires_at=Now() + settings.SESSION_ABSOLUTE,
        updated_at=Now(),
    )
    session = Session.objects.select_related("user", "identity").get(key_hash=digest(store.session_key or ""))
    request.auth_session = session  # type: ignore[attr-defined]
    name_identity(session)
    audit.record("login", actor=user, about=("session", session.uid))
    return session


def renew_session(request: HttpRequest, session: Session, proof: SignInProof) -> None:
    """Note that somebody showed once more who they are: a new key, the lifetime stays."""
    store = store_of(request)
    store.cycle_key()
    rotate_token(request)
    store.save(
        provider_sid=proof.sid or session.provider_sid,
        provider_acr=proof.acr,
        authenticated_at=proof.authenticated_at,
        id_token=kept.seal(proof.id_token) or session.id_token,
        updated_at=Now(),
    )
    audit.record("login_renewed", actor=session.user, about=("session", session.uid))


def end_session(session: Session) -> bool:
    """End one's own session; the gateways close what hangs on it. False when it had ended already."""
    if not access.end(Session.objects.filter(pk=session.pk)):
        return False
    audit.record("logout", actor=session.user, about=("session", session.uid))
    return True


def end_session_of(user: User, session: Session, *, by: User) -> None:
    """End a session of somebody else."""
    with audit.attempt("session_ended", actor=by, about=("session", session.uid), on_behalf_of=user):
        roles.require_over(by, "end-any-session", user)
        if not access.end(Session.objects.filter(pk=session.pk, user=user)):
            raise Conflict("This session has ended already.")


def end_sessions_of(user: User, *, by: User) -> int:
    """End all sessions of somebody else; return how many. They may sign in again."""
    with audit.attempt("sessions_ended", actor=by, about=("user", user.uid), on_behalf_of=user) as detail:
        roles.require_over(by, "end-any-session", user)
        ended = access.end(Session.objects.filter(user=user))
        detail["sessions"] = len(ended)
    return len(ended)


def end_other_sessions(session: Session) -> int:
    """End all sessions of this one's user but this; return how many."""
    with transaction.atomic():
        ended = access.end(access.live_sessions().filter(user=session.user).exclude(pk=session.pk))
        if session.user is not None and ended:
            audit.record(
                "other_sessions_ended", actor=session.user, about=("session", session.uid), sessions=len(ended)
            )
    return len(ended)


def suspend(user: User, *, by: User, reason: str) -> None:
    """Take everything from a user at once: sessions, tokens, open connections. Reversible by `reinstate`."""
    with audit.attempt("user_suspended", actor=by, about=("user", user.uid), reason=reason) as detail:
        roles.require_over(by, "suspend-user", user)
        changed = User.objects.filter(pk=user.pk, suspended_at__isnull=True).update(
            suspended_at=Now(), suspended_reason=reason[:200], updated_at=Now()
        )
        if not changed:
            raise Conflict("This user is suspended already.")
        detail["sessions"] = len(access.end(Session.objects.filter(user=user)))


def reinstate(user: User, *, by: User) -> None:
    """Let a suspended user sign in again; ended sessions stay ended."""
    with audit.attempt("user_reinstated", actor=by, about=("user", user.uid)):
        roles.require_over(by, "suspend-user", user)
        changed = User.objects.filter(pk=user.pk, suspended_at__isnull=False).update(
            suspended_at=None, suspended_reason="", updated_at=Now()
        )
        if not changed:
            raise Conflict("This user is not suspended.")
