"""Bring the database up to date and, in the demo, load its data: one process, so that Django is imported once."""

from __future__ import annotations

import os
import sys

#: what each app brings to the demo, in this order; each is idempotent
DEMO_COMMANDS = ("demo_people", "demo_data", "demo_instances")


def main() -> int:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    import django
    from django.conf import settings
    from django.core.management import CommandError, call_command, get_commands

    django.setup()
    try:
        call_command("check", fail_level="ERROR")
        call_command("migrate", interactive=False, verbosity=0)
        if not settings.DEMO:
            call_command("collectstatic", interactive=False, verbosity=0)
        else:
            for name in DEMO_COMMANDS:
                if name in get_commands():
                    call_command(name)
    except CommandError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
