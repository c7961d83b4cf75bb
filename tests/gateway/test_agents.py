"""Agents in their users' hands: what they say is bounded, looked at, and counts for their own instance alone."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from instances.gateway import agents
from instances.gateway.agents import read
from portal.lib.hashing import instance_secret
from tests.gateway.harness import INSTANCE_KEY, Backend, Handler, Harness

UID = "01234567-89ab-cdef-0123-456789abcdef"
REPORT = {
    "instance": UID,
    "activity": {"busy": 1, "kernels": 2, "last_active": 1767272400.5},
    "cpu": 0.5,
    "memory": {"used": 700, "limit": 4000, "kills": 1},
    "disks": {"home": {"used": 5, "size": 10}, "scratch": {"used": 1, "size": 2}},
}


def told(**changes: Any) -> bytes:
    return json.dumps({**REPORT, **changes}).encode()


# ---- what can be believed ----
def test_a_report_is_read():
    assert read(told(), UID) == {
        "activity": {"busy": 1, "kernels": 2, "last_active": 1767272400.5},
        "use": {
            "cpu": 0.5,
            "memory": 700,
            "memory_kills": 1,
            "home": {"used": 5, "size": 10},
            "scratch": {"used": 1, "size": 2},
        },
    }


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b'"x"',
        b"\xff\xfe",
        b"[" * 16_000,
        b'{"a":' * 3_000,
        b"{}",
        told(instance="01234567-89ab-cdef-0123-456789abcdee"),
        told(instance=None),
        told(instance=[UID]),
        told(cpu=float("nan")),
        told(cpu=float("inf")),
        told().replace(b"0.5,", b"9" * 5_000 + b","),
    ],
)
def test_what_is_no_report_or_anothers_is_not_believed(content):
    assert read(content, UID) is None


@pytest.mark.parametrize("bad", [-1, 1e999, 10**40, "7", True, None, [], {}, [1], {"used": 1}])
def test_a_figure_that_is_none_is_left_out_and_the_others_stand(bad):
    said = json.loads(json.dumps(REPORT))
    said["cpu"] = said["memory"]["used"] = said["disks"]["home"]["used"] = bad
    content = json.dumps(said).replace("Infinity", "1e999").encode()
    assert read(content, UID)["use"] == {"memory_kills": 1, "scratch": {"used": 1, "size": 2}}


@pytest.mark.parametrize("part", ["memory", "disks", "activity"])
@pytest.mark.parametrize("bad", [None, [], "x", 7, {"busy": "many", "home": 7}])
def test_a_part_that_is_none_is_left_out(part, bad):
    said = read(told(**{part: bad}), UID)
    assert said["use"]["cpu"] == 0.5
    assert ("activity" in said) is (part != "activity")


@pytest.mark.parametrize("moment", [2**37 + 1, 2**40, 1e300, -5])
def test_a_moment_that_no_calendar_has_is_left_out(moment):
    said = read(told(activity={"busy": 0, "kernels": 1, "last_active": moment}), UID)
    assert said["activity"] == {"busy": 0, "kernels": 1, "last_active": None}


def test_nothing_that_nobody_asked_for_is_passed_on():
    said = read(told(owner="me", use={"home": 1}, disks={"/etc": {"used": 1, "size": 2}}), UID)
    assert said["use"] == {"cpu": 0.5, "memory": 700, "memory_kills": 1}
    assert set(said) == {"use", "activity"}


# ---- asking ----
def with_agent(gateway: Harness, slug: str = "alpha1234", handler: Handler | None = None) -> Backend:
    """Make an instance with an agent; returns the agent's back end."""
    backend = gateway.instance(slug)
    backend.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")
    agent = Backend(gateway.folder / f"{slug}-agent.sock")
    gateway._backends.append(agent)
    gateway.run(agent.start())
    row = gateway.portal.routes[slug]
    service = {"name": "agent", "kind": "unix", "path": str(agent.path), "probe": "/report", "required": False}
    gateway.route(slug, "active", backend.path, version=2, services=[*row["services"], {**service, "roles": []}])
    if handler is not None:
        agent.handler = handler
    else:
        content = told(instance=row["instance"])
        agent.answers(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content)
    return agent


def ask(gateway: Harness, slug: str = "alpha1234") -> dict[str, Any] | None:
    return gateway.run(gateway.gateway.agents._fetch(gateway.gateway.routes.get(slug)))


def asked(gateway: Harness) -> None:
    gateway.call(gateway.gateway.agents.ask_due)
    gateway.until(lambda: not gateway.gateway.agents._asking)


def report(gateway: Harness) -> dict[str, Any]:
    """Have a report sent; returns its rows by instance."""
    gateway.run(gateway.gateway.probes._report())
    bodies = [body for path, body in gateway.portal.calls if path == "/report"]
    return {row["instance"]: row for row in bodies[-1]["instances"]}


def test_what_an_agent_says_goes_with_the_report_once(gateway):
    agent = with_agent(gateway)
    instance = gateway.portal.routes["alpha1234"]["instance"]
    gateway.until(lambda: gateway.gateway.agents._said)
    row = report(gateway)[instance]
    assert row["answers"] == {"jupyter": True}, "nobody probes an agent"
    assert row["activity"] == REPORT["activity"], "nobody else asks its kernels"
    assert row["use"]["home"] == {"used": 5, "size": 10}
    assert "use" not in report(gateway)[instance]
    secret = instance_secret(INSTANCE_KEY, instance, 1, "agent").encode()
    assert [b"Authorization: token " + secret in head for head in agent.heads] == [True]


def test_an_agent_that_does_not_know_of_kernels_leaves_them_to_the_gateway(gateway):
    content = told(instance="", activity=None)

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        said = content.replace(b'"instance": ""', b'"instance": "%b"' % instance.encode())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(said) + said)

    with_agent(gateway, handler=handler)
    instance = gateway.portal.routes["alpha1234"]["instance"]
    gateway.until(lambda: gateway.gateway.agents._said)
    assert report(gateway)[instance]["activity"] == {"busy": 0, "kernels": 0, "last_active": None}


def test_nobody_opens_an_agent(gateway):
    agent = with_agent(gateway)
    _sid, cookie = gateway.session()
    before = agent.connections
    gateway.until(lambda: not gateway.gateway.agents._asking)
    for path in ("/report", "/agent", "/agent/report", "/.portal/agent"):
        gateway.same_origin(path, cookie=cookie)
    assert set(gateway.gateway.routes.get("alpha1234").services) == {"jupyter"}
    assert agent.connections - before <= 1


async def _endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b" " * 4096)
        await writer.drain()


async def _endless_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-A: " + b"a" * 1000 + b"\r\n")
        await writer.drain()


async def _slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.05)


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def _hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    return


def _says(response: bytes) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response)

    return handler


HOSTILE: dict[str, Handler] = {
    "endless": _endless,
    "endless head": _endless_head,
    "slow": _slow,
    "silent": _silent,
    "hangs up": _hangs_up,
    "redirect": _says(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"),
    "refusal": _says(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"),
    "cut": _says(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"),
    "no http": _says(b"SSH-2.0-hello\r\n\r\n"),
    "promises": _says(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n{}"),
    "another's": _says(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(told()) + told()),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_agent_is_given_up_and_asked_more_seldom(gateway, kind, monkeypatch):
    monkeypatch.setattr(agents, "TIMEOUT", 0.4)
    with_agent(gateway, handler=HOSTILE[kind])
    gateway.until(lambda: gateway.gateway.agents._due.get("alpha1234", (0, 0))[1] == 2 * agents.EVERY)
    assert ask(gateway) is None
    assert gateway.gateway.agents.take(gateway.portal.routes["alpha1234"]["instance"]) == {}
    assert gateway.gateway.agents._due["alpha1234"][0] > time.monotonic() + agents.EVERY


def test_it_is_never_asked_more_seldom_than_that(gateway):
    with_agent(gateway, handler=_hangs_up)
    route = gateway.gateway.routes.get("alpha1234")
    for _ in range(6):
        gateway.run(gateway.gateway.agents._ask(route))
    assert gateway.gateway.agents._due["alpha1234"][1] == agents.LONGEST


def test_many_that_hang_keep_no_report_back(gateway, monkeypatch):
    monkeypatch.setattr(agents, "_AT_ONCE", 2)
    gateway.call(setattr, gateway.gateway.agents, "_gate", asyncio.Semaphore(2))
    monkeypatch.setattr(agents, "TIMEOUT", 600)
    for number in range(6):
        with_agent(gateway, f"hangs{number:04}", handler=_silent)
    gateway.until(lambda: len(gateway.gateway.agents._asking) == 6)
    rows = report(gateway)
    assert [row["answers"] for row in rows.values()] == [{"jupyter": True}] * 6
    _sid, cookie = gateway.session("hangs0000")
    assert gateway.same_origin("/x", cookie=cookie, slug="hangs0000").status == 200
    again: list[Any] = []

    def later() -> None:
        asking = gateway.gateway.agents
        asking._due = dict.fromkeys(asking._due, (0.0, agents.EVERY))
        asking._spawn = again.append  # type: ignore[assignment]
        asking.ask_due()

    gateway.call(later)
    for work in again:
        work.close()
    assert again == [], "none is asked twice at a time"


def test_a_look_that_fails_costs_no_other_row(gateway, monkeypatch):
    for slug in ("alpha1234", "breaks123", "gamma1234"):
        gateway.instance(slug)
    probes = gateway.gateway.probes
    look = probes._look

    async def breaks(route):
        if route.slug == "breaks123":
            raise RuntimeError("nobody thought of that")
        return await look(route)

    monkeypatch.setattr(probes, "_look", breaks)
    assert set(report(gateway)) == {gateway.portal.routes[slug]["instance"] for slug in ("alpha1234", "gamma1234")}
    gateway.until(lambda: "nobody thought of that" in gateway.log)


def test_what_came_from_a_place_that_was_withdrawn_does_not_count(gateway):
    answered = asyncio.Event()

    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await answered.wait()
        content = told(instance=instance)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content)

    instance = ""
    with_agent(gateway, handler=late)
    instance = gateway.portal.routes["alpha1234"]["instance"]
    gateway.until(lambda: gateway.gateway.agents._asking)
    gateway.route("alpha1234", "stopping", None, version=3)
    gateway.call(answered.set)
    gateway.until(lambda: not gateway.gateway.agents._asking)
    assert gateway.gateway.agents.take(instance) == {}


def test_only_who_leads_asks():
    with Harness() as gateway:
        gateway.gateway.probes.leads = False
        agent = with_agent(gateway)
        gateway.run(asyncio.sleep(1.5))
        assert agent.connections == 0
