"""Make a person of a running portal, signed in and with an API token: `python -m tests.kills.account HANDLE LIMIT`.

Run with the portal's own BEAMPORT_STATE; prints one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta

import django


def make(handle: str, limit: int) -> dict[str, object]:
    """Return what a script and a browser of somebody with a quota of `limit` need."""
    from django.conf import settings
    from django.test import Client

    from auth import tokens
    from auth.models import User
    from experiments.models import Experiment
    from instances.models import Plan, Quota
    from tests.factories.auth import sign_in

    user, _ = User.objects.get_or_create(handle=handle, defaults={"display_name": handle.title()})
    scope = {"scope": Quota.Scope.USER, "subject": str(user.uid), "resource": Quota.Resource.INSTANCES, "window": None}
    Quota.objects.update_or_create(**scope, defaults={"limit": limit})
    browser = Client()
    sign_in(browser, user)
    scopes = ["instances:read", "instances:write"]
    _, token = tokens.issue(user, name="kills", scopes=scopes, lasts=timedelta(days=1))
    experiment = Experiment.objects.visible_to(user).order_by("id")[0]
    return {
        "token": token,
        "session": browser.cookies[settings.SESSION_COOKIE_NAME].value,
        "plan": Plan.objects.filter(enabled=True)[0].slug,
        "experiments": [str(experiment.uid)],
    }


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    django.setup()
    print(json.dumps(make(sys.argv[1], int(sys.argv[2]))))
