"""`manage.py offer FILE.toml`: a provider with its images, flavours and plans, as a file says; safe to repeat."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from instances import offer_file, offers
from portal.lib.readers import Faults


class Command(BaseCommand):
    help = (
        "Bring a provider, its images, flavours and plans to what a TOML file says, all or nothing. Nothing is deleted:"
        " what the file does not name stays. Format: docs/operate/offers.md; example: deploy/kubernetes/offer.toml."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path, help="the TOML file")
        parser.add_argument("--dry-run", action="store_true", help="say what would change, and change nothing")

    def handle(self, *args: Any, **options: Any) -> None:
        path, dry_run = options["file"], options["dry_run"]
        try:
            offer = offer_file.read(path)
            report = offers.apply(offer, dry_run=dry_run)
        except Faults as faults:
            raise CommandError("\n  ".join([f"{path}: nothing was changed.", *faults.lines()])) from faults
        for line in report.changes:
            self.stdout.write(line)
        for line in report.notes:
            self.stdout.write(f"Note: {line}.")
        count = len(report.changes)
        if not count:
            self.stdout.write(f"{offer.name}: nothing to change.")
        else:
            said = "would change; nothing was written" if dry_run else "changed"
            self.stdout.write(f"{offer.name}: {count} {said}.")
