"""`manage.py grant_role USER ROLE`: how the first operator comes in, and a way back when there is none."""

from __future__ import annotations

from argparse import ArgumentParser
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from django.core.management import BaseCommand, CommandError

from auth import grants
from auth.management.commands.api_token import find_user
from auth.models import Facility, RoleGrant
from auth.roles import Role
from portal.lib.errors import PortalError


class Command(BaseCommand):
    help = (
        "Give a user a role, or take it back (--withdraw). The first operator signs in once, looks up the handle on"
        " the account page (/auth/account/), and you run: manage.py grant_role HANDLE operator. All later ones are"
        " given in the admin, where nobody gives a role that they lack."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("user", help="handle or id of the user (both are on the account page)")
        parser.add_argument("role", choices=[role.value for role in Role], metavar="ROLE", help=", ".join(Role))
        parser.add_argument("--facility", help="its slug; without it the role holds at all facilities")
        parser.add_argument(
            "--until",
            help="2027-03-31 (to the end of that day) or 2027-03-31T18:00, by the facility's clock, else UTC",
        )
        parser.add_argument("--withdraw", action="store_true", help="take the role back")

    def handle(self, *args: Any, **options: Any) -> None:
        user, role = find_user(options["user"], to_act=not options["withdraw"]), Role(options["role"])
        facility = _facility(options["facility"])
        where = f"at {facility.slug}" if facility else "at all facilities"
        try:
            if options["withdraw"]:
                held = RoleGrant.objects.filter(user=user, role=role, facility=facility).first()
                if held is None:
                    raise CommandError(f"{user.handle} was not granted {role} {where}; roles of groups end there.")
                grants.withdraw(held, by=None)
                self.stdout.write(f"{user.handle} ({user}) is {role} {where} no more.")
                return
            until = _until(options["until"], ZoneInfo(facility.time_zone) if facility else UTC)
            grants.grant(user, role, facility=facility, until=until, by=None)
        except PortalError as error:
            raise CommandError(error.message) from None
        end = f" until {until.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if until else ""
        self.stdout.write(f"{user.handle} ({user}) is {role} {where}{end}. It holds at once.")


def _facility(slug: str | None) -> Facility | None:
    if slug is None:
        return None
    known = Facility.objects.filter(slug=slug).first()
    if known is None:
        there = ", ".join(Facility.objects.values_list("slug", flat=True)) or "none yet"
        raise CommandError(f"There is no facility {slug!r}. There are: {there}.")
    return known


def _until(text: str | None, zone: tzinfo) -> datetime | None:
    if text is None:
        return None
    try:
        if len(text) == len("2027-03-31"):
            return datetime.combine(date.fromisoformat(text) + timedelta(days=1), time(), zone)
        end = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(f"{text!r} is no date. Write 2027-03-31 or 2027-03-31T18:00.") from None
    return end if end.tzinfo else end.replace(tzinfo=zone)
