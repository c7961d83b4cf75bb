"""`manage.py import_experiments FILE.json`: bring proposals, experiments, teams and datasets up to date."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from experiments import importer
from experiments.errors import ImportRefused


class Command(BaseCommand):
    help = "Import proposals, experiments, teams and datasets of one facility from a JSON file: all of it or nothing."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument(
            "--without-folders", action="store_true", help="do not look at the data (not mounted on this host)"
        )
        parser.add_argument(
            "--remove-many", action="store_true", help="go on although most known experiments are missing"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            report = importer.import_file(
                options["file"],
                look_at_folders=not options["without_folders"],
                remove_many=options["remove_many"],
            )
        except ImportRefused as error:
            raise CommandError("Nothing was imported:\n  " + "\n  ".join(error.problems)) from error
        for warning in report.warnings:
            self.stderr.write(f"Note: {warning}")
        self.stdout.write(f"Imported {options['file']}: {report}.")
