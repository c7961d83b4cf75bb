"""Sessions of one gateway, without a socket: what a cookie is worth, who lives, and when the portal is asked."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import uuid
from typing import Any

import pytest

from instances.gateway import session as sessions_module
from instances.gateway.session import COOKIE, LIFE, Keys, Session, Sessions

KEY, OLD_KEY = b"k" * 32, b"o" * 32
SLUG, OTHER_SLUG = "alpha12345", "beta123456"


class Time:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.value = 1_000_000.0

    def now(self) -> float:
        return self.value


class Portal:
    """Answers renewals: `living` are the rows it still knows."""

    def __init__(self) -> None:
        self.living: dict[str, dict[str, Any]] = {}
        self.asked: list[list[dict[str, Any]]] = []
        self.error: Exception | None = None

    async def renew(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        self.asked.append(rows)
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        known = [row["sid"] for row in rows if row["sid"] in self.living]
        return {
            "sessions": [self.living[sid] for sid in known],
            "gone": [r["sid"] for r in rows if r["sid"] not in known],
        }


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def portal() -> Portal:
    return Portal()


@pytest.fixture
def ended() -> list[str]:
    return []


@pytest.fixture
def sessions(clock: Time, portal: Portal, ended: list[str]) -> Sessions:
    made = Sessions(clock, portal.renew, ended.append, lambda work: asyncio.create_task(work))  # type: ignore[arg-type]
    made.keys.set(keys())
    return made


def keys(current: str = "k2") -> dict[str, Any]:
    known = {"k1": OLD_KEY, "k2": KEY}
    return {"current": current, "keys": {kid: base64.urlsafe_b64encode(key).decode() for kid, key in known.items()}}


def row(clock: Time, **more: Any) -> dict[str, Any]:
    made = {
        "sid": str(uuid.uuid4()),
        "slug": SLUG,
        "instance": str(uuid.uuid4()),
        "role": "owner",
        "epoch": 1,
        "expires": clock.now() + LIFE,
        "version": 1,
    }
    return made | more


def added(sessions: Sessions, clock: Time, **more: Any) -> Session:
    session = sessions.add(row(clock, **more))
    assert session is not None
    return session


def value_of(sessions: Sessions, session: Session) -> str:
    return sessions.cookie(session).partition(";")[0].partition("=")[2]


# ---- keys ----
def test_what_is_signed_is_read(sessions, clock):
    session = added(sessions, clock, epoch=7)
    claim = sessions.keys.read(sessions.keys.sign(session, 1234))
    assert (claim.sid, claim.slug, claim.expires, claim.epoch) == (session.sid, SLUG, 1234, 7)
    assert claim.session is None


def test_the_form_of_a_cookie_is_fixed(sessions, clock):
    """Gateways of several versions read each other's cookies."""
    session = added(sessions, clock, sid="0" * 8 + "-aaaa-bbbb-cccc-" + "1" * 12, role="guest")
    signed = f"k2.{session.sid}.{SLUG}.guest.99.1"
    mac = base64.urlsafe_b64encode(hmac.digest(KEY, signed.encode(), hashlib.sha256)).decode().rstrip("=")
    assert sessions.keys.sign(session, 99) == f"{signed}.{mac}"


def test_a_key_is_good_while_it_is_told_and_no_longer(sessions, clock):
    session = added(sessions, clock)
    sessions.keys.set(keys("k1"))
    value = sessions.keys.sign(session, 99)
    assert value.startswith("k1.")
    sessions.keys.set(keys("k2"))
    assert sessions.keys.read(value) is not None
    only = keys("k2")
    del only["keys"]["k1"]
    sessions.keys.set(only)
    assert sessions.keys.read(value) is None


def test_a_changed_cookie_is_worth_nothing(sessions, clock):
    value = sessions.keys.sign(added(sessions, clock), 99)
    for place in range(len(value)):
        other = "A" if value[place] != "A" else "B"
        if place != len(value) - 1:  # the last letter holds two bits that no byte has
            assert sessions.keys.read(value[:place] + other + value[place + 1 :]) is None
    assert sessions.keys.read(value + "A") is None
    assert sessions.keys.read(" " + value) is None
    assert sessions.keys.read("") is None


def test_without_keys_nothing_is_read(sessions, clock):
    value = sessions.keys.sign(added(sessions, clock), 99)
    assert Keys().read(value) is None


# ---- a session and its row ----
def test_a_session_is_what_its_row_says(sessions, clock):
    given = row(clock, role="user", epoch=3, version=9)
    session = sessions.add(given)
    assert {name: getattr(session, name) for name in given} == given
    assert session.live
    assert session.used
    assert session.worked
    assert session.tag == hashlib.blake2s(given["sid"].encode(), digest_size=6).hexdigest()
    assert sessions.get(given["sid"]) is session
    assert (len(sessions), sessions.living()) == (1, [session])
    assert sessions.now() == clock.now()


def test_the_higher_version_wins(sessions, clock):
    given = row(clock, version=5)
    session = sessions.add(given)
    sessions.add(given | {"version": 4, "epoch": 9, "expires": clock.now() + 900})
    assert (session.version, session.epoch, session.expires) == (5, 1, given["expires"])
    sessions.add(given | {"version": 5, "epoch": 2, "expires": clock.now() + 900})
    assert (session.version, session.epoch, session.expires) == (5, 2, clock.now() + 900)
    sessions.add(given | {"version": 6, "epoch": 3, "expires": clock.now() + 10})
    assert (session.version, session.epoch, session.expires) == (6, 3, clock.now() + 900)
    assert sessions.add(given | {"version": 7}) is session


@pytest.mark.parametrize("change", [{"role": "guest"}, {"slug": OTHER_SLUG}])
def test_another_role_or_place_ends_it(sessions, clock, ended, change):
    given = row(clock)
    session = sessions.add(given)
    assert sessions.add(given | change) is session, "an older word changes nothing"
    assert session.live
    assert sessions.add(given | change | {"version": 2}) is None
    assert not session.live
    assert ended == [session.sid]
    assert sessions.get(session.sid) is None


# ---- what a cookie is worth ----
def test_a_good_cookie_names_its_session(sessions, clock):
    session = added(sessions, clock)
    assert sessions.check(value_of(sessions, session), SLUG).session is session


def test_a_cookie_is_worth_nothing_elsewhere(sessions, clock):
    session = added(sessions, clock)
    assert sessions.check(value_of(sessions, session), OTHER_SLUG) is None
    assert sessions.check("nonsense", SLUG) is None


def test_a_cookie_of_an_earlier_epoch_is_worth_nothing(sessions, clock):
    given = row(clock)
    value = value_of(sessions, sessions.add(given))
    sessions.add(given | {"epoch": 2, "version": 2})
    assert sessions.check(value, SLUG) is None


def test_a_cookie_whose_session_lies_elsewhere_is_worth_nothing(sessions, clock):
    given = row(clock)
    value = value_of(sessions, sessions.add(given))
    sessions.get(given["sid"]).slug = OTHER_SLUG
    assert sessions.check(value, SLUG) is None


def test_a_session_that_is_not_known_or_has_run_out_costs_a_question(sessions, clock):
    session = added(sessions, clock)
    value = value_of(sessions, session)
    clock.value = session.expires - 0.001
    assert sessions.check(value, SLUG).session is session
    clock.value = session.expires
    claim = sessions.check(value, SLUG)
    assert claim is not None
    assert claim.session is None
    sessions.expire()
    assert sessions.check(value, SLUG).session is None


def test_a_withdrawn_session_is_over_until_its_last_cookie_has_expired(sessions, clock, ended):
    given = row(clock)
    session = sessions.add(given)
    value = value_of(sessions, session)
    sessions.withdraw(session.sid)
    assert not session.live
    assert ended == [session.sid]
    assert sessions.check(value, SLUG) is None
    assert sessions.add(given | {"version": 99}) is None
    clock.value += 2 * LIFE - 0.001
    sessions.expire()
    assert sessions.check(value, SLUG) is None
    clock.value += 0.001
    sessions.expire()
    assert sessions.check(value, SLUG) is not None
    assert sessions.add(given) is not None


def test_who_is_not_known_is_withdrawn_as_well(sessions, ended):
    sessions.withdraw("never-seen")
    assert ended == ["never-seen"]


def test_revocations_are_bounded_and_the_oldest_is_forgotten_first(sessions, clock, monkeypatch):
    monkeypatch.setattr(sessions_module, "_REVOKED", 3)
    given = [row(clock) for _ in range(4)]
    for one in given:
        sessions.withdraw(one["sid"])
    assert [sessions.add(one) is not None for one in given] == [True, False, False, False]


# ---- snapshots and time ----
def test_a_snapshot_ends_what_it_does_not_name(sessions, clock, ended, monkeypatch):
    moment = [10.0]
    monkeypatch.setattr(sessions_module.time, "monotonic", lambda: moment[0])
    kept, gone = row(clock), row(clock)
    sessions.add(kept), sessions.add(gone)
    moment[0] = 20.0
    fresh = added(sessions, clock)
    new = row(clock)
    old_session = sessions.get(gone["sid"])
    sessions.replace([kept, new], since=20.0)
    assert {session.sid for session in sessions.living()} == {kept["sid"], new["sid"], fresh.sid}
    assert ended == [gone["sid"]]
    assert not old_session.live
    assert sessions.add(gone) is not None, "it was forgotten, not judged"
    assert sessions.get(kept["sid"]).seen == 20.0


def test_what_nobody_renewed_is_forgotten_and_its_connections_end(sessions, clock, ended):
    session, longer = added(sessions, clock), added(sessions, clock, expires=clock.now() + LIFE + 1)
    clock.value = session.expires
    sessions.expire()
    assert sessions.living() == [longer]
    assert ended == [session.sid]
    assert not session.live


def test_a_cookie_lasts_as_long_as_the_session_and_five_minutes_at_most(sessions, clock):
    assert LIFE == 300
    short = added(sessions, clock, expires=clock.now() + 60)
    long = added(sessions, clock, expires=clock.now() + 6000)
    assert sessions.check(value_of(sessions, short), SLUG).expires == clock.now() + 60
    assert sessions.check(value_of(sessions, long), SLUG).expires == clock.now() + 300
    text = sessions.cookie(short)
    assert text.startswith("__Host-inst=k2.")
    assert COOKIE == "__Host-inst"
    assert text.endswith("; Path=/; Secure; HttpOnly; SameSite=Lax")


# ---- renewal ----
async def test_many_askers_share_one_call(sessions, clock, portal):
    rows = [row(clock) for _ in range(3)]
    portal.living = {given["sid"]: given for given in rows}
    wanted = [given["sid"] for given in rows] * 5
    found = await asyncio.gather(*(sessions.renew(sid) for sid in wanted))
    assert [session.sid for session in found] == wanted
    assert len(portal.asked) == 1
    assert sorted(ask["sid"] for ask in portal.asked[0]) == sorted(portal.living)
    assert all(ask == {"sid": ask["sid"], "used": True} for ask in portal.asked[0])


async def test_who_asks_a_moment_later_shares_the_call(sessions, clock, portal):
    first = asyncio.create_task(sessions.renew("first"))
    for _ in range(5):
        await asyncio.sleep(0)
    await asyncio.gather(first, sessions.renew("second"))
    assert [[ask["sid"] for ask in asked] for asked in portal.asked] == [["first", "second"]]


async def test_askers_that_come_during_a_call_get_the_next_one(sessions, clock, portal):
    first, second = row(clock), row(clock)
    portal.living = {given["sid"]: given for given in (first, second)}
    started = asyncio.create_task(sessions.renew(first["sid"]))
    while not portal.asked:
        await asyncio.sleep(0)
    assert (await sessions.renew(second["sid"])).sid == second["sid"]
    assert (await started).sid == first["sid"]
    assert [[ask["sid"] for ask in asked] for asked in portal.asked] == [[first["sid"]], [second["sid"]]]
    assert (await sessions.renew(first["sid"])).sid == first["sid"]
    assert len(portal.asked) == 3, "a later asker starts another call"


async def test_who_is_gone_is_withdrawn_and_never_asked_for_again(sessions, clock, portal, ended):
    given = row(clock)
    sessions.add(given)
    assert await sessions.renew(given["sid"]) is None
    assert ended == [given["sid"]]
    assert await sessions.renew(given["sid"]) is None
    assert len(portal.asked) == 1


@pytest.mark.parametrize("error", [OSError("away"), TimeoutError(), ValueError("not JSON")])
async def test_no_answer_changes_nothing(sessions, clock, portal, ended, error):
    known = added(sessions, clock)
    portal.error = error
    assert await sessions.renew(known.sid) is known
    assert await sessions.renew("unknown") is None
    assert (ended, known.live) == ([], True)
    portal.error = None
    portal.living = {known.sid: row(clock, sid=known.sid, version=2, expires=clock.now() + 900)}
    assert (await sessions.renew(known.sid)).expires == clock.now() + 900


async def test_a_bug_in_asking_leaves_nobody_waiting(sessions, clock, portal):
    portal.error = RuntimeError("a bug")
    waiting = asyncio.create_task(sessions.renew("somebody"))
    assert await asyncio.wait_for(waiting, 5) is None
    assert isinstance(sessions._batch.exception(), RuntimeError)


async def test_an_asker_that_goes_away_takes_no_answer_from_the_others(sessions, clock, portal):
    given = row(clock)
    portal.living = {given["sid"]: given}
    leaving = asyncio.create_task(sessions.renew(given["sid"]))
    staying = asyncio.create_task(sessions.renew(given["sid"]))
    await asyncio.sleep(0)
    leaving.cancel()
    assert (await staying).sid == given["sid"]


async def test_what_is_used_or_connected_is_renewed_in_good_time(sessions, clock, portal):
    used, connected, idle, early = (added(sessions, clock) for _ in range(4))
    for session in (connected, idle):
        session.used = session.worked = False
    early.expires = clock.now() + LIFE * 0.6
    for session in (used, connected, idle):
        session.expires = clock.now() + LIFE * 0.6 - 0.001
    portal.living = {s.sid: row(clock, sid=s.sid, version=2) for s in sessions.living()}
    await sessions.renew_due(lambda sid: sid == connected.sid)
    assert portal.asked == [[{"sid": used.sid, "used": True}, {"sid": connected.sid, "used": False}]]
    assert (used.used, used.expires, idle.expires < used.expires) == (False, clock.now() + LIFE, True)
    assert not used.worked
    assert early.used


async def test_what_only_an_open_page_asked_is_renewed_and_no_work(sessions, clock, portal):
    session = added(sessions, clock, expires=clock.now() + 1)
    session.worked = False
    portal.living = {session.sid: row(clock, sid=session.sid, version=2)}
    await sessions.renew_due(lambda sid: False)
    assert portal.asked == [[{"sid": session.sid, "used": False}]]


async def test_five_hundred_are_renewed_in_a_call(sessions, clock, portal):
    made = [added(sessions, clock, expires=clock.now() + 1) for _ in range(1001)]
    portal.living = {s.sid: row(clock, sid=s.sid, version=2) for s in made}
    await sessions.renew_due(lambda sid: False)
    assert [len(asked) for asked in portal.asked] == [500, 500, 1]
    assert [ask["sid"] for asked in portal.asked for ask in asked] == [session.sid for session in made]
