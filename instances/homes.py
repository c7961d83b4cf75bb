"""Homes: found or made with the first instance, shown on the account page, deleted by an act of their own."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from django.conf import settings
from django.db import transaction

from auth.models import Facility, User
from instances import clouds
from instances.errors import HomeBusy, HomeInUse
from instances.lifecycle import State
from instances.models import Home, Instance, Provider
from instances.providers.base import ProviderError
from portal.lib import clock
from portal.lib.clock import Now
from portal.lib.errors import NotFound
from portal.lib.slugs import random_slug, slugify_host

log = structlog.get_logger("instances.homes")

#: from here on a page warns
NEARLY_FULL = 90


@dataclass(frozen=True)
class HomeView:
    """A home as the account page shows it; `percent` is None while it was never measured."""

    home: Home
    used: int | None
    limit: int
    percent: int | None
    instances: list[Instance]

    @property
    def nearly_full(self) -> bool:
        return self.percent is not None and self.percent >= NEARLY_FULL

    @property
    def deletable(self) -> bool:
        return not self.instances and self.home.deleting_at is None


def of_user(user: User) -> list[HomeView]:
    """Return the homes of a user with how full they are and which instances use them."""
    homes = list(Home.objects.filter(user=user).select_related("facility", "provider").order_by("facility__name", "id"))
    using: dict[int, list[Instance]] = {home.pk: [] for home in homes}
    for instance in Instance.objects.alive().filter(home__in=homes):
        if instance.home_id is not None:
            using[instance.home_id].append(instance)
    return [HomeView(h, h.used, h.limit, _percent(h), using[h.pk]) for h in homes]


def _percent(home: Home) -> int | None:
    if home.used is None or home.limit <= 0:
        return None
    return min(100, home.used * 100 // home.limit)


def get_or_make(user: User, facility: Facility, provider: Provider) -> Home:
    """Return the user's home at a facility, locked against deletion until the transaction ends."""
    locked = Home.objects.select_for_update().filter(user=user, facility=facility, provider=provider)
    home = locked.first()
    if home is None:
        key = f"{slugify_host(user.handle, 32) or 'user'}-{random_slug(10)}"
        Home.objects.get_or_create(
            user=user, facility=facility, provider=provider, defaults={"key": key, "limit": settings.HOME_LIMIT}
        )
        home = locked.get()
    if home.deleting_at is not None:
        raise HomeBusy
    return home


def begin_deleting(home: Home) -> datetime:
    """Close a home for new instances and return since when; HomeInUse while an instance that is not deleted has it.

    Of two at once one begins. The time says whose deletion it is: only with it can a failure open the home again.
    """
    with transaction.atomic():
        row = Home.objects.select_for_update().filter(pk=home.pk).first()
        if row is None:
            raise NotFound
        if row.deleting_at is not None:
            raise HomeBusy
        using = Instance.objects.alive().filter(home=row).first()
        if using is not None:
            raise HomeInUse(f"This home is in use by the instance “{using.name}”.")
        if Instance.objects.filter(home=row, leftover__isnull=False).exists():
            raise HomeInUse("The last machine that used this home is still being removed.", next_step=_SOON)
        since = clock.now()
        Home.objects.filter(pk=row.pk).update(deleting_at=since)
    return since


_SOON = "Try again in a minute."


def finish_deleting(home: Home) -> None:
    """Have the provider delete the files, then the row. Safe to repeat; ProviderError leaves it closed."""
    clouds.cloud_of(home.provider).delete_home(clouds.home_of(home))
    with transaction.atomic():
        Instance.objects.filter(home=home, state=State.DELETED).update(home=None)
        Home.objects.filter(pk=home.pk, deleting_at__isnull=False).delete()


def reopen(home: Home, since: datetime) -> bool:
    """Take the deletion of `since` back, which the provider refused; not when a newer one is at the files by now."""
    return bool(Home.objects.filter(pk=home.pk, deleting_at=since).update(deleting_at=None))


def finish_old_deletions(age: timedelta) -> None:
    """Take over deletions that were begun longer ago than `age`: a crash left them, or their call is slow."""
    for home in Home.objects.filter(deleting_at__lt=Now() - age).select_related("provider"):
        mine = Home.objects.filter(pk=home.pk, deleting_at=home.deleting_at).update(deleting_at=Now())
        if not mine:
            continue  # opened again, or taken over by another worker
        try:
            finish_deleting(home)
        except ProviderError as error:  # it stays closed, and the others have their turn
            log.warning("home not deleted", home=home.key, error=str(error)[:500])
