"""Browser sessions on instance origins: the signed cookie, who is known to live, who is revoked, and renewal.

The cookie says who somebody was when it was signed. It counts only while the session is in the table of living
ones, which the portal fills (snapshot, stream, redeem, renew); what the table does not know costs one renewal.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from instances.gateway.clock import Clock

COOKIE = "__Host-inst"
#: how long a signed cookie is valid, in seconds; the portal says the same
LIFE = 300
_BATCH_DELAY = 0.01
_REVOKED = 100_000
_FORM = re.compile(
    r"(?P<signed>(?P<kid>[a-z0-9]{1,16})\.(?P<sid>[0-9a-f-]{36})\.(?P<slug>[a-z][a-z0-9]{7,39})\.(?P<role>[a-z]{1,10})"
    r"\.(?P<expires>[0-9]{1,12})\.(?P<epoch>[0-9]{1,9}))\.(?P<mac>[A-Za-z0-9_-]{43})"
)

Ask = Callable[[list[dict[str, Any]]], Awaitable[dict[str, Any]]]
Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class Keys:
    """The keys that sign cookies: the current one and, while keys rotate, the one before."""

    def __init__(self) -> None:
        self._current = ""
        self._keys: dict[str, bytes] = {}

    def set(self, row: dict[str, Any]) -> None:
        self._keys = {kid: base64.urlsafe_b64decode(key) for kid, key in row["keys"].items()}
        self._current = row["current"]

    def _mac(self, key: bytes, signed: str) -> str:
        return base64.urlsafe_b64encode(hmac.digest(key, signed.encode(), hashlib.sha256)).decode().rstrip("=")

    def sign(self, session: Session, expires: int) -> str:
        signed = f"{self._current}.{session.sid}.{session.slug}.{session.role}.{expires}.{session.epoch}"
        return f"{signed}.{self._mac(self._keys[self._current], signed)}"

    def read(self, value: str) -> Claim | None:
        """Return what a well-signed cookie says, else None."""
        match = _FORM.fullmatch(value)
        key = self._keys.get(match["kid"]) if match else None
        if match is None or key is None or not hmac.compare_digest(match["mac"], self._mac(key, match["signed"])):
            return None
        return Claim(match["sid"], match["slug"], int(match["expires"]), int(match["epoch"]))


class Claim:
    """What a well-signed cookie says; `session` is the living session it names, None when only the portal can tell."""

    __slots__ = ("epoch", "expires", "session", "sid", "slug")

    def __init__(self, sid: str, slug: str, expires: int, epoch: int) -> None:
        self.sid, self.slug, self.expires, self.epoch = sid, slug, expires, epoch
        self.session: Session | None = None


class Session:
    """One living session; `live` turns false for good when it is withdrawn."""

    __slots__ = (
        "epoch",
        "expires",
        "instance",
        "live",
        "role",
        "seen",
        "sid",
        "slug",
        "tag",
        "used",
        "version",
        "worked",
    )

    def __init__(self, row: dict[str, Any]) -> None:
        self.sid: str = row["sid"]
        #: names the session in the log, and opens nothing
        self.tag = hashlib.blake2s(self.sid.encode(), digest_size=6).hexdigest()
        self.slug: str = row["slug"]
        self.instance: str = row["instance"]
        self.role: str = row["role"]
        self.epoch: int = row["epoch"]
        self.expires: float = row["expires"]
        self.version: int = row["version"]
        self.live = True
        #: since the last renewal something was asked for
        self.used = True
        #: and not by an open page alone: somebody is at work
        self.worked = True
        self.seen = time.monotonic()


class Sessions:
    """The living sessions of this gateway, and for a while the revoked ones."""

    def __init__(self, clock: Clock, ask: Ask, on_withdraw: Callable[[str], None], spawn: Spawn) -> None:
        self.keys = Keys()
        self._clock = clock
        self._ask = ask
        self._on_withdraw = on_withdraw
        self._spawn = spawn
        self._table: dict[str, Session] = {}
        self._revoked: dict[str, float] = {}
        self._waiting: dict[str, asyncio.Future[Session | None]] = {}
        self._batch: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._table)

    def living(self) -> list[Session]:
        return list(self._table.values())

    def get(self, sid: str) -> Session | None:
        return self._table.get(sid)

    def now(self) -> float:
        return self._clock.now()

    def check(self, value: str, slug: str) -> Claim | None:
        """Return what a cookie sent to `slug` claims, with its session if that is known to live; None: worthless."""
        claim = self.keys.read(value)
        if claim is None or claim.slug != slug or claim.sid in self._revoked:
            return None
        session = self._table.get(claim.sid)
        if session is not None and session.expires > self._clock.now():
            if session.slug != slug or session.epoch != claim.epoch:
                return None
            claim.session = session
        return claim

    # ---- what the portal says ----
    def add(self, row: dict[str, Any]) -> Session | None:
        """Take over a session row; a revoked one stays revoked, the higher version wins."""
        sid = row["sid"]
        if sid in self._revoked:
            return None
        known = self._table.get(sid)
        if known is None:
            known = self._table[sid] = Session(row)
        elif row["version"] > known.version and (row["role"], row["slug"]) != (known.role, known.slug):
            self.withdraw(sid)
            return None
        elif row["version"] >= known.version:
            known.version, known.epoch = row["version"], row["epoch"]
            known.expires = max(known.expires, row["expires"])
        known.seen = time.monotonic()
        return known

    def withdraw(self, sid: str) -> None:
        """End a session here and now; its cookies stay worthless until the last of them has expired."""
        session = self._table.pop(sid, None)
        if session is not None:
            session.live = False
        self._revoked[sid] = self._clock.now() + 2 * LIFE
        if len(self._revoked) > _REVOKED:  # one that is forgotten is unknown, and costs its cookie a question
            del self._revoked[next(iter(self._revoked))]
        self._on_withdraw(sid)

    def replace(self, rows: Iterable[dict[str, Any]], since: float) -> None:
        """Take over a snapshot: what was known before `since` (monotonic) and is not in it has ended."""
        for row in rows:
            self.add(row)  # and is seen now
        for session in self.living():
            if session.seen < since:
                self._drop(session)

    def _drop(self, session: Session) -> None:
        """Forget a session without judging it: its next request asks the portal again."""
        self._table.pop(session.sid, None)
        session.live = False
        self._on_withdraw(session.sid)

    # ---- time ----
    def expire(self) -> None:
        """Drop what has run out (nobody renewed it) and forget old revocations. Open connections end with it."""
        now = self._clock.now()
        for session in self.living():
            if session.expires <= now:
                self._drop(session)
        for sid in [sid for sid, until in self._revoked.items() if until <= now]:
            del self._revoked[sid]

    async def renew(self, sid: str) -> Session | None:
        """Ask the portal whether a session still lives; many askers share one call."""
        if sid in self._revoked:
            return None
        future = self._waiting.get(sid)
        if future is None:
            future = self._waiting[sid] = asyncio.get_running_loop().create_future()
            if self._batch is None or self._batch.done():
                self._batch = self._spawn(self._send_batch())
        return await asyncio.shield(future)

    async def _send_batch(self) -> None:
        while self._waiting:
            await asyncio.sleep(_BATCH_DELAY)
            batch, self._waiting = self._waiting, {}
            try:
                await self.renew_many([{"sid": sid, "used": True} for sid in batch])
            finally:
                for sid, future in batch.items():
                    if not future.done():
                        future.set_result(self._table.get(sid))

    async def renew_many(self, rows: list[dict[str, Any]]) -> None:
        """One call to the portal for all of these; no answer that can be read changes nothing."""
        try:
            answer = await self._ask(rows)
        except (OSError, TimeoutError, ValueError):
            return
        for row in answer["sessions"]:
            self.add(row)
        for sid in answer["gone"]:
            self.withdraw(sid)

    async def renew_due(self, connected: Callable[[str], bool]) -> None:
        """Renew what somebody used or holds a connection for, in good time before it expires."""
        soon = self._clock.now() + LIFE * 0.6
        due = [s for s in self.living() if s.expires < soon and (s.used or connected(s.sid))]
        for start in range(0, len(due), 500):
            part = due[start : start + 500]
            rows = [{"sid": session.sid, "used": session.worked} for session in part]
            for session in part:
                session.used = session.worked = False
            await self.renew_many(rows)

    def cookie(self, session: Session) -> str:
        """Return the Set-Cookie value of a session, valid as long as the portal last said."""
        expires = int(min(session.expires, self._clock.now() + LIFE))
        value = self.keys.sign(session, expires)
        return f"{COOKIE}={value}; Path=/; Secure; HttpOnly; SameSite=Lax"
