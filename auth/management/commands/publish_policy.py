"""`manage.py publish_policy rules 1.0 rules.txt`: put a version of rules of use or privacy notice in force."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management import BaseCommand, CommandError

from auth import policies
from auth.models import Policy
from portal.lib.errors import PortalError


class Command(BaseCommand):
    help = "Publish a version of the rules of use or the privacy notice. It is in force at once and never changed."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("kind", choices=Policy.Kind.values)
        parser.add_argument("version", help="e.g. 1.0 or 2026-11")
        parser.add_argument("file", type=Path, help="plain text, UTF-8; an empty line begins a new paragraph")
        parser.add_argument("--title", default="", help="the page's title (default: what the kind is called)")

    def handle(self, *args: Any, **options: Any) -> None:
        kind = Policy.Kind(options["kind"])
        title = options["title"] or str(kind.label).capitalize()
        try:
            text = options["file"].read_text("utf-8")
            policy = policies.publish(kind, options["version"], title, text)
        except (OSError, UnicodeDecodeError, PortalError) as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"{policy} is in force.")
