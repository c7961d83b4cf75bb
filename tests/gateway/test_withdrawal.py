"""Rights end on every process of every gateway: the real portal's internal address, real sockets, two gateways."""

from __future__ import annotations

import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.conf import settings
from django.db import connections
from django.test import Client

import auth.grants
import auth.services
from auth import access
from auth.models import Session
from auth.oidc import backchannel
from auth.providers import Provider
from auth.roles import InstanceRole, Role
from instances import entry, services
from instances.gateway import clock
from instances.lifecycle import State, Target
from instances.models import Instance, Member
from portal import internal
from portal.embedded.servers import Redis
from portal.lib import bus
from portal.lib.clock import Now, now
from portal.lib.hashing import digest
from tests.factories.auth import RoleGrantFactory, sign_in
from tests.factories.instances import InstanceFactory
from tests.gateway.harness import Harness, Reply, Wire, request
from tests.gateway.processes import Backend, Front, talks

#: what is promised with the bus away, and so the longest that is waited
PROMISED = 10.0


@pytest.fixture
def redis(monkeypatch: pytest.MonkeyPatch) -> Iterator[Redis]:
    """A Redis of this test's own, which it may stop."""
    folder = Path(tempfile.mkdtemp(prefix="rd-", dir="/var/tmp"))
    folder.chmod(0o711)
    (folder / "run").mkdir()
    made = Redis(folder)
    made.start()
    monkeypatch.setattr(settings, "REDIS_URL", f"unix://{made.path}")
    monkeypatch.setattr(bus, "_redis", None)
    yield made
    made.stop()
    bus._redis = None
    shutil.rmtree(folder)


@pytest.fixture
def portal(transactional_db: None, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> Iterator[Harness]:
    """A harness whose internal address is the real one, on this test's database."""
    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", 0)
    harness = Harness(token=settings.GATEWAY_TOKEN)
    with ThreadPoolExecutor(4) as pool:
        monkeypatch.setattr(internal, "_pool", pool)
        monkeypatch.setattr(harness.portal, "internal", internal.application)
        with harness:
            yield harness


class Visit:
    """Somebody on their instance, with a WebSocket through each process of each gateway."""

    fronts: list[Front]
    sockets: list[Wire]
    cookie: str

    def __init__(self, backend: Backend) -> None:
        endpoint = {"service": "jupyter", "kind": "tcp", "path": "", "host": "127.0.0.1", "port": backend.port}
        self.instance: Instance = InstanceFactory(state=State.ACTIVE, target=Target.ACTIVE, endpoints=[endpoint])
        self.login = sign_in(Client(), self.instance.owner)

    def arrive(self, fronts: list[Front]) -> None:
        self.fronts = fronts
        self.cookie = f"__Host-inst={self.enter(fronts[0])}"
        each = [front.sockets_on_each(self.cookie, self.instance.slug) for front in fronts]
        self.sockets = [wire for found in each for wire in found.values()]

    def ticket(self) -> str:
        owner = self.instance.owner
        return entry.issue_ticket(self.login, owner, self.instance, InstanceRole.OWNER, digest(NONCE))

    def enter(self, front: Front) -> str:
        """Come in like a browser, which is asked to come again while the portal has no time."""
        end = time.monotonic() + PROMISED
        while (reply := self.redeem(front, self.ticket())).status >= 500 and time.monotonic() < end:
            time.sleep(0.2)
        assert "__Host-inst" in reply.cookies, (reply.status, reply.body)
        return reply.cookies["__Host-inst"]

    def redeem(self, front: Front, ticket: str) -> Reply:
        fields = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Dest": "document", "Cookie": f"__Host-entry={NONCE}"}
        host = front.gateway.host(self.instance.slug)
        with front.connect() as wire:
            wire.send(request("GET", f"/.portal/enter?t={ticket}&to=/", host, **fields))
            return wire.reply()

    def goes_on(self) -> bool:
        return all(talks(wire) for wire in self.sockets)

    def ends(self, ended: float | None = None) -> None:
        """Wait until everything is closed, at most as long as promised; then nothing opens any more."""
        until = (ended or time.monotonic()) + PROMISED
        for wire in self.sockets:
            wire.sock.settimeout(max(until - time.monotonic(), 0.01))
            assert wire.closed
        for front in self.fronts:
            assert front.get(cookie=self.cookie, slug=self.instance.slug).status in (401, 403, 503)


Begin = Callable[..., list[Visit]]
Ending = Callable[[Visit], None]


class VisitByRole(Visit):
    """Of a visitor, on an instance without an experiment; the role lasts an hour."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        Instance.objects.filter(pk=self.instance.pk).update(by_role=True)
        hour = Now() + timedelta(hours=1)
        self.grant = RoleGrantFactory(user=self.instance.owner, role=Role.VISITOR, expires_at=hour)


NONCE = "n" * 43


def log_out(visit: Visit) -> None:
    auth.services.end_session(visit.login)


def suspend(visit: Visit) -> None:
    operator = RoleGrantFactory(role=Role.OPERATOR).user
    auth.services.suspend(visit.instance.owner, by=operator, reason="left")


def told_by_the_provider(visit: Visit) -> None:
    """What a logout token that has passed its checks leads to."""
    identity = visit.login.identity
    assert identity is not None
    provider = Provider(slug="demo", title="", issuer=identity.issuer, client_id="", client_secret="")
    access.end(backchannel._named(provider, {"sub": identity.subject}))


def become_operator(visit: Visit) -> None:
    """Signed in for longer than one who runs the portal may be. Nobody says a word on the bus about this one."""
    Session.objects.filter(pk=visit.login.pk).update(created_at=Now() - timedelta(hours=5))
    RoleGrantFactory(user=visit.instance.owner, role=Role.OPERATOR)


def stop(visit: Visit) -> None:
    services.stop(visit.instance, by=visit.instance.owner)


def delete(visit: Visit) -> None:
    services.delete(visit.instance, by=visit.instance.owner)


def remove(visit: Visit) -> None:
    """Nobody says a word on the bus about this one."""
    Member.objects.filter(instance=visit.instance).delete()


def withdraw_role(visit: Visit) -> None:
    assert isinstance(visit, VisitByRole)
    auth.grants.withdraw(visit.grant, by=RoleGrantFactory(role=Role.ADMIN).user)


def end_role(visit: Visit) -> None:
    """The end is moved to a moment from now; nobody says a word on the bus, then or now."""
    assert isinstance(visit, VisitByRole)
    type(visit.grant).objects.filter(pk=visit.grant.pk).update(expires_at=Now() + timedelta(seconds=1))


@pytest.fixture
def begin(portal: Harness) -> Iterator[Begin]:
    """Begin so many visits at two gateways of two processes each."""
    backend = Backend(portal)
    with ExitStack() as stack:

        def work(count: int, kind: type[Visit] = Visit) -> list[Visit]:
            visits = [kind(backend) for _ in range(count)]
            options = {"GATEWAY_PROCESSES": "2", "GATEWAY_TOKEN": settings.GATEWAY_TOKEN}
            fronts = [stack.enter_context(Front(portal, **options)) for _ in range(2)]
            for visit in visits:
                visit.arrive(fronts)
            return visits

        yield work
    backend.close()


def test_the_bus_closes_everything_on_every_process(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    endings: list[Ending] = [log_out, told_by_the_provider, suspend, stop, delete]
    monkeypatch.setattr(internal, "RESEND_EVERY", 3600.0)  # nothing but the bus tells
    visits = begin(len(endings))
    for number, (visit, end) in enumerate(zip(visits, endings, strict=True)):
        end(visit)
        visit.ends()
        assert all(other.goes_on() for other in visits[number + 1 :])


def test_without_the_bus_everything_is_closed_as_promised(begin: Begin, redis: Redis) -> None:
    endings: list[Ending] = [log_out, told_by_the_provider, suspend, become_operator, stop, delete, remove]
    *visits, other = begin(len(endings) + 1)
    redis.stop()
    assert all(visit.goes_on() for visit in visits)
    for visit, end in zip(visits, endings, strict=True):
        end(visit)
    ended = time.monotonic()
    for visit in visits:
        visit.ends(ended)
    assert other.goes_on()


def test_a_role_that_ends_takes_what_hangs_on_it(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Withdrawn: the bus tells. Over at a time that was set since: the heartbeat does."""
    monkeypatch.setattr(internal, "RESEND_EVERY", 3600.0)
    endings: list[Ending] = [withdraw_role, end_role]
    *visits, other = begin(len(endings) + 1, VisitByRole)
    for number, (visit, end) in enumerate(zip(visits, endings, strict=True)):
        end(visit)
        visit.ends()
        assert all(later.goes_on() for later in visits[number + 1 :])
    assert other.goes_on()


def test_a_role_that_ends_in_time_needs_no_word(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateways know the end from the entry on: the portal is silent about it, and they close to the second."""
    (visit,) = begin(1, VisitByRole)
    assert isinstance(visit, VisitByRole)
    visit.grant.expires_at = now() + timedelta(seconds=8)
    visit.grant.save()
    monkeypatch.setattr(internal, "_withdrawals", lambda which: [])
    visit.arrive(visit.fronts)
    assert visit.goes_on()
    visit.ends(time.monotonic() + (visit.grant.expires_at - now()).total_seconds())
    assert now() >= visit.grant.expires_at


def test_without_the_bus_a_role_ends_as_promised(begin: Begin, redis: Redis) -> None:
    visit, other = begin(2, VisitByRole)
    redis.stop()
    withdraw_role(visit)
    visit.ends()
    assert other.goes_on()


def test_a_lost_message_keeps_no_right(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    visit, other = begin(2)
    monkeypatch.setattr(bus, "_publish", lambda topic, message: None)
    log_out(visit)
    visit.ends()
    assert other.goes_on()


def test_of_two_gateways_redeeming_one_ticket_one_wins(begin: Begin) -> None:
    (visit,) = begin(1)
    for _ in range(3):
        ticket, together = visit.ticket(), threading.Barrier(12)

        def redeem(front: Front, ticket: str = ticket, together: threading.Barrier = together) -> bool:
            together.wait(20)
            return "__Host-inst" in visit.redeem(front, ticket).cookies

        with ThreadPoolExecutor(12) as pool:
            assert sorted(pool.map(redeem, visit.fronts * 6)) == [False] * 11 + [True]


# ---- time ----
@pytest.mark.parametrize("off", [-600, 600])
def test_expiry_follows_the_portals_clock(monkeypatch: pytest.MonkeyPatch, off: float) -> None:
    """This machine's clock is ten minutes off, the portal's is right."""
    wrong = SimpleNamespace(time=lambda: time.time() + off, monotonic=time.monotonic)
    monkeypatch.setattr(clock, "time", wrong)
    with Harness() as gateway:
        backend = gateway.instance()
        _sid, cookie = gateway.session(life=30)
        assert gateway.same_origin(cookie=cookie).status == 200
        expires = int(re.split(r"[.=]", cookie)[5])
        assert abs(expires - time.time() - 30) < 20
        asked = len(backend.heads)
        sid, over = gateway.session(life=-1)
        del gateway.portal.sessions[sid]
        assert gateway.same_origin(cookie=over).status == 401
        assert len(backend.heads) == asked


def test_a_clock_that_jumps_changes_nothing(monkeypatch: pytest.MonkeyPatch, gateway: Harness) -> None:
    gateway.instance()
    _sid, cookie = gateway.session(life=60)
    wrong = SimpleNamespace(time=lambda: time.time() + 86_400, monotonic=time.monotonic)
    monkeypatch.setattr(clock, "time", wrong)
    assert gateway.same_origin(cookie=cookie).status == 200
