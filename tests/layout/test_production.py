"""From the install page to a notebook, in production's layout: servers with passwords, TLS, several of each process."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.test_story import DOI, LAB_READY
from tests.browser.test_story import TestStory as Story
from tests.layout.conftest import Installed

pytestmark = [pytest.mark.layout, pytest.mark.root, pytest.mark.browser, pytest.mark.timeout(900)]

UNITS = {
    "beamport-gateway.service": "beamport-gateway",
    "beamport-web@1.service": "beamport",
    "beamport-web@2.service": "beamport",
    "beamport-worker@1.service": "beamport",
    "beamport-worker@2.service": "beamport",
    "beamport-supervisor.service": "root",
}


def shell(running: Installed, text: str) -> str:
    return running.facility.machine.run(text).strip()


class TestLayout:
    """What the page made."""

    def test_each_unit_runs_as_its_user(self, running: Installed) -> None:
        found = {name: shell(running, f"ps -o user:32= -p $(systemctl pid {name})") for name in UNITS}
        assert found == UNITS
        assert int(shell(running, "pgrep -c -u beamport-gateway")) == 3  # a parent and two

    def test_systemd_itself_finds_no_fault_with_the_units(self, running: Installed) -> None:
        assert shell(running, "systemd-analyze verify /etc/systemd/system/beamport* 2>&1 | grep beamport || true") == ""

    def test_no_secret_stands_where_others_can_read_it(self, running: Installed) -> None:
        folder = running.facility.machine.root / "etc" / "beamport" / "secrets"
        values = [path.read_text().strip() for path in folder.rglob("*") if path.is_file()]
        values += [value.rpartition(":")[2].partition("@")[0] for value in values if "://" in value]
        assert len(values) > 7
        words = shell(running, "cat /proc/[0-9]*/cmdline /etc/beamport/beamport.env /etc/systemd/system/beamport*")
        assert not [value for value in values if len(value) > 8 and value in words]
        stranger = "runuser -u nobody -- cat /etc/beamport/secrets/secret_key 2>&1 || true"
        assert shell(running, stranger).endswith("Permission denied")

    def test_the_stores_ask_for_their_passwords(self, running: Installed) -> None:
        assert "NOAUTH" in shell(running, "redis-cli -h 127.0.0.1 ping")
        without = "psql -h 127.0.0.1 -U beamport -w beamport -c 'SELECT 1' 2>&1 || true"
        assert "no password supplied" in shell(running, without)

    def test_plain_http_and_strangers_names_get_nothing(self, running: Installed) -> None:
        assert shell(running, f"curl -s -o /dev/null -w %{{http_code}} -H 'Host: other.test' {running.url}/") == "421"
        assert "000" in shell(running, "curl -s -o /dev/null -w %{http_code} http://127.0.0.1:443/ || true")


class TestProduction(Story):
    """The same walk as in the demo."""


class TestRestarts:
    """Web and worker are restarted one after the other, while a notebook is open and people click."""

    def test_an_orderly_restart_drops_nothing(self, running: Installed, page: Page, visitor: BrowserContext) -> None:
        page.goto(f"{running.url}/instances/new?dois={DOI}")
        page.get_by_role("button", name="Start").click()
        page.wait_for_url(re.compile(rf"\.{re.escape(running.apps)}/lab"), timeout=60_000)
        expect(page.get_by_role("menuitem", name="Run", exact=True)).to_be_visible(timeout=LAB_READY)
        page.evaluate(ECHO)
        clicks = visitor.new_page()
        clicks.goto(f"{running.url}/instances/")
        clicks.evaluate(CLICK)
        for unit in [name for name in UNITS if "web@" in name or "worker@" in name] * 2:
            before = shell(running, f"systemctl pid {unit}")
            shell(running, f"systemctl restart {unit}")
            assert shell(running, f"systemctl pid {unit}") != before
            page.wait_for_timeout(2_500)  # until it serves again: two are never away at once
        shell(running, "systemctl reload beamport-gateway")
        page.wait_for_timeout(5_000)
        seen = clicks.evaluate("window.seen")
        assert seen["bad"] == []
        assert seen["good"] > 50
        assert page.evaluate("window.echo()") == "open"


#: keep a terminal's socket open; `echo()` says whether the very same one still carries words both ways
ECHO = """async () => {
  const name = (await (await fetch('/api/terminals', {method: 'POST'})).json()).name;
  const socket = new WebSocket(`${location.origin.replace('http', 'ws')}/terminals/websocket/${name}`);
  await new Promise((resolve, reject) => { socket.onopen = resolve; socket.onerror = reject; });
  let text = '';
  socket.onmessage = event => { const [kind, said] = JSON.parse(event.data); if (kind === 'stdout') text += said; };
  window.echo = async () => {
    if (socket.readyState !== WebSocket.OPEN) return 'closed';
    socket.send(JSON.stringify(['stdin', 'echo still-"here"\\r']));
    for (let i = 0; i < 100 && !text.includes('still-here'); i++) await new Promise(done => setTimeout(done, 100));
    return text.includes('still-here') ? 'open' : 'silent';
  };
}"""

#: four people who load pages and ask the API without a pause
CLICK = """() => {
  window.seen = {good: 0, bad: []};
  const paths = ['/instances/', '/experiments', '/api/v1/instances', '/auth/account/'];
  for (const path of paths) (async () => {
    for (;;) {
      try {
        const answer = await fetch(path, {cache: 'no-store'});
        await answer.text();
        if (answer.status === 200) window.seen.good++; else window.seen.bad.push(`${path}: ${answer.status}`);
      } catch (error) { window.seen.bad.push(`${path}: ${error}`); }
      await new Promise(done => setTimeout(done, 20));
    }
  })();
}"""


class TestEveryday:
    """The page's other sections, on the portal that runs."""

    @pytest.mark.parametrize("section", ["Upgrade", "Backup and restore"])
    def test_the_commands_do_what_they_say(self, running: Installed, section: str) -> None:
        before = shell(running, COUNT)
        for block in running.facility.section(section):
            running.facility.follow(block)
        wait = f"curl --silent --fail --retry 30 --retry-delay 1 --retry-all-errors {running.url}/readyz"
        assert shell(running, wait) == '{"status": "ok"}'
        assert shell(running, COUNT) == before


COUNT = "runuser -u postgres -- psql -tA beamport -c 'SELECT count(*) FROM experiments_experiment'"
