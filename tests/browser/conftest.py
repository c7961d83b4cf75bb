"""The whole portal as `manage.py up` starts it, and a Chromium in front of it; once for all browser tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, sync_playwright

from tests.portals import Portal, free_port, state_folder


@dataclass
class Site:
    """A portal to walk through, in whatever layout: its addresses, and where the sessions' host keeps things."""

    url: str
    issuer: str
    apps: str
    #: the port of the portal on the loopback of the sessions' host
    port: int
    #: the state folder as the host calls it, and as we reach it
    state: Path
    files: Path
    data: Path

    @property
    def private(self) -> list[Path]:
        """Folders of the host that no session may see."""
        return [self.state / name for name in ("homes", "local", "run/back", "run/supervisor", "secrets")]


@dataclass
class Running(Site):
    """One that `manage.py up` started on this machine."""

    portal: Portal


def start(state: Path, port: int, seconds: float = 240) -> Running:
    """Start the portal as `make run` does and wait for its Ready line; what `make test` built is used."""
    portal = Portal(state, port)
    url, issuer = f"http://localhost:{port}", f"http://127.0.0.1:{port + 1}"
    running = Running(url, issuer, f"apps.localhost:{port}", port, state, state, state / "data", portal)
    try:
        portal.up(seconds)
    except AssertionError:
        stop(running)
        raise
    return running


def stop(running: Running) -> None:
    running.portal.end()


@pytest.fixture(scope="session")
def running() -> Iterator[Running]:
    with state_folder("bpb-") as state:
        portal = start(state, free_port())
        yield portal
        stop(portal)


CHROMIUM_ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")


@contextmanager
def browser(executable: str | Path | None, *arguments: str) -> Iterator[Browser]:
    """Playwright keeps an event loop in this thread while it lives; Django must not take it for async code of ours."""
    before = os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE")
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=executable, args=[*CHROMIUM_ARGUMENTS, *arguments])
        yield started
        started.close()
    if before is None:
        del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser(shutil.which("chromium")) as started:
        yield started


@pytest.fixture(scope="module")
def visitor(chromium: Browser) -> Iterator[BrowserContext]:
    """A browser of somebody new; errors are kept in `visitor.complaints`, requests in `visitor.asked`."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, locale="en-GB")
    complaints: list[str] = []
    context.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    context.complaints = complaints  # type: ignore[attr-defined]
    asked: list[Request] = []
    context.on("request", lambda request: asked.append(request))
    context.asked = asked  # type: ignore[attr-defined]
    yield context
    context.close()


@pytest.fixture(scope="module")
def page(visitor: BrowserContext) -> Page:
    page = visitor.new_page()
    page.set_default_timeout(20_000)
    return page


def sign_in(page: Page, account: str) -> None:
    """Fill in the demo provider's form; the password is the name."""
    page.get_by_role("textbox", name="Account").fill(account)
    page.get_by_label("Password").fill(account)
    page.get_by_role("button", name="Sign in").click()


def terminal(page: Page, command: str, seconds: float = 20) -> str:
    """Run a command in a JupyterLab terminal through the gateway, from a page of the instance's origin."""
    script = """
    async ([command, seconds]) => {
      const made = await fetch('/api/terminals', {method: 'POST'});
      const name = (await made.json()).name;
      const socket = new WebSocket(`${location.origin.replace('http', 'ws')}/terminals/websocket/${name}`);
      let seen = '';
      await new Promise((resolve, reject) => { socket.onopen = resolve; socket.onerror = reject; });
      const marker = 'END-OF-' + Math.random().toString(36).slice(2);
      const end = new Promise(resolve => {
        socket.onmessage = event => {
          const [kind, text] = JSON.parse(event.data);
          if (kind === 'stdout') { seen += text; if (seen.includes(marker + ':')) resolve(); }
        };
        setTimeout(resolve, seconds * 1000);
      });
      const half = marker.slice(0, 5), rest = marker.slice(5);
      socket.send(JSON.stringify(['stdin', `${command}; echo ${half}""${rest}:$?\\r`]));
      await end;
      socket.close();
      await fetch(`/api/terminals/${name}`, {method: 'DELETE'});
      return seen;
    }"""
    result: Any = page.evaluate(script, [command, seconds])
    return str(result)
