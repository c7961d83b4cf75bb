#!/usr/bin/env python3
"""Django's command line; `manage.py up` starts everything on one machine."""

import os
import sys


def main() -> None:
    if sys.argv[1:2] == ["up"]:  # before any settings are read: it makes the state folder they need
        from portal.embedded.up import main as up

        sys.exit(up(sys.argv[2:]))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
