"""From a DOI link to a notebook with the data open, in a real browser, on real parts; then stop, start, delete."""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path

import h5py
import pytest
from playwright.sync_api import BrowserContext, Page, Request, expect

from tests.browser import leaks
from tests.browser.conftest import Running, Site, sign_in, terminal

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("stack"), pytest.mark.timeout(300)]

DOI = "10.22003/XFEL.EU-DATA-700000-00"
SHOTS = Path(__file__).resolve().parent.parent.parent / "docs" / "use" / "pictures"
LAB_READY = 40_000


def shot(page: Page, name: str) -> None:
    """Refresh a picture of the user guide, only when asked: BEAMPORT_PICTURES=1."""
    if os.environ.get("BEAMPORT_PICTURES"):
        SHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SHOTS / f"{name}.png")


def lab(running: Site) -> re.Pattern[str]:
    """Where JupyterLab is: on an origin of its own."""
    return re.compile(rf"//[a-z0-9]+\.{re.escape(running.apps)}/lab")


def newest_run(data: Path) -> Path:
    return sorted(data.rglob("r[0-9][0-9][0-9][0-9]"), key=lambda path: path.name)[-1]


def train_ids(run: Path) -> set[int]:
    """What h5py alone finds in a run: the union of the files' train ids (0 is padding)."""
    found: set[int] = set()
    for path in run.glob("*.h5"):
        with h5py.File(path, "r") as file:
            found |= {int(train) for train in file["INDEX/trainId"][:] if train}
    return found


class TestStory:
    """The steps build on one another, in this order."""

    def test_the_doi_link_shows_the_landing_page_to_anybody(self, running: Site, page: Page) -> None:
        answer = page.goto(f"{running.url}/doi/{DOI}")
        assert answer is not None
        assert answer.status == 200
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page.get_by_text("How to cite")).to_be_visible()
        expect(page.get_by_role("button", name="Analyse").or_(page.get_by_role("link", name="Analyse"))).to_be_visible()
        shot(page, "landing")

    def test_analyse_signs_in_and_comes_back_to_the_create_page(self, running: Site, page: Page) -> None:
        page.get_by_role("button", name="Analyse").click()
        page.wait_for_url(re.compile(rf"^{re.escape(running.issuer)}/"))
        shot(page, "sign-in")
        sign_in(page, "scientist")
        page.wait_for_url(re.compile(r"/instances/new"))
        boxes = page.get_by_role("checkbox", checked=True)
        expect(boxes.first).to_be_attached()
        assert boxes.count() == 39
        assert page.get_by_label("Name", exact=True).input_value()
        shot(page, "create")

    def test_one_click_starts_and_the_page_goes_on_to_jupyterlab(self, running: Site, page: Page) -> None:
        page.get_by_role("button", name="Start").click()
        page.wait_for_url(re.compile(r"/instances/[0-9a-f-]{36}/"))
        shot(page, "progress")
        page.wait_for_url(lab(running), timeout=60_000)

    def test_the_notebook_opens_the_newest_run(self, running: Site, page: Page) -> None:
        expect(page.get_by_role("tab", name=re.compile("Welcome"))).to_be_visible(timeout=LAB_READY)
        expect(page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible(timeout=LAB_READY)
        page.get_by_role("menuitem", name="Run", exact=True).click(timeout=LAB_READY)
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        printed = page.get_by_text(re.compile(r"Sum of train ids: \d+")).first
        expect(printed).to_be_visible(timeout=60_000)
        said = re.search(r"Sum of train ids: (\d+)", printed.inner_text())
        assert said is not None
        expected = sum(train_ids(newest_run(running.data)))
        assert expected > 0
        assert int(said.group(1)) == expected

    def test_the_detector_image_shows_something(self, page: Page) -> None:
        picture = page.locator(".jp-OutputArea img").first
        expect(picture).to_be_visible(timeout=60_000)
        source = picture.get_attribute("src") or ""
        assert source.startswith("data:image/png;base64,")
        assert len(base64.b64decode(source.split(",", 1)[1])) > 4_000
        colours = page.evaluate(
            """async source => {
                const image = new Image(); image.src = source; await image.decode();
                const canvas = new OffscreenCanvas(image.width, image.height);
                const context = canvas.getContext('2d'); context.drawImage(image, 0, 0);
                const data = context.getImageData(0, 0, image.width, image.height).data;
                const seen = new Set();
                for (let i = 0; i < data.length; i += 4) seen.add(data[i] << 16 | data[i + 1] << 8 | data[i + 2]);
                return seen.size; }""",
            source,
        )
        assert colours > 50
        plotted = page.get_by_text(re.compile(r"smallest value [-\d.e+]+, largest [-\d.e+]+")).first.inner_text()
        low, high = re.search(r"smallest value ([-\d.e+]+), largest ([-\d.e+]+)", plotted).groups()  # type: ignore[union-attr]
        assert float(low) < float(high)
        picture.scroll_into_view_if_needed()
        shot(page, "notebook")

    def test_the_data_are_read_only_and_nothing_else_can_be_reached(self, running: Site, page: Page) -> None:
        seen = terminal(page, "for run in /work/data/*/r*; do touch $run/x; done")
        assert "Read-only file system" in seen
        portal = f"python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", {running.port}), 3)'"
        assert "refused" in terminal(page, portal) or "unreachable" in terminal(page, portal)
        for path in running.private:
            assert "No such file" in terminal(page, f"ls {path}")
        assert "home-mark" in terminal(page, "echo home-mark > /work/home/mark.txt; cat /work/home/mark.txt")
        assert "scratch-mark" in terminal(page, "echo scratch-mark > /work/kept.txt; cat /work/kept.txt")

    @pytest.mark.root
    def test_it_ran_under_the_smallest_flavours_memory_limit(self, running: Site) -> None:
        limits = set()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if b"ipykernel" not in (process / "cmdline").read_bytes():
                    continue
                groups = (process / "cgroup").read_text()
            except OSError:
                continue
            memory = re.search(r"^\d+:(?:[^:]*,)?memory(?:,[^:]*)?:(.+)$", groups, re.M)
            unified = re.search(r"^0::(.+)$", groups, re.M)
            candidates = []
            if memory:
                candidates.append(Path("/sys/fs/cgroup/memory" + memory.group(1)) / "memory.limit_in_bytes")
            if unified:
                candidates.append(Path("/sys/fs/cgroup" + unified.group(1)) / "memory.max")
            limits |= {path.read_text().strip() for path in candidates if path.exists()}
        assert str(2**30) in limits

    def test_script_on_the_instances_origin_has_no_power_over_the_portal(
        self, running: Site, page: Page, visitor: BrowserContext
    ) -> None:
        cookies = page.evaluate("document.cookie")
        assert "__Host-sid" not in cookies
        assert "__Host-csrf" not in cookies
        outcome = page.evaluate(
            """async url => {
                const results = {};
                const text = {'content-type': 'text/plain'};
                for (const [name, options] of Object.entries({
                    read: {credentials: 'include'},
                    write: {credentials: 'include', method: 'POST', body: '{}', headers: text},
                })) {
                    try { results[name] = (await fetch(url, options)).status; }
                    catch (error) { results[name] = 'refused'; }
                }
                return results; }""",
            f"{running.url}/api/v1/instances",
        )
        assert outcome == {"read": "refused", "write": "refused"}

    def test_the_same_person_cannot_exceed_the_quota(self, running: Site, page: Page) -> None:
        for _ in range(2):
            page.goto(f"{running.url}/instances/new?dois={DOI}")
            page.get_by_role("button", name="Start").click()
            page.wait_for_load_state()
        text = page.get_by_role("main").inner_text()
        assert re.search(r"\b2\b.*instances", text)
        assert "delete" in text.lower()
        shot(page, "quota")

    def test_stop_keeps_the_files_and_start_brings_it_back(self, running: Site, page: Page) -> None:
        self.open_first(running, page)
        page.get_by_role("button", name="Stop", exact=True).click()
        expect(page.get_by_role("button", name="Start", exact=True)).to_be_visible(timeout=30_000)
        page.get_by_role("button", name="Start", exact=True).click()
        page.wait_for_url(lab(running), timeout=60_000)
        expect(page.get_by_role("menuitem", name="Run", exact=True)).to_be_visible(timeout=LAB_READY)
        assert "scratch-mark" in terminal(page, "cat /work/kept.txt")
        assert "home-mark" in terminal(page, "cat /work/home/mark.txt")

    def test_delete_keeps_the_home_and_a_new_instance_has_it(self, running: Site, page: Page) -> None:
        for href in self.instances(running, page):
            self.delete(running, page, href)
        page.goto(f"{running.url}/instances/new?dois={DOI}")
        page.get_by_role("button", name="Start").click()
        page.wait_for_url(lab(running), timeout=60_000)
        expect(page.get_by_role("menuitem", name="Run", exact=True)).to_be_visible(timeout=LAB_READY)
        assert "home-mark" in terminal(page, "cat /work/home/mark.txt")
        assert "No such file" in terminal(page, "cat /work/kept.txt")

    def test_coming_back_does_not_throw_one_forward_again(self, running: Site, page: Page) -> None:
        self.open_first(running, page)
        expect(page.get_by_role("link", name="Open JupyterLab")).to_be_visible()
        page.wait_for_timeout(3_000)
        assert page.url.startswith(running.url)

    def test_the_account_page_shows_the_home_and_guards_its_deletion(self, running: Site, page: Page) -> None:
        account = f"{running.url}/auth/account/"
        page.goto(account)
        homes = page.get_by_role("region", name="My homes")
        expect(homes.get_by_text(re.compile(r"10\s*GiB"))).to_be_visible()
        shot(page, "account")
        page.get_by_role("link", name="Delete this home").click()
        expect(page.get_by_text(re.compile("Delete it first|Delete them first"))).to_be_visible()
        expect(page.get_by_role("button", name="Delete this home")).to_have_count(0)

    def test_a_home_goes_only_by_its_own_confirmed_act(self, running: Site, page: Page) -> None:
        for href in self.instances(running, page):
            self.delete(running, page, href)
        page.goto(f"{running.url}/auth/account/")
        page.get_by_role("link", name="Delete this home").click()
        page.get_by_label(re.compile("to confirm")).fill("not that word")
        page.get_by_role("button", name="Delete this home").click()
        expect(page.get_by_role("alert")).to_be_visible()
        word = page.locator("label[for=confirmation] code").inner_text()
        page.get_by_label(re.compile("to confirm")).fill(word)
        page.get_by_role("button", name="Delete this home").click()
        expect(page.get_by_role("link", name="Delete this home")).to_have_count(0, timeout=30_000)
        assert not list((running.files / "homes").glob("*/mark.txt"))

    def test_the_browser_had_nothing_to_complain_about_on_the_portal(
        self, running: Site, visitor: BrowserContext
    ) -> None:
        ours = [text for text in visitor.complaints if "Content Security Policy" in text]  # type: ignore[attr-defined]
        assert ours == []

    @staticmethod
    def instances(running: Site, page: Page) -> list[str]:
        """Return the addresses of the instances in the list, the newest first."""
        page.goto(f"{running.url}/instances/")
        hrefs = [link.get_attribute("href") or "" for link in page.locator("main a[href^='/instances/']").all()]
        return list(dict.fromkeys(href for href in hrefs if re.fullmatch(r"/instances/[0-9a-f-]{36}/", href)))

    def open_first(self, running: Site, page: Page) -> None:
        """Open the page of the instance that was made first."""
        page.goto(running.url + self.instances(running, page)[-1])

    def delete(self, running: Site, page: Page, href: str) -> None:
        page.goto(running.url + href)
        page.get_by_role("button", name="Delete").or_(page.get_by_role("link", name="Delete")).first.click()
        page.get_by_role("button", name=re.compile("Delete")).last.click()
        expect(page.locator(f"main a[href='{href}']")).to_have_count(0, timeout=30_000)
        while href in self.instances(running, page):
            page.wait_for_timeout(200)


class TestAfterTheStory:
    """What that visit has left behind, in the layout of one machine."""

    def test_no_credential_shows_where_it_does_not_belong(self, running: Running, visitor: BrowserContext) -> None:
        """In no log, table, cache or message, in no process's command line or environment, in no other address."""
        asked: list[Request] = visitor.asked  # type: ignore[attr-defined]
        urls = [request.url for request in asked]
        referers = [request.headers.get("referer", "") for request in asked]
        held = leaks.of_files(running.state) | leaks.of_instances(running.state) | leaks.of_browser(visitor.cookies())
        once = leaks.of_addresses(urls)
        expected = {"__Host-sid", "__Host-csrf", "__Host-inst", "JUPYTER_TOKEN", "secret_key", "gateway_token"}
        assert expected <= set(held.values())
        assert set(once.values()) == {"ticket", "code", "login state"}
        assert leaks.found(held | once, running.state) == []
        assert [name for value, name in held.items() if any(value in text for text in urls + referers)] == []
        assert [name for value, name in once.items() if any(value in text for text in referers)] == []

    def test_the_search_for_credentials_finds_what_is_there(self, running: Running) -> None:
        planted = leaks.found({f"{running.state}/run/front/": "planted", DOI.lower(): "DOI"}, running.state)
        assert any(line.startswith("planted in command line") for line in planted)
        assert any(line.startswith("DOI in table") for line in planted)
        assert any(line.startswith("DOI in log") for line in planted)
