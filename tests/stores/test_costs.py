"""No single request costs more than a second of CPU or 50 MB, whatever is asked: the worst that each address takes.

Each is asked alone on an idle portal; the web process's own clock and its high-water mark say what it cost.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stores.browser import Answer, Browser
from tests.stores.rig import Rig, memory_of

MOST_SECONDS = 1.0
MOST_BYTES = 50 * 2**20
#: just below what a body may have
BODY = 260_000


@pytest.fixture(scope="module")
def heavy() -> Iterator[Rig]:
    with Rig(people=2, experiments=500) as rig:
        rig.ask("burden", "user0001")
        yield rig


def worst(browser: Browser, experiment: str) -> dict[str, tuple[str, str, bytes, dict[str, str]]]:
    """Name → method, path, body, headers."""
    words = "+".join(f"word{number:04}" for number in range(20))
    json_type = {"Content-Type": "application/json"}
    token = {"Authorization": f"Bearer {browser.person.token}"}
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    cookies = browser.cookies[browser.rig.site.host]
    form["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
    form["X-CSRFToken"] = cookies["__Host-csrf"]

    def api(value: Any) -> tuple[str, str, bytes, dict[str, str]]:
        return raw(json.dumps(value, separators=(",", ":")).encode())

    def raw(body: bytes) -> tuple[str, str, bytes, dict[str, str]]:
        return "POST", "/api/v1/instances", body, token | json_type

    def get(path: str, **more: str) -> tuple[str, str, bytes, dict[str, str]]:
        return "GET", path, b"", more

    wanted = {"plan": browser.rig.plan, "name": "x"}
    return {
        "page of experiments": get("/experiments"),
        "page of experiments, every filter": get(f"/experiments?q={words}&text={words}&instrument=BL0&year=2021"),
        "page of experiments, 8 kB of words": get("/experiments?text=" + "+".join("abcdefg" for _ in range(900))),
        "search, 2 kB": get("/search?q=" + "10.5072/" * 250),
        "API experiments, most a page": get("/api/v1/experiments?limit=100", **token),
        "API experiments, long filter": get(f"/api/v1/experiments?limit=100&text={words}", **token),
        "landing page of an unknown DOI, 7 kB": get("/doi/" + "10.5072/" + "%28" * 2300),
        "landing page of a proposal of 500 runs": get("/doi/10.5072/DATA-900000"),
        "page of instances, 100 of 500 runs": get("/instances/"),
        "API instances, 100 of 500 runs": get("/api/v1/instances?limit=100", **token),
        "OpenAPI": get("/api/v1/openapi.json"),
        "new instance, 500 runs": api(wanted | {"experiments": [experiment] * 500}),
        "JSON: one run 6 500 times": api(wanted | {"experiments": [experiment] * (BODY // 40)}),
        "JSON: 120 000 zeros for runs": api(wanted | {"experiments": [0] * (BODY // 2 - 50)}),
        "JSON: 20 000 unknown fields": api({f"f{number}": 0 for number in range(20_000)}),
        "JSON: 85 000 empty lists": raw(b"[" + b"[]," * (BODY // 3 - 10) + b"[]]"),
        "JSON: 260 kB of brackets": raw(b"[" * BODY),
        "JSON: a number of 260 kB": raw(b"9" * BODY),
        "JSON: a name of 260 kB": api(wanted | {"name": "x" * (BODY - 100)}),
        "JSON: 1 MB": raw(b"[" + b"[]," * 330_000 + b"[]]"),
        "new instance, 120 in the link": get("/instances/new?" + f"experiments={experiment}&" * 120),
        "form: 260 kB in one field": ("POST", "/instances/new", b"name=" + b"%2f" * (BODY // 3 - 5), form),
        "form: 65 000 fields": ("POST", "/instances/new", b"a=b&" * (BODY // 4), form),
        "form: 1 000 runs": ("POST", "/instances/new", f"experiments={experiment}&".encode() * 990, form),
        "form: 900 kB": ("POST", "/instances/new", b"x" * 900_000, form),
        "body of 40 MB": ("POST", "/instances/new", b"x" * 40_000_000, form),
        "cookies, 14 kB": get("/", Cookie="; ".join(f"c{number}=x" for number in range(1700))),
    }  # fmt: skip


def cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def high_water(pid: int) -> int:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024


async def cost(browser: Browser, request: tuple[str, str, bytes, dict[str, str]]) -> tuple[float, int, Answer]:
    method, path, body, fields = request
    pid = browser.rig.web.pid
    cookies = (
        {} if "Authorization" in fields or "Cookie" in fields else {"Cookie": f"__Host-sid={browser.person.session}"}
    )
    await asyncio.sleep(0.2)
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the high-water mark begins anew
    cpu, memory = cpu_of(pid), high_water(pid)
    answer: Answer | None = None
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):  # it may hang up on what is too long
        answer = await browser.wire.ask(method, path, browser.rig.site.host, cookies | fields, body)
    answer = answer or Answer(413, [], b"")
    await asyncio.sleep(0.2)
    return cpu_of(pid) - cpu, high_water(pid) - memory, answer


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.timeout(600)
async def test_no_single_request_costs_much(heavy: Rig) -> None:
    browser = Browser.of(heavy, heavy.people[1])
    await browser.page("/")  # the form's token
    experiment = (await browser.api("GET", "experiments")).json()["results"][0]["id"]
    too_much = []
    for name, request in worst(browser, experiment).items():
        await cost(browser, request)  # what the first of a kind loads is not its own
        seconds, size, answer = await cost(browser, request)
        print(f"| {name} | {answer.status} | {seconds * 1000:.0f} ms | {size / 2**20:.1f} MB | {len(answer.body)} |")
        assert answer.status < 500
        if seconds > MOST_SECONDS or size > MOST_BYTES:
            too_much.append(name)
    assert too_much == []
    assert memory_of(heavy.web.pid) < 400 * 2**20
