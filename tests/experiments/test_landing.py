"""Landing pages, as a visitor, a member and a search portal see them; and what an embargo must not let out."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from experiments.citation import bibtex, plain
from experiments.models import Proposal
from tests.factories.auth import FacilityFactory, UserFactory, sign_in
from tests.factories.experiments import (
    DatasetFactory,
    ExperimentFactory,
    InstrumentFactory,
    ProposalFactory,
    join_team,
    leave_team,
)

pytestmark = pytest.mark.django_db

DOI = "10.5072/Data-1"
LOWER = "10.5072/data-1"
SECRET = "ZINC-FINGER"


def opened(**values: Any) -> Proposal:
    return ProposalFactory(opened=True, pid=DOI, title="Rings in water", **values)


def under_embargo(policy: str = "none", **values: Any) -> Proposal:
    facility = FacilityFactory(embargoed_metadata=policy, contact="office@site.example")
    proposal = ProposalFactory(pid=DOI, title=f"Study of {SECRET}", facility=facility, **values)
    instrument = InstrumentFactory(facility=facility, code="HIDDENLINE", name="Hidden line")
    run = ExperimentFactory(
        proposal=proposal, instrument=instrument, title="Hidden run", sample="hidden sample", pid="10.5072/RUN-1"
    )
    DatasetFactory(experiment=run, size=123_456_789)
    join_team(UserFactory(display_name="Hidden Member"), run)
    return proposal


def without_request_id(content: bytes) -> bytes:
    return re.sub(rb"[0-9a-f]{32}", b"", content)


class TestThePage:
    def test_anybody_reads_the_page_of_open_data(self, client: Client) -> None:
        proposal = opened(
            abstract="Long story.",
            license="CC-BY-4.0",
            contact="data@site.example",
            creators=[{"name": "Marchetti, Livia", "orcid": "0000-0002-1825-0097"}],
        )
        run = ExperimentFactory(proposal=proposal, sample="water")
        DatasetFactory(experiment=run, size=5 * 2**20, file_count=17)
        ExperimentFactory(proposal=proposal)
        answer = client.get(f"/doi/{LOWER}")
        page = answer.content.decode()
        assert answer.status_code == 200
        for text in (
            "Rings in water",
            "Long story.",
            "Marchetti, Livia",
            proposal.facility.name,
            run.instrument.name,
            "Open since",
            "2 runs",
            "17 files, 5 MiB",
            "record only",
            "How to cite",
            "@misc{marchetti",
            "data@site.example",
            "https://spdx.org/licenses/CC-BY-4.0.html",
            "https://doi.org/10.5072/Data-1",
        ):
            assert text in page, text

    def test_text_from_the_catalogue_is_escaped_everywhere(self, client: Client) -> None:
        evil = "</pre><script>alert(1)</script>"
        proposal = opened(
            abstract=evil, license=evil[:90], creators=[{"name": evil, "affiliation": evil, "orcid": evil}]
        )
        Proposal.objects.update(title=evil, url="javascript:alert(1)")
        ExperimentFactory(proposal=proposal, title=evil, sample=evil, technique=evil)
        page = client.get(f"/doi/{LOWER}").content.decode()
        assert "<script>alert" not in page
        assert 'href="javascript:' not in page

    def test_runs_come_in_pages_of_25(self, client: Client) -> None:
        proposal = opened()
        instrument = InstrumentFactory(facility=proposal.facility)
        ExperimentFactory.create_batch(30, proposal=proposal, instrument=instrument)
        first = client.get(f"/doi/{LOWER}").content.decode()
        second = client.get(f"/doi/{LOWER}?page=2").content.decode()
        assert first.count('data-label="Run"') == 25
        assert second.count('data-label="Run"') == 5
        assert 'href="?page=2#runs"' in first
        assert client.get(f"/doi/{LOWER}?page=x").status_code == client.get(f"/doi/{LOWER}?page=99").status_code == 200

    def test_the_number_of_queries_does_not_grow_with_the_runs(self, client: Client) -> None:
        proposal = opened()
        counts = []
        for _ in range(2):
            for run in ExperimentFactory.create_batch(10, proposal=proposal):
                DatasetFactory(experiment=run)
            with CaptureQueriesContext(
                connection,
            ) as queries:
                client.get(f"/doi/{LOWER}")
            counts.append(len(queries))
        assert counts[0] == counts[1] <= 12

    def test_analyse_of_a_visitor_posts_to_the_sign_in_and_comes_back_to_the_create_page(self, client: Client) -> None:
        ExperimentFactory(proposal=opened())
        page = client.get(f"/doi/{LOWER}").content.decode()
        form = re.search(r'<form method="post" action="([^"]+)"[^>]*>(?:(?!</form>).)*Analyse</button>', page, re.S)
        assert form is not None
        assert "/login/" in form[1]
        assert f'name="next" value="/instances/new?dois={quote(DOI, safe="")}"' in form[0]
        assert "csrfmiddlewaretoken" in form[0]

    def test_analyse_of_somebody_signed_in_is_a_link(self, client: Client) -> None:
        ExperimentFactory(proposal=opened())
        sign_in(client, UserFactory())
        page = client.get(f"/doi/{LOWER}").content.decode()
        assert f'href="/instances/new?dois={quote(DOI, safe="")}">Analyse</a>' in page

    def test_without_runs_there_is_nothing_to_analyse(self, client: Client) -> None:
        opened()
        page = client.get(f"/doi/{LOWER}").content.decode()
        assert "No runs are recorded" in page
        assert "Analyse</" not in page

    def test_a_runs_own_doi_lands_on_its_proposal_and_analyses_that_run(self, client: Client) -> None:
        proposal = opened()
        ExperimentFactory(proposal=proposal, pid="10.5072/RUN-7")
        page = client.get("/doi/10.5072/run-7").content.decode()
        assert "Rings in water" in page
        assert "dois=10.5072%2Frun-7" in page

    def test_a_proposal_without_doi_has_a_page_by_its_number(self, client: Client) -> None:
        proposal = ProposalFactory(opened=True, pid="")
        ExperimentFactory(proposal=proposal)
        sign_in(client, UserFactory())
        answer = client.get(proposal.get_absolute_url())
        assert answer.status_code == 200
        assert f"proposals={proposal.identifier}" in answer.content.decode()
        closed = ProposalFactory(pid="")
        assert client.get(closed.get_absolute_url()).status_code == 404

    def test_dates_are_the_facilitys(self, client: Client) -> None:
        facility = FacilityFactory(time_zone="Asia/Tokyo")
        proposal = ProposalFactory(
            pid=DOI, facility=facility, released_at=datetime(2022, 10, 26, 20, 0, tzinfo=UTC), embargo_until=None
        )
        ExperimentFactory(proposal=proposal, start_at=datetime(2021, 3, 1, 20, 0, tzinfo=UTC))
        page = client.get(f"/doi/{LOWER}").content.decode()
        assert "Open since 27 October 2022." in page
        assert "2 Mar 2021, 05:00" in page


class TestIdentifiers:
    @pytest.mark.parametrize(
        "form",
        [
            DOI,
            f"doi:{DOI}",
            f"DOI:%20{DOI}",
            f"https://doi.org/{DOI}",
            quote(f"https://doi.org/{DOI}", safe=""),
            DOI.replace("/", "%2F"),
            DOI.replace("/", "%252F"),
            f"%0A{DOI}%0A",
            f"%3C{DOI}%3E.",
            "https://search.example/?x=1&doi=10.5072%2FData-1",
        ],
    )
    @pytest.mark.parametrize("known", [True, False])
    def test_any_form_is_redirected_to_lower_case_whether_known_or_not(
        self, client: Client, form: str, known: bool
    ) -> None:
        if known:
            opened()
        answer = client.get(f"/doi/{form}")
        assert (answer.status_code, answer["Location"]) == (301, f"/doi/{LOWER}")

    def test_the_page_number_survives_the_redirect_and_nothing_else_does(self, client: Client) -> None:
        assert client.get(f"/doi/{DOI}?page=2&x=//evil.example")["Location"] == f"/doi/{LOWER}?page=2"

    def test_a_redirect_stays_on_this_site(self, client: Client) -> None:
        for form in ("//evil.example/10.5072/X", "https://evil.example/10.5072/X"):
            answer = client.get(f"/doi/{form}")
            assert answer["Location"] == "/doi/10.5072/x"
        assert client.get("/doi//%5Cevil.example/10.5072/X").status_code == 400

    @pytest.mark.parametrize("path", ["10.5072/data-1", "10.5072%2Fdata-1"])
    def test_raw_and_escaped_slashes_arrive(self, client: Client, path: str) -> None:
        opened()
        assert client.get(f"/doi/{path}").status_code == 200

    def test_a_sici_has_a_page(self, client: Client) -> None:
        pid = "10.1002/(SICI)1099-1409(199908/10)3:6/7<672::AID-JPP192>3.0.CO;2-#"
        proposal = ProposalFactory(opened=True, pid=pid)
        assert client.get(proposal.get_absolute_url()).status_code == 200
        assert client.get(f"/doi/{quote(pid, safe='')}", follow=True).status_code == 200

    @pytest.mark.parametrize("typed", ["10.5072/a%E2%80%93b", "10.5072/a-b,c"])
    def test_a_fallback_leads_to_the_page_when_the_exact_form_is_unknown(self, client: Client, typed: str) -> None:
        ProposalFactory(opened=True, pid="10.5072/A-B")
        assert client.get(f"/doi/{typed}")["Location"] == "/doi/10.5072/a-b"

    def test_the_exact_form_wins_over_a_fallback(self, client: Client) -> None:
        ProposalFactory(opened=True, pid="10.5072/a", title="Short")
        ProposalFactory(opened=True, pid="10.5072/a,b", title="Whole")
        assert "Whole" in client.get("/doi/10.5072/a,b").content.decode()

    @pytest.mark.parametrize(
        "typed", ["abc", "10.5/x", "%00", "10.5072/%00", "%25%25", "<script>", "10.5072/%FF", "x" * 3000]
    )
    def test_what_is_no_identifier_gets_a_400_with_the_search_box_filled_in(self, client: Client, typed: str) -> None:
        answer = client.get(f"/doi/{typed}")
        page = answer.content.decode()
        assert answer.status_code == 400
        assert "bad-pid" in page
        assert 'name="q"' in page
        assert "<script>" not in page.replace("<script src", "")
        if typed == "abc":
            assert 'value="abc"' in page

    def test_the_search_box_takes_any_form(self, client: Client) -> None:
        opened()
        assert client.get("/search", {"q": f" doi: {DOI}. "})["Location"] == f"/doi/{LOWER}"
        assert client.get("/search", {"q": "rings & water"})["Location"] == "/experiments?text=rings+%26+water"
        assert client.get("/search")["Location"] == "/experiments"
        assert client.get("/search", {"q": "\x00"})["Location"] == "/experiments"


class TestEmbargo:
    def test_unknown_and_embargoed_answer_byte_for_byte_the_same(self, client: Client) -> None:
        unknown = client.get(f"/doi/{LOWER}")
        run_unknown = client.get("/doi/10.5072/run-1")
        under_embargo()
        embargoed = client.get(f"/doi/{LOWER}")
        run_embargoed = client.get("/doi/10.5072/run-1")
        assert unknown.status_code == embargoed.status_code == run_embargoed.status_code == 404
        assert hide_token(unknown.content) == hide_token(embargoed.content)
        assert hide_token(run_unknown.content) == hide_token(run_embargoed.content)
        headers = {name: value for name, value in unknown.headers.items() if name != "X-Request-Id"}
        assert headers == {name: value for name, value in embargoed.headers.items() if name != "X-Request-Id"}

    def test_a_strangers_404_is_the_same_too(self, client: Client) -> None:
        stranger = UserFactory()
        sign_in(client, stranger)
        unknown = client.get(f"/doi/{LOWER}")
        under_embargo()
        embargoed = client.get(f"/doi/{LOWER}")
        assert unknown.status_code == embargoed.status_code == 404
        assert hide_token(unknown.content) == hide_token(embargoed.content)

    def test_the_team_sees_the_page_until_it_is_removed(self, client: Client) -> None:
        proposal = under_embargo()
        member = UserFactory()
        run = proposal.experiments.get()
        join_team(member, run)
        sign_in(client, member)
        page = client.get(f"/doi/{LOWER}").content.decode()
        assert "Under embargo until" in page
        assert "Hidden run" in page
        assert "Analyse</a>" in page
        assert "Hidden Member" not in page
        leave_team(member, run)
        assert client.get(f"/doi/{LOWER}").status_code == 404

    def test_landing_shows_metadata_and_nothing_of_the_experiment(self, client: Client) -> None:
        proposal = under_embargo("landing", abstract="What we do.", creators=[{"name": "Marchetti, Livia"}])
        answer = client.get(f"/doi/{LOWER}")
        page = answer.content.decode()
        assert answer.status_code == 200
        for shown in (SECRET, "What we do.", "Marchetti, Livia", "Under embargo until", "office@site.example"):
            assert shown in page, shown
        for hidden in ("Hidden", "HIDDENLINE", "hidden sample", "RUN-1", "123456789", "Analyse</", "Runs", "MiB"):
            assert hidden not in page, hidden
        assert proposal.experiments.count() == 1

    def test_landing_does_not_tell_of_a_runs_own_doi(self, client: Client) -> None:
        under_embargo("landing")
        assert client.get("/doi/10.5072/run-1").status_code == 404

    @pytest.mark.parametrize(
        "bar",
        [
            {"proprietary": True},
            {"withdrawn_at": datetime(2020, 1, 1, tzinfo=UTC)},
            {"release_policy": "never"},
            {"embargo_until": None},
        ],
    )
    def test_what_is_not_meant_to_open_is_not_announced(self, client: Client, bar: dict[str, Any]) -> None:
        under_embargo("landing", **bar)
        assert client.get(f"/doi/{LOWER}").status_code == 404

    def test_the_moment_of_opening_needs_no_job(self, client: Client) -> None:
        proposal = under_embargo()
        assert client.get(f"/doi/{LOWER}").status_code == 404
        proposal.embargo_until = datetime.now(UTC) - timedelta(seconds=1)
        proposal.save()
        assert client.get(f"/doi/{LOWER}").status_code == 200


class TestAvailability:
    def ask(self, client: Client, pid: str) -> tuple[int, dict[str, bool], Any]:
        answer = client.get(f"/doi/{pid}/availability")
        return answer.status_code, json.loads(answer.content), answer.headers

    def test_open_data_are_available_to_any_site(self, client: Client) -> None:
        opened()
        status, body, headers = self.ask(client, quote(DOI, safe=""))
        assert (status, body) == (200, {"available": True})
        assert headers["Access-Control-Allow-Origin"] == "*"
        assert "Set-Cookie" not in headers
        head = client.head(f"/doi/{LOWER}/availability")
        assert (head.status_code, head.content) == (200, b"")

    @pytest.mark.parametrize("policy", ["none", "landing"])
    def test_embargoed_unknown_and_malformed_are_the_same_404(self, client: Client, policy: str) -> None:
        unknown = self.ask(client, LOWER)
        under_embargo(policy)
        answers = [unknown, self.ask(client, LOWER), self.ask(client, "10.5072/run-1"), self.ask(client, "abc")]
        assert {status for status, _, _ in answers} == {404}
        bodies = [body for _, body, _ in answers]
        assert bodies == [{"available": False}] * 4
        for _, _, headers in answers:
            assert {n: v for n, v in headers.items() if n != "X-Request-Id"} == {
                n: v for n, v in unknown[2].items() if n != "X-Request-Id"
            }

    def test_a_member_gets_the_answer_of_everybody(self, client: Client) -> None:
        proposal = under_embargo()
        member = UserFactory()
        join_team(member, proposal.experiments.get())
        sign_in(client, member)
        assert self.ask(client, LOWER)[0] == 404

    def test_only_reading_is_answered(self, client: Client) -> None:
        assert client.post(f"/doi/{LOWER}/availability").status_code in (403, 405)


def hide_token(content: bytes) -> bytes:
    masked = re.sub(rb'name="csrfmiddlewaretoken" value="[^"]+"', b"", content)
    return without_request_id(masked)


class TestCitation:
    def test_plain_and_bibtex(self) -> None:
        proposal = ProposalFactory(
            pid=DOI,
            title="Rings & 100% spots_{x}",
            creators=[{"name": "Müller, Ö"}, {"name": "Bell and Howell"}],
            start_at=datetime(2020, 12, 31, 23, 30, tzinfo=UTC),
        )
        when = datetime(2021, 12, 31, 23, 30, tzinfo=UTC)
        assert plain(proposal, when).startswith("Müller, Ö; Bell and Howell (2022): Rings & 100% spots_{x}. ")
        entry = bibtex(proposal, when)
        assert entry.startswith(f"@misc{{muller2022{proposal.identifier},\n")
        assert r"title = {{Rings \& 100\% spots\_\textbraceleft{}x\textbraceright{}}}" in entry
        assert "author = {Müller, Ö and {Bell and Howell}}" in entry
        assert f"doi = {{{DOI}}}" in entry
        assert "(2021):" in plain(proposal, None)

    @pytest.mark.parametrize("title", ["}", "{{{", "\\", "a\n\n@misc{x", "$%&~^#_"])
    def test_no_title_breaks_out_of_the_entry(self, title: str) -> None:
        entry = bibtex(ProposalFactory(pid="10.5072/a}b", title=title, creators=[{"name": title}]), None)
        assert entry.count("{") == entry.count("}")
        depth, lowest = 0, 1
        for sign in entry[len("@misc") : -1]:
            depth += {"{": 1, "}": -1}.get(sign, 0)
            lowest = min(lowest, depth)
        assert lowest == 1
        assert entry.count("\n@") == 0
