"""What counts as work in an instance, and so as use of the sign-in; an open page's polling does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from websockets.sync.client import ClientConnection

from instances.gateway.session import Session
from tests.gateway.harness import Harness
from tests.gateway.test_sockets import Sockets


def rested(gateway: Harness, sid: str) -> Session:
    """Return the session, as if nothing had come for a while."""
    session = gateway.gateway.sessions.get(sid)
    assert session is not None
    session.used = session.worked = False
    return session


@pytest.mark.parametrize(
    ("method", "path", "dest", "worked"),
    [
        ("GET", "/api/kernels?1700000000", "empty", False),
        ("GET", "/api/contents/?content=1&hash=0", "empty", False),
        ("GET", "/api/sessions", "empty", False),
        ("GET", "/api/terminals", "empty", False),
        ("GET", "/lab/api/settings", "empty", False),
        ("HEAD", "/api/status", "empty", False),
        ("GET", "/lab/tree/run.ipynb", "document", True),
        ("GET", "/api/spec", "document", True),
        ("GET", "/files/plot.png", "image", True),
        ("GET", "/h5web/data?file=/api/x", "empty", True),
        ("PUT", "/api/contents/run.ipynb", "empty", True),
        ("POST", "/api/sessions", "empty", True),
        ("PATCH", "/api/sessions/1", "empty", True),
        ("DELETE", "/api/kernels/1", "empty", True),
    ],
)
def test_which_requests_are_work(gateway: Harness, method: str, path: str, dest: str, worked: bool) -> None:
    gateway.instance()
    sid, cookie = gateway.session()
    session = rested(gateway, sid)
    assert (
        gateway.get(path, method=method, Cookie=cookie, Sec_Fetch_Site="same-origin", Sec_Fetch_Dest=dest).status == 200
    )
    assert (session.used, session.worked) == (True, worked)


@pytest.mark.parametrize(
    ("act", "worked"),
    [
        (lambda socket: socket.send('["stdin", "a"]'), True),
        (lambda socket: socket.send(b"execute_request"), True),
        (lambda socket: socket.pong(b""), False),
        (lambda socket: socket.ping(b"beat"), False),
    ],
    ids=["key", "code", "pong", "ping"],
)
def test_which_messages_are_work(gateway: Harness, act: Callable[[ClientConnection], object], worked: bool) -> None:
    sockets = Sockets(gateway)
    with sockets.open(ping_interval=None) as socket:
        session = rested(gateway, sockets.sid)
        act(socket)
        gateway.until(lambda: session.used)
        assert session.worked == worked
    gateway.loop.call_soon_threadsafe(sockets.server.close)


def test_a_socket_that_opens_again_by_itself_is_no_work(gateway: Harness) -> None:
    sockets = Sockets(gateway)
    session = rested(gateway, sockets.sid)
    with sockets.open(ping_interval=None):
        gateway.until(lambda: session.used)
        assert not session.worked
    gateway.loop.call_soon_threadsafe(sockets.server.close)
