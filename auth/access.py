"""Who holds a session right now: the one rule that pages, API, WebSockets and the gateway's link all ask."""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet

from auth.models import Session, User
from auth.roles import PLATFORM, live_grants, live_memberships
from portal.lib import bus
from portal.lib.clock import Now

#: how exact "last used" is; each request within it costs no write
TOUCH_EVERY = timedelta(minutes=1)
#: of a session or a token: its "last used" is older than that, or there is none
UNUSED_LATELY = Q(last_used_at__isnull=True) | Q(last_used_at__lt=Now() - TOUCH_EVERY)


def active_user(pk: int | str) -> User | None:
    """Return the user unless suspended, inactive or erased."""
    return User.objects.active().filter(pk=pk).first()


def live_sessions() -> QuerySet[Session]:
    """Return the sessions that count: not ended, not idle, not too old, of a user who may hold one (or of nobody).

    The shorter life of those who run the portal begins with their sign-in, and counts from the moment of a grant on.
    """
    return _sessions_at_most().filter(_young() | ~_runs_the_portal(OuterRef("user_id")))


def live_session(key_hash: str) -> Session | None:
    """Return the live session of this key with its identity, by the rule of `live_sessions`.

    Each request asks it, and to build the whole statement costs more than all else of it: whether somebody runs the
    portal is therefore asked of a session alone that would be too old then.
    """
    marked = _sessions_at_most().annotate(unused_lately=UNUSED_LATELY, young=_young())
    row = marked.select_related("identity").filter(key_hash=key_hash).first()
    if row is None or row.young or live_sessions().filter(pk=row.pk).exists():
        return row
    return None


def _sessions_at_most() -> QuerySet[Session]:
    """Return the sessions that count, and those that are too old for who runs the portal."""
    return Session.objects.filter(
        Q(user__isnull=True) | Q(user__in=User.objects.active()),
        ended_at__isnull=True,
        expires_at__gt=Now(),
        last_used_at__gt=Now() - settings.SESSION_IDLE,
    )


def _young() -> Q:
    return Q(created_at__gt=Now() - settings.SESSION_ABSOLUTE_PRIVILEGED)


def _runs_the_portal(user: OuterRef) -> Q:
    strong = PLATFORM["open-admin"]
    granted = live_grants().filter(user=user, role__in=strong)
    in_groups = live_memberships().filter(user=user, group__roles__role__in=strong)
    return Q(Exists(granted)) | Q(Exists(in_groups))


def touch(session_pk: int) -> None:
    """Note that a live session is in use; never revives one."""
    live_sessions().filter(UNUSED_LATELY, pk=session_pk).update(last_used_at=Now())


def renew_keys(users: QuerySet[User]) -> None:
    """Have each session of who gets a role take a new key with its next page: one known before is worth nothing."""
    Session.objects.filter(user__in=users, ended_at__isnull=True).update(key_due=True)


def end(sessions: QuerySet[Session]) -> list[int]:
    """End sessions, keep their rows a while, tell gateways and open pages; return the keys of those that were open."""
    with transaction.atomic():
        ended = list(
            sessions.filter(ended_at__isnull=True).order_by("pk").select_for_update().values_list("pk", flat=True)
        )
        Session.objects.filter(pk__in=ended).update(ended_at=Now(), updated_at=Now(), data={}, id_token="")
        for pk in ended:
            bus.publish(bus.GATEWAY, {"login_session": pk})
        if ended:
            bus.publish(bus.PAGES, {"login_sessions": ended})
    return ended
