"""What a landing page shows, for whom: the whole page of what one may see, or the announcement of an embargo."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from django.core.paginator import Page, Paginator
from django.db.models import Exists, F, OuterRef, Q
from django.urls import reverse
from django.utils.formats import date_format

from experiments import citation
from experiments.models import Experiment, Instrument, Proposal
from experiments.paths import local
from experiments.pids import PID, pid_url
from experiments.visibility import is_open
from portal.lib import clock

if TYPE_CHECKING:
    from auth.models import User

PAGE = 25


@dataclass(frozen=True)
class Status:
    """`code` (open, partly, embargoed, closed, withdrawn) and the sentence that says it."""

    code: str
    sentence: str


@dataclass(frozen=True)
class Found:
    """The proposal that an identifier leads to. `announced`: metadata alone, because of an embargo."""

    proposal: Proposal
    pid: str
    announced: bool = False


def by_pid(user: User | Any, pid: PID) -> Found | None:
    """Return what the identifier leads to for this user; unknown and embargoed are both None.

    A run's own identifier leads to its proposal's page. Candidates are tried in their order.
    """
    runs = Experiment.objects.visible_to(user).filter(proposal=OuterRef("pk"), pid_norm__in=pid.candidates)
    visible = Proposal.objects.visible_to(user).select_related("facility")
    seen = list(visible.filter(Q(pid_norm__in=pid.candidates) | Exists(runs))[:20])
    own = dict(
        Experiment.objects.visible_to(user).filter(pid_norm__in=pid.candidates).values_list("pid_norm", "proposal_id")
    )
    closed = list(Proposal.objects.announced().filter(pid_norm__in=pid.candidates).select_related("facility"))
    for form in pid.candidates:
        for proposal in seen:
            if proposal.pid_norm == form or own.get(form) == proposal.pk:
                return Found(proposal, form)
        for proposal in closed:
            if proposal.pid_norm == form:
                return Found(proposal, form, announced=True)
    return None


def by_number(user: User | Any, facility: str, identifier: str) -> Proposal | None:
    """Return a visible proposal by facility and number: the address of those without an identifier."""
    visible = Proposal.objects.visible_to(user).select_related("facility")
    return visible.filter(facility__slug=facility, identifier=identifier).first()


def is_available(pid: PID) -> bool:
    """Tell whether there is open data under this identifier, for everybody."""
    from django.contrib.auth.models import AnonymousUser

    found = by_pid(AnonymousUser(), pid)
    return found is not None and not found.announced


def runs_of(user: User | Any, proposal: Proposal, number: str | None) -> Page[Experiment]:
    """Return one page of the runs that this user may see, newest first; a wrong page number gives the nearest."""
    runs = (
        Experiment.objects.visible_to(user)
        .filter(proposal=proposal)
        .select_related("instrument")
        .prefetch_related("datasets")
        .order_by(F("start_at").desc(nulls_last=True), F("id").desc())
    )
    return Paginator(runs, PAGE).get_page(number)


def context(user: User | Any, found: Found, number: str | None) -> dict[str, Any]:
    """Everything the template shows. An announcement holds no word of runs, instruments, sizes or team."""
    proposal, at = found.proposal, clock.now()
    opened = open_since(proposal, at)
    common = {
        "proposal": proposal,
        "facility": proposal.facility,
        "creators": [c for c in proposal.creators if isinstance(c, dict) and c.get("name")],
        "pid_url": pid_url(proposal.pid) if proposal.pid else "",
        "status": status(proposal, at),
        "contact": proposal.contact or proposal.facility.contact,
        "license_url": license_url(proposal.license),
        "more_url": proposal.url if proposal.url.startswith(("https://", "http://")) else "",
        "announced": found.announced,
    }
    if found.announced:
        return common
    runs = runs_of(user, proposal, number)
    seen = Experiment.objects.visible_to(user).filter(proposal=proposal, instrument=OuterRef("pk"))
    return common | {
        "runs": runs,
        "instruments": list(Instrument.objects.filter(Exists(seen))),
        "opened": opened,
        "citation": citation.plain(proposal, opened),
        "bibtex": citation.bibtex(proposal, opened),
        "analyse_url": analyse_url(found) if runs.paginator.count else "",
    }


def analyse_url(found: Found) -> str:
    """The create page with what was asked for: the identifier that led here, else the proposal's number."""
    proposal = found.proposal
    create = reverse("instances:new")
    if not found.pid:
        return f"{create}?proposals={quote(proposal.identifier, safe='')}"
    pid = proposal.pid if found.pid == proposal.pid_norm else found.pid
    return f"{create}?dois={quote(pid, safe='')}"


def open_since(proposal: Proposal, at: datetime) -> datetime | None:
    """When it became open; None while it is closed."""
    if not is_open(proposal, at):
        return None
    dates = [proposal.released_at]
    if proposal.release_policy == Proposal.ReleasePolicy.AUTO:
        dates.append(proposal.embargo_until)
    return min(date for date in dates if date is not None and date <= at)


def status(proposal: Proposal, at: datetime) -> Status:
    """Embargo and release in words."""
    zone = proposal.facility.time_zone
    opened = open_since(proposal, at)
    if proposal.withdrawn_at and proposal.withdrawn_at <= at:
        return Status("withdrawn", f"Withdrawn on {_day(proposal.withdrawn_at, zone)}; open to the team alone.")
    if opened:
        return Status("open", f"Open since {_day(opened, zone)}.{_ended(proposal, opened, zone)}")
    if proposal.proprietary or not proposal.facility.open_data_enabled:
        return Status("closed", "Not open: these data stay with the team.")
    until = _opens_at(proposal, at)
    if until:
        return Status("embargoed", f"Under embargo until {_moment(until, zone)}.")
    if proposal.embargo_until and proposal.embargo_until <= at:
        return Status("closed", f"The embargo ended on {_day(proposal.embargo_until, zone)}; not released yet.")
    return Status("closed", "Not released; no date is set.")


def _opens_at(proposal: Proposal, at: datetime) -> datetime | None:
    """The next moment that opens it, or the end of an embargo after which somebody has to release it."""
    coming = [proposal.released_at, proposal.embargo_until]
    return min((date for date in coming if date is not None and date > at), default=None)


def _ended(proposal: Proposal, opened: datetime, zone: str) -> str:
    until = proposal.embargo_until
    if until is None or _day(until, zone) == _day(opened, zone):
        return ""
    return f" The embargo {'ended' if until < opened else 'would have ended'} on {_day(until, zone)}."


def _day(moment: datetime, zone: str) -> str:
    return date_format(local(moment, zone), "j F Y")


def _moment(moment: datetime, zone: str) -> str:
    there = local(moment, zone)
    return f"{date_format(there, 'j F Y, H:i')} {there.tzname()}"


def license_url(identifier: str) -> str:
    """The SPDX page of a licence; nothing for what cannot be an SPDX identifier."""
    plain = identifier.replace("-", "").replace(".", "").replace("+", "")
    return f"https://spdx.org/licenses/{identifier}.html" if plain.isascii() and plain.isalnum() else ""
