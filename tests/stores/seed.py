"""Rows of a portal under test, made and asked for inside its own settings; prints JSON.

python -m tests.stores.seed '{"people": 3, "instances": 1}'     migrates, makes people, prints what they hold
python -m tests.stores.seed <function below> [argument …]
"""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")

import django

django.setup()

from django.core.management import call_command  # noqa: E402
from django.test import Client  # noqa: E402
from django.utils.timezone import now  # noqa: E402

from auth import services as accounts  # noqa: E402
from auth import tokens  # noqa: E402
from auth.models import User  # noqa: E402
from auth.oidc import states  # noqa: E402
from auth.sessions import SessionStore  # noqa: E402
from experiments.models import Experiment  # noqa: E402
from instances.lifecycle import State, Target  # noqa: E402
from instances.models import Member, Plan  # noqa: E402
from tests.factories.auth import FacilityFactory, IdentityFactory, RoleGrantFactory, UserFactory, sign_in  # noqa: E402
from tests.factories.experiments import DatasetFactory, ExperimentFactory, ProposalFactory  # noqa: E402
from tests.factories.instances import InstanceFactory, PlanFactory, ProviderFactory, QuotaFactory  # noqa: E402


def make(
    issuer: str, people: int = 3, instances: int = 0, experiments: int = 3, endpoints: list[int] | None = None
) -> Any:
    """Make people, each with a session, a token and `instances` running instances behind the given loopback ports."""
    call_command("migrate", interactive=False, verbosity=0)
    facility = FacilityFactory(slug="site")
    provider = ProviderFactory(name="memory", facility=facility, options={"serve": True})
    # machines of these are the test's own: no worker sweeps them
    foreign = ProviderFactory(name="echo", facility=facility, enabled=False)
    plan, echo = PlanFactory(image__provider=provider, slug="small"), PlanFactory(image__provider=foreign)
    QuotaFactory(limit=100)
    for experiment in ExperimentFactory.create_batch(
        experiments, proposal=ProposalFactory(facility=facility, opened=True)
    ):
        DatasetFactory(experiment=experiment)
    ports = iter(endpoints or [])
    made = [_person(issuer, number, [_running(echo, f"{number:04}-{n}", next(ports)) for n in range(instances)])
            for number in range(people)]  # fmt: skip
    return {"plan": plan.slug, "people": made}


def _running(plan: Plan, name: str, port: int) -> dict[str, Any]:
    return {"plan": plan, "name": f"mark-{name}", "endpoints": [
        {"service": "jupyter", "kind": "tcp", "host": "127.0.0.1", "port": port}]}  # fmt: skip


def _person(issuer: str, number: int, wanted: list[dict[str, Any]]) -> dict[str, Any]:
    marker = f"marker{number:04}"
    user = UserFactory(handle=f"user{number:04}", display_name=marker)
    IdentityFactory(user=user, issuer=issuer, subject=f"{marker}@provider.example")
    RoleGrantFactory(user=user, role="operator") if number == 0 else None
    _, token = tokens.issue(user, scopes=tokens.SCOPES, lasts=timedelta(days=1))
    instances = [
        InstanceFactory(owner=user, state=State.ACTIVE, target=Target.ACTIVE, ready_at=now(), **row) for row in wanted
    ]
    return {
        "uid": str(user.uid),
        "handle": user.handle,
        "marker": marker,
        "session": session_for(user.handle),
        "token": token,
        "instances": [{"id": str(row.uid), "slug": row.slug, "name": row.name} for row in instances],
    }


def burden(handle: str) -> None:
    """Give somebody a hundred instances of five hundred experiments each, and everything the longest texts."""
    user = User.objects.get(handle=handle)
    Experiment.objects.update(title="Ä measurement " * 140, sample="ü" * 500)
    experiments = list(Experiment.objects.all())
    plan = Plan.objects.get(slug="small")
    for instance in InstanceFactory.create_batch(100, owner=user, plan=plan, state=State.STOPPED):
        instance.experiments.set(experiments)


def session_for(handle: str) -> str:
    """Sign somebody in; returns the cookie's value."""
    user = User.objects.get(handle=handle)
    client = Client()
    sign_in(client, user, user.identities.get())
    return str(client.cookies["__Host-sid"].value)


def sign_out(key: str) -> None:
    """End the session that a cookie's value stands for, as its user does from another browser."""
    session = SessionStore(key).live_row()
    assert session is not None
    accounts.end_session(session)


def begin_sign_in(key: str) -> str:
    """Note an attempt to sign in of the browser that holds this session; returns its state."""
    row = SessionStore(key).live_row()
    assert row is not None
    return states.begin(row, "demo", "/").state


def suspend(handle: str) -> None:
    accounts.suspend(User.objects.get(handle=handle), by=User.objects.get(handle="user0000"), reason="test")


def drop_member(uid: str, handle: str) -> None:
    """Take a membership away, as withdrawing a share does."""
    Member.objects.filter(instance__uid=uid, user__handle=handle).delete()


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    answer = make(**json.loads(what)) if what.startswith("{") else globals()[what](*arguments)
    print(json.dumps(answer))
