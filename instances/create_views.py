"""The page that makes an instance: from a link with DOIs or proposals to one click on Start.

Links are compatible with VISA's: `/instances/new?dois=…&proposals=…`.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from auth import roles
from auth.models import User
from experiments import selection
from experiments.errors import BadPid
from experiments.models import Experiment
from experiments.pids import parse_pid
from instances import drain, quotas, services
from instances.errors import KeyUsed
from instances.forms import NewInstanceForm, fresh_key, plans_closed, plans_offered
from instances.views import viewer
from portal.lib.errors import BadRequest, PortalError

#: most identifiers one link may name, and most experiments a page lists
MOST_WANTED = 100
MOST_SHOWN = 500
NAME_LENGTH = 60


@dataclass(frozen=True)
class Wanted:
    """What a link asks for; identifiers as they were written."""

    dois: list[str]
    proposals: list[str]
    experiments: list[uuid.UUID]
    plan: str = ""

    @classmethod
    def of(cls, request: HttpRequest) -> Wanted:
        query = request.GET
        dois = query.getlist("dois") + query.getlist("doi")
        proposals = [part for text in query.getlist("proposals") for part in text.split(",")]
        wanted = cls(_once(dois), _once(proposals), _uuids(query.getlist("experiments")), query.get("plan", "")[:60])
        if len(wanted.dois) + len(wanted.proposals) > MOST_WANTED or len(wanted.experiments) > MOST_SHOWN:
            raise BadRequest(
                f"A link may name at most {MOST_WANTED} DOIs and proposals and {MOST_SHOWN} experiments.",
                next_step="Split it into several links.",
            )
        return wanted

    @property
    def nothing(self) -> bool:
        return not (self.dois or self.proposals or self.experiments)

    @property
    def only_doi(self) -> str:
        """The one DOI that is asked for, and nothing else; empty otherwise."""
        if len(self.dois) != 1 or self.proposals or self.experiments or selection.names_several(self.dois[0]):
            return ""
        return self.dois[0]


def _once(texts: list[str]) -> list[str]:
    return list(dict.fromkeys(text.strip() for text in texts if text.strip()))


def _uuids(texts: list[str]) -> list[uuid.UUID]:
    found = []
    for text in texts:
        for part in text.split(","):
            try:
                found.append(uuid.UUID(part.strip()))
            except ValueError:
                continue
    return list(dict.fromkeys(found))


@require_http_methods(["GET", "HEAD", "POST"])
def new(request: HttpRequest) -> HttpResponse:
    """Show what the link names, preselected; POST makes the instance and goes to its page."""
    wanted = Wanted.of(request)
    if not request.user.is_authenticated:
        return _signed_out(request, wanted)
    user = viewer(request)
    needs_experiment = not roles.may(user, "instance-without-experiment")
    if request.method != "POST":
        return _page(request, user, wanted, needs_experiment=needs_experiment)
    form = NewInstanceForm(request.POST, user=user, needs_experiment=needs_experiment)
    if not form.is_valid():
        return _page(request, user, wanted, form=form, needs_experiment=needs_experiment, status=400)
    chosen = form.cleaned_data
    try:
        instance = services.request_instance(
            user,
            plan=chosen["plan"],
            experiments=[experiment.uid for experiment in chosen["experiments"]],
            name=chosen["name"],
            idempotency_key=chosen["idempotency_key"],
        )
    except PortalError as error:
        if error.status >= 500:
            raise
        if isinstance(error, KeyUsed):  # a form of long ago, sent again: it comes back with a fresh key
            error.next_step = "To make another one, press Start again."
        return _page(
            request,
            user,
            wanted,
            form=form,
            problem=error,
            needs_experiment=needs_experiment,
            status=error.status,
        )
    return redirect("instances:detail", uid=instance.uid)


def _signed_out(request: HttpRequest, wanted: Wanted) -> HttpResponse:
    """One DOI: its landing page, where Analyse signs in. Several: one page that names all. None: sign in first."""
    if request.method == "POST" or not (wanted.dois or wanted.proposals):
        back = urlencode({"next": request.get_full_path()})
        return HttpResponseRedirect(f"{reverse('accounts:sign-in')}?{back}")
    if wanted.only_doi:
        pid = parse_pid(wanted.only_doi)
        if pid is None:
            raise BadPid(wanted.only_doi)
        return redirect("experiments:landing", pid=pid.canonical)
    found = selection.find(request.user, wanted.dois, wanted.proposals)
    single = found.experiments.exclude(proposal__in=found.proposals)[:MOST_SHOWN]
    return render(request, "instances/choose.html", {"found": found, "single": single})


def _page(
    request: HttpRequest,
    user: User,
    wanted: Wanted,
    *,
    needs_experiment: bool,
    form: NewInstanceForm | None = None,
    problem: PortalError | None = None,
    status: int = 200,
) -> HttpResponse:
    """The form; with what was typed when it comes back with an error."""
    found = selection.find(user, wanted.dois, wanted.proposals)
    shown = _experiments(user, wanted, found)
    facilities = {experiment.proposal.facility_id for experiment in shown}
    plans = list(plans_offered(facilities))
    preset = next((plan.slug for plan in plans if plan.slug == wanted.plan), plans[0].slug if plans else "")
    context: dict[str, Any] = {
        "wanted": wanted,
        "missing": found.missing,
        "experiments": shown[:MOST_SHOWN],
        "too_many": len(shown) > MOST_SHOWN,
        "most_shown": MOST_SHOWN,
        "needs_experiment": needs_experiment,
        "plans": plans,
        "closed": _closed(facilities),
        "remaining": quotas.remaining(user),
        "problem": problem,
        "errors": {name: list(texts) for name, texts in form.errors.items()} if form else {},
        "chosen": set(form.data.getlist("experiments")) if form else {str(e.uid) for e in shown},  # type: ignore[attr-defined]
        "plan": form.data.get("plan", "") if form else preset,
        "name": form.data.get("name", "") if form else _preset_name(shown),
        "key": _key_of(form, problem) or fresh_key(),
    }
    return render(request, "instances/new.html", context, status=status)


def _closed(facilities: set[int]) -> dict[str, list[str]]:
    """Return the plans that are not offered for now, by what people are told."""
    closed: dict[str, list[str]] = {}
    for plan in plans_closed(facilities):
        closed.setdefault(drain.sentence(plan.image.provider), []).append(plan.name)
    return closed


def _key_of(form: NewInstanceForm | None, problem: PortalError | None) -> str:
    """Keep the key of a form that comes back, unless it was no key or is used up."""
    if form is None or "idempotency_key" in form.errors or isinstance(problem, KeyUsed):
        return ""
    return form.data.get("idempotency_key", "")


def _experiments(user: User, wanted: Wanted, found: selection.Selection) -> list[Experiment]:
    """What the link names and the user may see, newest first, one more than a page shows."""
    picked = Experiment.objects.visible_to(user).filter(uid__in=wanted.experiments) if wanted.experiments else None
    rows = list(_listed(found.experiments)) if wanted.dois or wanted.proposals else []
    if picked is not None:
        known = {row.pk for row in rows}
        rows += [row for row in _listed(picked) if row.pk not in known]
    return rows


def _listed(rows: Any) -> Any:
    return rows.select_related("proposal", "instrument").order_by("proposal__identifier", "run_number", "pk")[
        : MOST_SHOWN + 1
    ]


def _preset_name(shown: list[Experiment]) -> str:
    proposals = {experiment.proposal_id: experiment.proposal for experiment in shown}
    if len(proposals) == 1:
        proposal = next(iter(proposals.values()))
        text = f"{proposal.identifier} {proposal.title}".strip()
        return text if len(text) <= NAME_LENGTH else text[: NAME_LENGTH - 1].rsplit(" ", 1)[0] + "…"
    return f"Analysis of {len(proposals)} proposals" if proposals else "Analysis"
