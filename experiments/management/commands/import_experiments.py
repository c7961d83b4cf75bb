"""`manage.py import_experiments FILE.json|FOLDER`: bring proposals, experiments, teams and datasets up to date."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from experiments import importer
from experiments.errors import ImportRefused

#: how many of what vanished are named
MOST_NAMED = 50


class Command(BaseCommand):
    help = (
        "Import proposals, experiments, teams and datasets of one facility, all or nothing, "
        "from a JSON file or a folder of CSV files in VISA's columns."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("source", type=Path, help="JSON file, or folder of CSV files")
        parser.add_argument("--dry-run", action="store_true", help="check everything and say what would change")
        parser.add_argument(
            "--without-folders", action="store_true", help="do not look at the data (not mounted on this host)"
        )
        parser.add_argument(
            "--remove-many", action="store_true", help="go on although most known experiments are missing"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            report = importer.import_path(
                options["source"],
                look_at_folders=not options["without_folders"],
                remove_many=options["remove_many"],
                dry_run=options["dry_run"],
            )
        except ImportRefused as error:
            raise CommandError("Nothing was imported:\n  " + "\n  ".join(error.problems)) from error
        for warning in report.warnings:
            self.stderr.write(f"Note: {warning}")
        for line in report.vanished[:MOST_NAMED]:
            self.stdout.write(line)
        if len(report.vanished) > MOST_NAMED:
            self.stdout.write(f"… and {len(report.vanished) - MOST_NAMED} more")
        said = "Checked only, nothing written" if options["dry_run"] else "Imported"
        self.stdout.write(f"{said}: {options['source']}: {report}.")
