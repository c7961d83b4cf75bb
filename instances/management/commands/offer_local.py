"""`manage.py offer_local FACILITY`: JupyterLab on this host, in three sizes; safe to repeat."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from auth.models import Facility
from instances.offers import offer_local
from portal.lib.readers import Faults


class Command(BaseCommand):
    help = "Offer JupyterLab in sandboxes on this host: its provider, image, flavours, plans, and a quota of two."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("facility", help="slug of the facility, as its imported file names it")

    def handle(self, *args: Any, **options: Any) -> None:
        facility = Facility.objects.filter(slug=options["facility"]).first()
        if facility is None:
            known = ", ".join(Facility.objects.order_by("slug").values_list("slug", flat=True)) or "none yet"
            raise CommandError(f"There is no facility {options['facility']!r} (known: {known}). Import its file first.")
        try:
            offer_local(facility)
        except Faults as faults:
            raise CommandError(f"Nothing was changed: {faults}") from faults
        self.stdout.write(f"{facility.name} offers JupyterLab on this host.")
