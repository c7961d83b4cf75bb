"""`manage.py demo_instances`: the demo's provider, plans and quota; safe to repeat."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from instances import demo


class Command(BaseCommand):
    help = "Make the demo's provider, image, flavours, plans and quota."

    def handle(self, *args: Any, **options: Any) -> None:
        from django.conf import settings

        if not settings.DEMO:
            raise CommandError("This loads the demo's plans. Set BEAMPORT_DEMO=1 if that is what you want.")
        demo.load()
        self.stdout.write("Demo plans are there.")
