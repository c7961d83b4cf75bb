"""Telling people what happened to their account. There is no mail yet: they read it on their account page."""

from __future__ import annotations

from datetime import timedelta

from django.db.models import QuerySet

from auth.models import Notice, User
from portal.lib.clock import Now

KEPT = timedelta(days=90)


def tell(user: User, text: str) -> None:
    Notice.objects.create(user=user, text=text[:500])


def of(user: User) -> QuerySet[Notice]:
    return Notice.objects.filter(user=user, at__gt=Now() - KEPT)
