"""No request is ever answered as somebody else: pages, API, events and instances, signing in and out, all mixed.

MIXED_REQUESTS=20000 pytest tests/mixed --slow -m slow      the long version; figures in docs/reference/stores.md
With MIXED_SIGN_OUTS=10 more of them sign out, each with an open socket: how long it lives on is printed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import time

import pytest
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tests.mixed.crowd import Listener, Visitor, Witness, closed_loop, once_a_second
from tests.mixed.echo import Echo
from tests.mixed.provider import Everybody
from tests.stores.browser import Browser, Wire, until
from tests.stores.rig import Rig

#: a crowd may wait long for an answer on a small machine
PATIENCE = 120.0
SIZES = (("MIXED_CLIENTS", "50"), ("MIXED_USERS", "200"))


async def crowd(rig: Rig, provider: Everybody, *, clients: int, users: int, most: int) -> Witness:
    """Let them all loose; most of them share their connections to the gateway, as behind a proxy."""
    witness, shared = Witness(), Wire(rig.port, PATIENCE)
    visitors = [
        Visitor(number, Browser.of(rig, person, shared if number % 3 else Wire(rig.port, PATIENCE)), provider, witness)
        for number, person in enumerate(rig.people)
    ]
    for start in range(0, len(visitors), 10):
        await asyncio.gather(*(visitor.arrive() for visitor in visitors[start : start + 10]))
    began, before = time.monotonic(), witness.asked
    listeners = [Listener(visitor) for visitor in visitors[clients : clients + users]]
    async with contextlib.AsyncExitStack() as open_pages:
        for listener in listeners:
            # of a sign-in of its own: this page stays open when its user signs out elsewhere
            listener.events.browser = Browser.of(rig, listener.visitor.browser.person)
            await open_pages.enter_async_context(listener.events)
        await until(lambda: all("hello" in listener.events.names() for listener in listeners))
        enough = asyncio.Event()
        speaking = asyncio.create_task(speak(rig, listeners, enough))
        await asyncio.gather(
            closed_loop(visitors, clients, most, witness),
            once_a_second(visitors[clients : clients + users], most, witness),
        )
        enough.set()
        await speaking
        await until(lambda: all(listener.heard()[-1:] == listener.told[-1:] for listener in listeners))
    for listener in listeners:
        if listener.heard() != listener.told:
            witness.complain(listener.visitor, "events", f"told {listener.told}, heard {listener.heard()}")
        witness.asked += len(listener.heard())
        witness.kinds["event"] += len(listener.heard())
    seconds = time.monotonic() - began
    print(f"{witness.asked - before} in {seconds:.0f} s; {dict(witness.kinds)}; {dict(witness.statuses)}")
    if witness.ends:
        print(witness.figures())
    return witness


async def speak(rig: Rig, listeners: list[Listener], enough: asyncio.Event) -> None:
    """Say something to one open page after the other, over the bus; each once, so the client must not try again."""
    once = Retry(NoBackoff(), 0)
    path = str(rig.folder / "run" / "back" / "redis.sock")
    async with redis.asyncio.Redis(unix_socket_path=path, retry=once) as client:
        for listener in itertools.cycle(listeners):
            if enough.is_set():
                return
            message = {"user": listener.visitor.browser.person.uid, "event": listener.next()}
            await client.publish("beamport.pages", json.dumps(message))
            await asyncio.sleep(1 / len(listeners))


async def nobody_as_another(*, clients: int, users: int, most: int) -> Witness:
    echoes = [Echo(f"mark-{number:04}-0") for number in range(clients + users)]
    for echo in echoes:
        await echo.start()
    rig = Rig(people=clients + users, instances=1, endpoints=[echo.port for echo in echoes])
    with Everybody(rig.port + 1) as provider:
        try:
            await asyncio.to_thread(rig.start)
            provider.client_secret = rig.state.secret("oidc_client_secret")
            return await crowd(rig, provider, clients=clients, users=users, most=most)
        finally:
            await asyncio.to_thread(rig.__exit__)
            for echo in echoes:
                echo.server.close()


@pytest.mark.timeout(240)
async def test_two_thousand_are_answered_as_themselves() -> None:
    witness = await nobody_as_another(clients=10, users=10, most=2_000)
    assert witness.complaints == []
    assert not {502, 503} & witness.statuses.keys()
    assert witness.kinds.keys() >= {"page", "api", "api by cookie", "instance", "hung up on", "after sign-out", "event"}


@pytest.mark.slow
@pytest.mark.timeout(3000)
async def test_twenty_thousand_are_answered_as_themselves() -> None:
    most = int(os.environ.get("MIXED_REQUESTS", "20000"))
    clients, users = (int(os.environ.get(name, default)) for name, default in SIZES)
    witness = await nobody_as_another(clients=clients, users=users, most=most)
    assert witness.complaints == []
    assert witness.asked >= most
