"""Quotas, counted under a lock: one Account row per user is locked while what the user holds is counted.

A count without the lock lets any number of simultaneous requests through, inside a transaction or not.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.db import transaction

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


def lock_account(user: User) -> Account:
    """Lock the user's account row until the transaction ends: all that counts or reserves passes here one by one."""
    subject = f"user:{user.uid}"
    Account.objects.get_or_create(subject=subject)
    return Account.objects.select_for_update().get(subject=subject)


def limit_of(user: User, resource: str = Quota.Resource.INSTANCES) -> int | None:
    """Return the limit that holds for a user: their own quota, else everybody's; None when there is none."""
    held_now = Quota.objects.filter(resource=resource, window__isnull=True)
    own = held_now.filter(scope=Quota.Scope.USER, subject=str(user.uid)).first()
    quota = own or held_now.filter(scope=Quota.Scope.EVERYBODY).first()
    return quota.limit if quota else None


def remaining(user: User) -> Remaining:
    """Return what a user holds and may hold, for the pages; only `check_and_reserve` decides."""
    return Remaining(used=Instance.objects.alive().filter(owner=user).count(), limit=limit_of(user))


def check_and_reserve(user: User) -> None:
    """Raise QuotaExceeded unless one more instance is within the user's quota.

    Call it in the transaction that creates the instance: the lock holds until that commits.
    """
    if not transaction.get_connection().in_atomic_block:
        raise RuntimeError("check_and_reserve belongs into the creating transaction")
    lock_account(user)
    held = remaining(user)
    if held.limit is None or held.used < held.limit:
        return
    raise QuotaExceeded(
        f"Your quota “instances” is {held.limit}, and you have {held.used}: "
        "every instance that is not deleted counts, stopped ones and ones with an error too.",
        next_step="Delete an instance that you no longer need, or ask the facility for a larger quota.",
    )
