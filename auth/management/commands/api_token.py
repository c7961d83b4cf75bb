"""`manage.py api_token USER`: print an API token, this once."""

from __future__ import annotations

import uuid
from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.management import BaseCommand, CommandError

from auth import tokens
from auth.models import User
from portal.lib.errors import PortalError


class Command(BaseCommand):
    help = "Print an API token of a user. It is shown this once; the portal keeps only its hash."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("user", help="handle or id of the user (both are on the account page)")
        parser.add_argument(
            "--scopes",
            default=",".join(sorted(tokens.SCOPES)),
            help="comma-separated; all of them by default: %(default)s",
        )
        parser.add_argument("--days", type=int, default=30, help="how long it is valid, at most 90 (default 30)")
        parser.add_argument("--name", default="", help="what it is for")

    def handle(self, *args: Any, **options: Any) -> None:
        user = find_user(options["user"])
        scopes = [scope.strip() for scope in options["scopes"].split(",") if scope.strip()]
        try:
            token, text = tokens.issue(user, scopes=scopes, lasts=timedelta(days=options["days"]), name=options["name"])
        except PortalError as error:
            raise CommandError(error.message) from None
        self.stdout.write(text)
        self.stderr.write(f"Valid until {token.expires_at:%Y-%m-%d %H:%M} UTC. It is not shown again.")


def find_user(text: str, *, to_act: bool = True) -> User:
    """Return the user of a handle or id; `to_act`: one who may sign in."""
    found = User.objects.filter(handle=text).first()
    if found is None:
        try:
            found = User.objects.filter(uid=uuid.UUID(text)).first()
        except ValueError:
            found = None
    if found is None:
        raise CommandError(f"There is no user {text!r}; people become users when they first sign in.")
    if to_act and not found.may_sign_in:
        raise CommandError(f"{text} may not sign in: suspended, or erased.")
    return found
