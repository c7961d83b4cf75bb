"""`manage.py move_issuer OLD SLUG`: a provider has a new issuer; take its identities along."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management import BaseCommand, CommandError

from auth import issuers, providers
from auth.management.commands.api_token import find_user
from portal.lib.errors import PortalError


class Command(BaseCommand):
    help = (
        "Move all identities of an old issuer to a configured provider's. Without --confirm it only counts. The "
        "provider must have kept its subjects: somebody else's subject would be somebody else's account."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("old", help="the old issuer, byte for byte")
        parser.add_argument("provider", help="slug of the provider that has the new issuer in the file of providers")
        parser.add_argument("--confirm", type=int, metavar="COUNT", help="do it: the number of identities it counted")
        parser.add_argument("--by", metavar="USER", help="handle or id of the operator who does it, for the audit log")

    def handle(self, *args: Any, **options: Any) -> None:
        provider = providers.registry().get(options["provider"])
        if provider is None:
            raise CommandError(f"No provider {options['provider']!r}; there are: {', '.join(providers.registry())}.")
        found = issuers.plan(options["old"], provider)
        self.stdout.write(
            f"{found.old} → {provider.issuer} ([{provider.slug}]): {found.identities} identities of {found.users} "
            f"users, {found.sessions} open sessions, {len(found.collisions)} collisions"
        )
        for subject in found.collisions[:20]:
            self.stdout.write(f"  has signed in at the new issuer already: {subject}")
        if not found.identities:
            raise CommandError("Nobody has signed in at the old issuer. Is it written byte for byte?")
        if found.collisions:
            raise CommandError(
                "Nothing was moved. Unlink or remove the new accounts of these subjects, or tie their data by hand."
            )
        if options["confirm"] is None or not options["by"]:
            self.stdout.write(f"Nothing was moved yet. To do it: --confirm {found.identities} --by <operator>")
            return
        try:
            moved = issuers.move(options["old"], provider, by=find_user(options["by"]), expected=options["confirm"])
        except PortalError as error:
            raise CommandError(error.message) from None
        self.stdout.write(f"Moved {moved} identities.")
