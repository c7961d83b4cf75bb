"""Accounts that nobody uses: first goes what providers said of somebody, in the end the account.

Used is an account by a sign-in or by an API token. What is due is done once a day, by one worker, for a few at a time
(docs/operate/privacy.md).
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet

from auth import erasure, registry
from auth.models import ApiToken, GroupMember, Identity, PosixIdentity, User
from portal import audit
from portal.lib.clock import Now
from portal.lib.errors import Conflict

log = structlog.get_logger("auth.unused")

#: accounts a day: a wrong clock or a very old backup must not forget everybody before somebody looks
MOST_A_DAY = 100


def unused_for(long: timedelta) -> QuerySet[User]:
    """Return the users who are not erased, and were made and last used so long ago."""
    lately = Now() - long
    signed_in = Identity.objects.filter(user=OuterRef("pk"), last_login_at__gt=lately)
    by_token = ApiToken.objects.filter(user=OuterRef("pk"), last_used_at__gt=lately)
    old = User.objects.filter(erased_at__isnull=True, created_at__lte=lately)
    return old.exclude(Exists(signed_in)).exclude(Exists(by_token)).order_by("pk")


def tidy() -> None:
    """Do what is due; a setting of 0 switches its step off."""
    if settings.UNUSED_LAPSE:
        lapse()
    if settings.UNUSED_FORGET:
        forget()


def lapse() -> None:
    """Drop what providers said of whom, memberships and places on file systems that came of it, and tokens."""
    due = unused_for(settings.UNUSED_LAPSE)
    for user in due.filter(Q(*map(Exists, _held(OuterRef("pk"))), _connector=Q.OR))[:MOST_A_DAY]:
        with transaction.atomic():
            if _still_unused(user, settings.UNUSED_LAPSE):
                said, *rows = _held(user)
                said.update(claims_subset={})
                for one in rows:
                    one.delete()
                audit.record("account_lapsed", about=("user", user.uid), reason="unused")


def forget() -> None:
    """Erase who is gone for good; whose machines or files would go with the account is left to people to decide."""
    done, left = 0, []
    for user in unused_for(settings.UNUSED_FORGET):
        if done == MOST_A_DAY:
            break
        try:
            done += _forget(user)
        except Conflict:
            left.append(str(user.uid))
    if left:
        log.warning("unused accounts that still have machines or files", users=left)


@transaction.atomic
def _forget(user: User) -> bool:
    if not _still_unused(user, settings.UNUSED_FORGET):
        return False
    if registry.losses(user):
        raise Conflict
    erasure.erase(user, None, reason="unused")
    return True


def _still_unused(user: User, long: timedelta) -> bool:
    """Look again, with the identities locked as a sign-in locks them: who comes back this very moment stays."""
    list(Identity.objects.select_for_update().filter(user=user).order_by("pk"))
    return unused_for(long).filter(pk=user.pk).exists()


def _held(user: User | OuterRef) -> tuple[QuerySet[Any], ...]:
    return (
        Identity.objects.filter(user=user).exclude(claims_subset={}),
        GroupMember.objects.filter(user=user, rule__isnull=False),
        PosixIdentity.objects.filter(user=user, source=PosixIdentity.Source.CLAIM),
        ApiToken.objects.filter(user=user),
    )
