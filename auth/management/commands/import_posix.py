"""`manage.py import_posix FACILITY FILE`: who the persons of a facility are on its file systems."""

from __future__ import annotations

import csv
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.core.management import BaseCommand, CommandError
from django.db import transaction

from auth import posix
from auth.models import Facility, Person, PosixIdentity

COLUMNS = ["person", "uid", "gid", "groups", "home"]


class Command(BaseCommand):
    help = (
        "Note uid, gid, groups and home of a facility's persons, from a CSV file with the columns person (the user"
        " office's id), uid, gid, groups (separated by spaces) and home. Loading it again changes nothing; a file with"
        " a wrong line changes nothing at all. Persons whom no user is tied to are counted, and come in another time."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("facility", help="slug of the facility")
        parser.add_argument("file", help="CSV file with a head line; - for standard input")

    def handle(self, *args: Any, **options: Any) -> None:
        facility = Facility.objects.filter(slug=options["facility"]).first()
        if facility is None:
            raise CommandError(f"There is no facility {options['facility']!r}.")
        try:
            text = sys.stdin.read() if options["file"] == "-" else Path(options["file"]).read_text("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"{options['file']} cannot be read: {error}") from None
        rows = dict(_rows(text))
        users = {
            person.external_id: person.user
            for person in Person.objects.filter(facility=facility, external_id__in=rows, user__isnull=False)
            .select_related("user")
        }  # fmt: skip
        with transaction.atomic():
            taken = [
                name
                for name, user in users.items()
                if user and not posix.put(user, facility, rows[name], PosixIdentity.Source.IMPORT)
            ]
        for name in taken:
            self.stderr.write(f"{name}: the uid {rows[name].uid} is another user's; left as it was.")
        self.stdout.write(f"{len(users) - len(taken)} of {len(rows)} noted; {len(rows) - len(users)} have no user yet.")


def _rows(text: str) -> Iterator[tuple[str, posix.Posix]]:
    lines = csv.DictReader(text.splitlines())
    if lines.fieldnames is None or set(lines.fieldnames) != set(COLUMNS):
        raise CommandError(f"The first line must name the columns {', '.join(COLUMNS)}.")
    seen: set[str] = set()
    for row in lines:
        name = (row["person"] or "").strip()
        found = posix.read(row["uid"], row["gid"], (row["groups"] or "").split(), row["home"] or "")
        if not name or name in seen or found is None:
            raise CommandError(f"Line {lines.line_num}: a person once, uid and gid from {posix.LOWEST}.")
        seen.add(name)
        yield name, found
