"""Periodic work is claimed from the database, so that n workers do it once and a dead Redis changes nothing."""

from __future__ import annotations

import uuid
from datetime import timedelta

from django.db.models import Q

from instances.models import Job
from portal.lib.clock import Now


def claim(name: str, every: timedelta) -> bool:
    """Return True to exactly one caller each time `every` has passed; the first time at once."""
    rows = Job.objects.filter(name=name)
    if rows.filter(due_at__lte=Now()).update(due_at=Now() + every):
        return True
    if not rows.exists():
        Job.objects.bulk_create([Job(name=name)], ignore_conflicts=True)
        return bool(rows.filter(due_at__lte=Now()).update(due_at=Now() + every))
    return False


def hold(name: str, holder: uuid.UUID, lasting: timedelta) -> bool:
    """Return whether this holder alone has lasting work for so long from now; to be asked again before that ends."""
    free = Job.objects.filter(Q(holder=holder) | Q(due_at__lte=Now()), name=name)
    held = {"holder": holder, "due_at": Now() + lasting}
    if free.update(**held):
        return True
    if not Job.objects.filter(name=name).exists():
        Job.objects.bulk_create([Job(name=name)], ignore_conflicts=True)
        return bool(free.update(**held))
    return False


def let_go(holder: uuid.UUID) -> None:
    """Give all that somebody holds to whoever asks next."""
    Job.objects.filter(holder=holder).update(holder=None, due_at=Now())
