"""Quotas, counted under a lock: one Account row per user is locked while what the user holds is counted.

A count without the lock lets any number of simultaneous requests through, inside a transaction or not.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.db import transaction
from django.db.models import Q

from auth.models import User
from instances.errors import QuotaExceeded
from instances.models import Account, Instance, Quota


@dataclass(frozen=True)
class Remaining:
    """What a user holds and may hold; limit and free are None where no quota applies."""

    used: int
    limit: int | None

    @property
    def free(self) -> int | None:
        return None if self.limit is None else max(0, self.limit - self.used)


def _subject(user: User) -> str:
    return f"user:{user.uid}"


def lock_account(user: User) -> Account:
    """Lock the user's account row until the transaction ends: all that counts or reserves passes here one by one."""
    subject = _subject(user)
    locked = Account.objects.select_for_update().filter(subject=subject)
    account = locked.first()
    if account is None:  # this user's first request
        Account.objects.get_or_create(subject=subject)
        account = locked.get()
    return account


def limit_of(user: User, resource: str = Quota.Resource.INSTANCES) -> int | None:
    """Return the limit that holds for a user: their own quota, else everybody's; None when there is none."""
    own, everybodys = Q(scope=Quota.Scope.USER, subject=str(user.uid)), Q(scope=Quota.Scope.EVERYBODY)
    held_now = Quota.objects.filter(own | everybodys, resource=resource, window__isnull=True)
    limits: dict[str, int] = dict(held_now.values_list("scope", "limit"))
    return limits.get(Quota.Scope.USER, limits.get(Quota.Scope.EVERYBODY))


def remaining(user: User) -> Remaining:
    """Return what a user holds and may hold, for the pages; only `check_and_reserve` decides."""
    return Remaining(used=Instance.objects.alive().filter(owner=user).count(), limit=limit_of(user))


def check_and_reserve(user: User, account: Account) -> None:
    """Raise QuotaExceeded unless one more instance is within the user's quota.

    `account` is the user's, locked in the transaction that creates the instance: the lock holds until that commits.
    """
    if not transaction.get_connection().in_atomic_block or account.subject != _subject(user):
        raise RuntimeError("check_and_reserve belongs into the creating transaction, behind the user's own lock")
    held = remaining(user)
    if held.limit is None or held.used < held.limit:
        return
    raise QuotaExceeded(
        f"Your quota “instances” is {held.limit}, and you have {held.used}: "
        "every instance that is not deleted counts, stopped ones and ones with an error too.",
        next_step="Delete an instance that you no longer need, or ask the facility for a larger quota.",
    )
