"""Open pages on a running portal: one that never reads holds nobody up, and nobody opens sockets without end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket

import redis

from tests.stores.browser import Browser, Events, until
from tests.stores.rig import Rig, memory_of

TOO_MANY = 4429


def say(rig: Rig, person_uid: str, count: int, padding: str = "") -> None:
    with redis.Redis(unix_socket_path=str(rig.folder / "run" / "back" / "redis.sock")) as client:
        for number in range(count):
            event = {"type": "instance-changed", "id": f"{number}{padding}"}
            client.publish("beamport.pages", json.dumps({"user": person_uid, "event": event}))


def open_and_never_read(browser: Browser) -> socket.socket:
    """Upgrade by hand with a tiny window, and leave what comes unread."""
    rig = browser.rig
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", rig.port))
    host = rig.site.host
    cookie = browser.cookies[host]["__Host-sid"]
    raw.sendall(
        f"GET /ws/events HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nCookie: __Host-sid={cookie}\r\n"
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
    )
    assert raw.recv(20).startswith(b"HTTP/1.1 101")
    return raw


async def test_a_page_that_never_reads_holds_nobody_up(rig: Rig) -> None:
    browser = Browser.of(rig, rig.people[1])
    with contextlib.closing(await asyncio.to_thread(open_and_never_read, browser)):
        async with Events(browser) as events:
            await until(lambda: "hello" in events.names())
            memory = memory_of(rig.web.pid)
            # more than all buffers on the way hold
            for burst in range(40):
                await asyncio.to_thread(say, rig, browser.person.uid, 50, f"-{burst}-" + "x" * 8000)
                await until(lambda told=50 * (burst + 1): events.names().count("instance-changed") >= told)
            assert memory_of(rig.web.pid) - memory < 20 * 2**20


async def test_one_user_opens_so_many_sockets_and_no_more(rig: Rig) -> None:
    browser = Browser.of(rig, rig.people[0])
    async with contextlib.AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(Events(browser)) for _ in range(120)]
        refused = lambda: sum(events.closed == TOO_MANY for events in opened)  # noqa: E731
        listening = lambda: sum("hello" in events.names() for events in opened)  # noqa: E731
        await until(lambda: refused() + listening() == len(opened))
        assert (listening(), refused()) == (100, 20)
        other = await stack.enter_async_context(Events(Browser.of(rig, rig.people[1])))
        await until(lambda: "hello" in other.names(), what="another user's socket")
