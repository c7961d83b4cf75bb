"""Many people at once, and one who looks at every answer: is it his who asked, and nobody else's?"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import uuid
from collections import Counter
from dataclasses import dataclass, field
from math import ceil
from typing import Any
from urllib.parse import urlencode

from django.middleware.csrf import _does_token_match
from websockets.exceptions import InvalidMessage, InvalidStatus

from tests.mixed.provider import Everybody
from tests.stores.browser import SESSION, Answer, Browser, Events, form_token, until
from tests.stores.rig import SOON

#: of a person, of an instance, of an event: the number is whose it is
#: not answered at all, as whomever
TOO_BUSY = (502, 503)
#: how often somebody signs out, of about a hundred things
SIGN_OUTS = int(os.environ.get("MIXED_SIGN_OUTS", "1"))
_MARKS = re.compile(r"mark(?:er|-|ed)(\d{4})")


@dataclass
class Witness:
    """What has been seen of everybody; complaints are answered as somebody else."""

    asked: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    #: seconds from a sign-out's being sent, and from its answer, until the notebook's socket was closed
    ends: list[tuple[float, float]] = field(default_factory=list)
    _ids: set[str] = field(default_factory=set)
    _owners: dict[str, int] = field(default_factory=dict)

    def note(self, who: Visitor, kind: str, answer: Answer, *, whole: bool = True) -> Answer:
        """Look at an answer; `whole` = it must be 200 with his own mark in it."""
        self.asked += 1
        self.kinds[kind] += 1
        self.statuses[answer.status] += 1
        text = answer.text + json.dumps(answer.fields)
        found = {int(number) for number in _MARKS.findall(text)}
        if found - {who.number}:
            self.complain(who, kind, f"marks of {sorted(found - {who.number})}")
        if whole and answer.status == 200 and who.number not in found:
            self.complain(who, kind, "200 without his mark")
        self._look_at_head(who, kind, answer)
        return answer

    def _look_at_head(self, who: Visitor, kind: str, answer: Answer) -> None:
        if request_id := answer.get("x-request-id"):
            if request_id in self._ids:
                self.complain(who, kind, f"request id {request_id} again")
            self._ids.add(request_id)
        for name, value in answer.cookies().items():
            if value.strip('"') and self._owners.setdefault(f"{name}={value}", who.number) != who.number:
                self.complain(who, kind, f"{name} of user {self._owners[f'{name}={value}']}")
        if answer.get("etag"):
            self.complain(who, kind, "a page that caches can keep")

    def figures(self) -> str:
        """How long rights outlived their end."""
        since_sent, since_answered = (sorted(times) for times in zip(*self.ends, strict=True))
        named = (("after it was sent", since_sent), ("after its answer", since_answered))
        return f"{len(self.ends)} sign-outs closed a socket: " + "; ".join(
            f"{name} p50 {at(times, 0.5):.3f}, p99 {at(times, 0.99):.3f}, longest {times[-1]:.3f} s"
            for name, times in named
        )

    def complain(self, who: Visitor, kind: str, what: str) -> None:
        self.complaints.append(f"user {who.number}, {kind}: {what}")


def at(times: list[float], share: float) -> float:
    """The time within which this share of all lie (they are sorted)."""
    return times[max(ceil(share * len(times)), 1) - 1]


class Visitor:
    """One of the crowd: looks around, uses his instance, signs out and in again, hangs up on a tenth of all."""

    def __init__(self, number: int, browser: Browser, provider: Everybody, witness: Witness) -> None:
        self.number = number
        self.browser = browser
        self.provider = provider
        self.witness = witness
        self.random = random.Random(number)
        self.secret = ""
        self.slug = browser.person.instances[0]["slug"]

    @property
    def subject(self) -> str:
        return f"{self.browser.person.marker}@provider.example"

    async def arrive(self) -> None:
        """Sign in and go to the instance; again, when the portal has too much to do."""
        while not (await self.sign_in() and await self.enter()):
            await asyncio.sleep(1)

    async def act(self) -> None:
        """One thing of many, as often as people do it."""
        acts = {
            self.look: 30, self.call: 20, self.call_by_cookie: 10, self.use: 35, self.miss: 5, self.hang_up: 11,
            self.sign_out_and_in: SIGN_OUTS,
        }  # fmt: skip
        (act,) = self.random.choices(list(acts), list(acts.values()))
        await act()

    def note(self, kind: str, answer: Answer, *, whole: bool = True) -> Answer:
        return self.witness.note(self, kind, answer, whole=whole)

    async def look(self) -> None:
        path = self.random.choice(["/", "/auth/account/", "/instances/", "/experiments"])
        answer = self.note("page", await self.browser.page(path))
        token = form_token(answer.text)
        own = self.browser.cookies[self.browser.rig.site.host].get("__Host-csrf", "")
        if answer.status == 200 and not (token and own and _does_token_match(token, own)):
            self.witness.complain(self, path, "another's form token")
        if answer.status not in (200, *TOO_BUSY):
            self.witness.complain(self, path, f"signed in, answered {answer.status}")
        if answer.get("cache-control") != "private, no-store":
            self.witness.complain(self, path, "may be kept by others")

    async def call(self) -> None:
        path = self.random.choice(["me", "instances"])
        self.note("api", await self.browser.api("GET", path))

    async def call_by_cookie(self) -> None:
        self.note("api by cookie", await self.browser.page(f"/api/v1/{self.random.choice(['me', 'instances'])}"))

    async def use(self) -> None:
        """Ask his instance something that nobody asked before; its secret is its own, always the same."""
        path = f"/{uuid.uuid4()}"
        answer = self.note("instance", await self.browser.inside(self.slug, path))
        if answer.status in TOO_BUSY:
            return
        if answer.status != 200:
            self.witness.complain(self, "instance", f"answered {answer.status}")
            return
        said = answer.json()
        self.secret = self.secret or said["secret"]
        if said["asked"] != path or said["secret"] != self.secret:
            self.witness.complain(self, "instance", "another's question or secret")

    async def miss(self) -> None:
        self.note("nothing there", await self.browser.page(f"/instances/{uuid.uuid4()}/"), whole=False)

    async def hang_up(self) -> None:
        path, host = self.random.choice(
            [("/auth/account/", ""), ("/instances/", ""), ("/", self.browser.host(self.slug))]
        )
        await self.browser.ask("GET", path, host=host, Sec_Fetch_Site="same-origin", abort=self.random.random() * 0.05)
        self.witness.asked += 1
        self.witness.kinds["hung up on"] += 1

    # ---- sign-in ----
    async def sign_in(self) -> bool:
        browser = self.browser
        browser.cookies[browser.rig.site.host] = {}
        self.note("sign-in", await browser.page("/auth/sign-in/"), whole=False)
        begun = self.note("sign-in", await browser.post("/auth/demo/login/", next="/"), whole=False)
        if begun.status in TOO_BUSY:
            return False
        assert begun.status == 200, begun.text
        url = begun.get("refresh").partition("url=")[2]
        carried = urlencode(self.provider.sign_in(url, self.subject))
        done = self.note("sign-in", await browser.page(f"/auth/demo/callback/?{carried}"), whole=False)
        assert done.status in (200, *TOO_BUSY), done.text
        return done.status == 200

    async def enter(self) -> bool:
        self.browser.cookies.pop(self.browser.host(self.slug), None)
        answer, _ = await self.browser.enter(self.slug)
        self.note("entry", answer)
        assert answer.status in (200, *TOO_BUSY), answer.text
        return answer.status == 200

    async def sign_out(self) -> Answer:
        """Sign out with a notebook's socket open, and see how long it outlives that."""
        now = asyncio.get_running_loop().time
        try:
            socket = await self.browser.socket("/socket", self.browser.host(self.slug))
        except (InvalidStatus, InvalidMessage, TimeoutError):  # too busy
            return self.note("sign-out", await self.browser.post("/auth/logout/"), whole=False)
        async with socket:
            began = now()
            gone = self.note("sign-out", await self.browser.post("/auth/logout/"), whole=False)
            answered = now()
            if gone.status == 200:
                async with asyncio.timeout(SOON):
                    await socket.wait_closed()
                self.witness.ends.append((now() - began, max(now() - answered, 0.0)))
        return gone

    async def sign_out_and_in(self) -> None:
        """After the answer the session is worth nothing, in the portal at once and on the instance's origin soon."""
        portal = self.browser.rig.site.host
        old = {host: dict(jar) for host, jar in self.browser.cookies.items()}
        gone = await self.sign_out()
        if gone.status in TOO_BUSY:
            return
        assert gone.status == 200, gone.text
        ghost = Browser(self.browser.rig, self.browser.person, self.browser.wire)
        for path in ("/auth/account/", "/api/v1/me"):
            ghost.cookies = {portal: {SESSION: old[portal][SESSION]}}
            after = self.note("after sign-out", await ghost.page(path), whole=False)
            if after.status == 200:
                self.witness.complain(self, path, "200 after sign-out")
        ghost.cookies = {host: dict(jar) for host, jar in old.items() if host != portal}

        async def refused() -> bool:
            return (await ghost.inside(self.slug)).status in (401, 403)

        await until(refused, what="the end of the instance's session")
        for _ in range(3):
            if (await ghost.inside(self.slug)).status == 200:
                self.witness.complain(self, "instance", "200 after sign-out")
        await self.arrive()


class Listener:
    """A page that is open all the while, and must hear what is for its user and nothing else."""

    def __init__(self, visitor: Visitor) -> None:
        self.visitor = visitor
        self.events = Events(visitor.browser)
        self.told: list[str] = []

    def next(self) -> dict[str, Any]:
        """What to publish for this page's user."""
        self.told.append(f"marked{self.visitor.number:04}-{len(self.told)}")
        return {"type": "instance-changed", "id": self.told[-1]}

    def heard(self) -> list[str]:
        return [event["id"] for event in self.events.heard if event["type"] == "instance-changed"]


async def closed_loop(visitors: list[Visitor], clients: int, most: int, witness: Witness) -> None:
    """So many clients, each with a person of its own, ask as soon as they are answered."""

    async def client(number: int) -> None:
        while witness.asked < most:
            await visitors[number].act()

    await asyncio.gather(*(client(number) for number in range(clients)))


async def once_a_second(visitors: list[Visitor], most: int, witness: Witness) -> None:
    """Each asks once a second, or when the last answer has come, if that is later."""

    async def user(visitor: Visitor) -> None:
        await asyncio.sleep(visitor.random.random())
        while witness.asked < most:
            await asyncio.gather(visitor.act(), asyncio.sleep(1))

    await asyncio.gather(*(user(visitor) for visitor in visitors))
