"""Periodic work is claimed from the database, so that n workers do it once and a dead Redis changes nothing."""

from __future__ import annotations

from datetime import timedelta

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
