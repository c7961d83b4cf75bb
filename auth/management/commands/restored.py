"""`manage.py restored`: after a restore that the portal cannot see for itself."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from auth import restored


class Command(BaseCommand):
    help = "End every sign-in, API token and one-time link: the database has been set back to an earlier state."

    def handle(self, *args: Any, **options: Any) -> None:
        ended = restored.declare()
        self.stdout.write(f"Ended: {ended.sessions} sign-ins, {ended.tokens} API tokens, {ended.links} one-time links.")
