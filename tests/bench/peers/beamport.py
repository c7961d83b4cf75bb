"""A whole Beamport of the benches' own, with a provider that starts nothing."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

from portal.embedded.addresses import Site
from portal.embedded.people import gateway_person, portal_person
from portal.embedded.processes import Child
from portal.embedded.stack import Stack
from portal.embedded.state import State
from tests.bench.api_for_bench import Account, Api
from tests.bench.peers.lib import PATIENCE
from tests.ports import free_port

USERS = 120
PLAN = "bench"


class Beamport:
    """PostgreSQL, Redis, web, worker and gateway as `manage.py up` starts them; no identity provider, no supervisor."""

    def __init__(self, folder: Path, backend: int) -> None:
        folder = folder / "bp"
        folder.mkdir(mode=0o711)
        self.port, self.backend = free_port(2), backend
        os.environ |= {
            "BEAMPORT_STATE": str(folder),
            "BEAMPORT_DEMO": "1",
            "PORT": str(self.port),
            "DJANGO_SETTINGS_MODULE": "tests.bench.settings",
        }
        self.state = State(folder, portal_person(), gateway_person())
        self.state.lay()
        self.stack = Stack(self.state, Site.read())
        self.children: dict[str, Child] = {}

    def start(self) -> None:
        """Start everything and make what the benches need; this process may use the models from then on."""
        for child in (self.stack.postgres(), self.stack.redis()):
            self._launch(child)
        self.api = self._prepare()
        self.start_again("worker", "web", "gateway")

    def start_again(self, *names: str) -> None:
        """Start these at once and wait until all answer."""
        made = {"worker": self.stack.worker, "web": self.stack.web, "gateway": self.stack.gateway}
        children = [made[name]() for name in names]
        for child in children:
            self.children[child.name] = child
            child.start()
        for child in children:
            child.wait_ready(PATIENCE)

    def _launch(self, child: Child) -> None:
        self.children[child.name] = child
        child.start()
        child.wait_ready(PATIENCE)

    def stop(self, *names: str) -> None:
        """Stop these, or all, the last started first."""
        for name in names or tuple(reversed(self.children)):
            self.children.pop(name).stop()

    @property
    def machines(self) -> Path:
        """Where the provider keeps its empty machines."""
        return self.state.folder / "data" / "noop"

    def pids(self, *names: str) -> list[int]:
        return [self.children[name].pid for name in names]

    def _prepare(self) -> Api:
        import django

        django.setup()
        from django.core.management import call_command

        call_command("migrate", interactive=False, verbosity=0)
        from auth.models import User
        from experiments.models import Experiment, Instrument, Proposal
        from instances.models import Flavour, Image, Instance, Plan, Provider, Quota
        from portal.lib.clock import Now

        provider = Provider.objects.create(name="noop", kind="memory", options={"backend": f"127.0.0.1:{self.backend}"})
        services = [{"name": "jupyter", "port": 8888, "probe": "/api/status", "required": True}]
        image = Image.objects.create(provider=provider, name="Nothing", reference="nothing", services=services)
        flavour = Flavour.objects.create(provider=provider, name="small", cores=1, memory=2**30)
        Plan.objects.create(slug=PLAN, name="Bench", image=image, flavour=flavour)
        Quota.objects.create(scope=Quota.Scope.EVERYBODY, resource=Quota.Resource.INSTANCES, limit=2)
        from auth.models import Facility

        facility = Facility.objects.create(slug="bench", name="Bench")
        proposal = Proposal.objects.create(facility=facility, identifier="1", released_at=Now())
        instrument = Instrument.objects.create(facility=facility, code="B1", name="Beamline")
        run = Experiment.objects.create(proposal=proposal, instrument=instrument, external_id="1")
        accounts = [account(User.objects.create(handle=f"bench{n}", display_name="Bench")) for n in range(USERS)]

        def find_slug(uid: str) -> str:
            return str(Instance.objects.values_list("slug", flat=True).get(uid=uid))

        api = Api(self.port, PLAN, accounts, find_slug)
        api.experiments = [str(run.uid)]
        return api


def account(user: object) -> Account:
    """Give a user a token and a session, as sign-in would."""
    from django.http import HttpRequest

    from auth import services
    from auth.models import Identity, User
    from auth.oidc.proof import SignInProof
    from auth.sessions import SessionStore

    assert isinstance(user, User)
    request = HttpRequest()
    request.session = store = SessionStore()
    identity, _ = Identity.objects.get_or_create(user=user, issuer="https://bench.example", subject=str(user.uid))
    services.open_session(request, identity, SignInProof())
    return Account(token(user), store.session_key or "")


def token(user: object) -> str:
    """Give a user a token."""
    from auth import tokens
    from auth.models import User

    assert isinstance(user, User)
    scopes = ["instances:read", "instances:write"]
    return tokens.issue(user, name="bench", scopes=scopes, lasts=timedelta(days=1))[1]
