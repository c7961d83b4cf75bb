"""Pages to find data: search box, list, landing pages, and the answer for search portals."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, HttpResponsePermanentRedirect, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import urlencode
from django.views.decorators.http import require_safe

from experiments import landing as page_of
from experiments import listing
from experiments.errors import BadPid
from experiments.models import Experiment
from experiments.pids import PID, parse_pid
from portal.lib.errors import NotFound


@require_safe
def search(request: HttpRequest) -> HttpResponse:
    """The search box: an identifier in any dress goes to its page, words to the list."""
    text = listing.readable(request.GET.get("q", ""))
    pid = parse_pid(text)
    if pid:
        return redirect("experiments:landing", pid=pid.canonical)
    query = urlencode({"text": text[: listing.LONGEST_TEXT]}) if text else ""
    return redirect(f"{reverse('experiments:list')}?{query}".rstrip("?"))


@require_safe
def experiment_list(request: HttpRequest) -> HttpResponse:
    """All, mine or open; by instrument, year and words; newest first."""
    filters = listing.Filters.read(request.GET)
    visible = Experiment.objects.visible_to(request.user).select_related("proposal__facility", "instrument")
    page = listing.page(
        filters.apply(visible, request.user),
        after=request.GET.get("after", ""),
        before=request.GET.get("before", ""),
    )
    choices = listing.choices(request.user)
    return render(
        request,
        "experiments/list.html",
        {"filters": filters, "page": page, "choices": choices},
    )


@require_safe
def landing(request: HttpRequest, pid: str) -> HttpResponse:
    """A DOI's or Handle's page. The redirect to lower case comes from the text alone, before any look-up."""
    parsed = read_pid(request, pid)
    if pid != parsed.canonical:
        return HttpResponsePermanentRedirect(_with_page(request, parsed.canonical))
    found = page_of.by_pid(request.user, parsed)
    if found is None:
        raise NotFound
    if found.pid != parsed.canonical:
        return redirect("experiments:landing", pid=found.pid)
    return _render(request, found)


@require_safe
def proposal(request: HttpRequest, facility: str, identifier: str) -> HttpResponse:
    """The same page for a proposal without a DOI."""
    seen = page_of.by_number(request.user, facility, listing.readable(identifier))
    if seen is None:
        raise NotFound
    if seen.pid_norm:
        return redirect(seen)
    return _render(request, page_of.Found(seen, ""))


@require_safe
def availability(request: HttpRequest, pid: str) -> HttpResponse:
    """For search portals: 200 when everybody may open the data, else 404; who asks plays no part."""
    parsed = parse_pid(pid)
    available = parsed is not None and page_of.is_available(parsed)
    return JsonResponse(
        {"available": available},
        status=200 if available else 404,
        headers={
            "Access-Control-Allow-Origin": "*",
            "Cross-Origin-Resource-Policy": "cross-origin",
            "Cache-Control": "public, max-age=60",
        },
    )


def read_pid(request: HttpRequest, text: str) -> PID:
    """Parse what stands behind /doi/; of a landing page's address the query belongs to it as well."""
    pid = parse_pid(text)
    query = request.META.get("QUERY_STRING", "")
    if pid is None and query:
        pid = parse_pid(f"{text}?{query}")
    if pid is None:
        raise BadPid(text)
    return pid


def _with_page(request: HttpRequest, canonical: str) -> str:
    """The page's address, with the page of the run table that was asked for, and nothing else of the query."""
    address = reverse("experiments:landing", kwargs={"pid": canonical})
    number = request.GET.get("page", "")
    return f"{address}?page={number}" if number.isascii() and number.isdigit() else address


def _render(request: HttpRequest, found: page_of.Found) -> HttpResponse:
    context = page_of.context(request.user, found, request.GET.get("page"))
    return render(request, "experiments/landing.html", context)
