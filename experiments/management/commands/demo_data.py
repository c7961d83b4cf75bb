"""`manage.py demo_data`: the demo's runs and records (39 open runs, and a proposal under embargo)."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from experiments.demo import load
from experiments.errors import ImportRefused


class Command(BaseCommand):
    help = "Write the demo's data below the state folder and import its catalogue. Safe to repeat."

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.DEMO:
            raise CommandError("The demo's data are for BEAMPORT_DEMO=1 only.")
        try:
            report = load.load(settings.STATE_DIR / "data")
        except ImportRefused as error:
            raise CommandError("The demo's data were not loaded:\n  " + "\n  ".join(error.problems)) from error
        self.stdout.write(f"Demo data: {report}.")
