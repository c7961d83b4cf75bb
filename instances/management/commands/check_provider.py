"""`manage.py check_provider NAME [--confirm]`: says what is missing in the set-up of a cloud; safe to repeat."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from instances import clouds
from instances.models import Provider
from instances.providers.base import Checked, ProviderError


class Command(BaseCommand):
    help = "Say what is missing in the set-up of a provider: rights, and whether it is the cluster that was confirmed."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", help="the provider's name")
        parser.add_argument(
            "--confirm", action="store_true", help="keep which cluster this is, so that no other is taken for it"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        row = Provider.objects.filter(name=options["name"]).first()
        if row is None:
            known = ", ".join(Provider.objects.order_by("name").values_list("name", flat=True)) or "none yet"
            raise CommandError(f"There is no provider {options['name']!r} (known: {known}).")
        try:
            if options["confirm"]:
                row.options = row.options | self._checked(row).confirm()
                row.save(update_fields=["options"])
            problems = self._checked(row).problems()
        except ProviderError as error:
            raise CommandError(f"{row.name} gives no usable answer: {error}") from error
        for problem in problems:
            self.stdout.write(f"- {problem}")
        if problems:
            raise CommandError(f"{row.name}: {len(problems)} to mend.")
        self.stdout.write(f"{row.name}: nothing to mend.")

    def _checked(self, row: Provider) -> Checked:
        cloud = clouds.cloud_of(row)
        if not isinstance(cloud, Checked):
            raise CommandError(f"A provider of kind {row.kind} has nothing to check.")
        return cloud
