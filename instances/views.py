"""Pages of my instances: list, one instance, its verbs, and the homes. Thin: rights and rules are in services."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.postgres.expressions import ArraySubquery
from django.db.models import DurationField, ExpressionWrapper, F, Func, IntegerField, OuterRef, Subquery
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from auth.models import User
from experiments.models import Experiment
from instances import drain, explain, homes, measures, presentation, services
from instances.lifecycle import State
from instances.models import Instance, Member, Transition
from portal.lib.clock import Now
from portal.lib.errors import BadRequest, NotFound, PortalError
from portal.problems import NotSignedIn, by_script

View = Callable[..., HttpResponse]

PAGE_SIZE = 20
#: lines of history on the page; the newest are what people ask about
HISTORY_LINES = 100


def signed_in(view: View) -> View:
    """Send visitors to the sign-in page and back to where they were; a fragment asks its page to reload instead."""

    @wraps(view)
    def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if request.user.is_authenticated:
            return view(request, *args, **kwargs)
        if is_fragment(request):
            return HttpResponse(status=204, headers={"HX-Refresh": "true"})
        if by_script(request):
            raise NotSignedIn
        back = request.get_full_path()
        if request.method == "POST":
            uid = kwargs.get("uid")
            back = reverse("instances:detail", args=[uid]) if uid else reverse("instances:list")
        return HttpResponseRedirect(f"{reverse('accounts:sign-in')}?{urlencode({'next': back})}")

    return checked


def is_fragment(request: HttpRequest) -> bool:
    return bool(getattr(request, "htmx", False))


def viewer(request: HttpRequest) -> User:
    user = request.user
    assert isinstance(user, User)  # noqa: S101  (asked only behind `signed_in`)
    return user


@require_safe
@signed_in
def index(request: HttpRequest) -> HttpResponse:
    """The instances on which I have a role, newest first, a page at a time."""
    user = viewer(request)
    rows = _rows(user)
    after = _uuid(request.GET.get("after", ""))
    if after is not None:
        rows = rows.filter(pk__lt=Instance.objects.visible_to(user).filter(uid=after).values("pk"))
    found = list(rows[: PAGE_SIZE + 1])
    shown = found[:PAGE_SIZE]
    context = {
        "instances": [_card(instance, user) for instance in shown],
        "more": shown[-1].uid if len(found) > PAGE_SIZE else None,
        "after": after,
    }
    return render(request, "instances/_rows.html" if is_fragment(request) else "instances/list.html", context)


def _rows(user: User) -> Any:
    """Counted in the database: an instance may have hundreds of experiments."""
    seen = Experiment.objects.visible_to(user).filter(instances=OuterRef("pk")).order_by()
    count = seen.annotate(count=Func(F("pk"), function="COUNT", output_field=IntegerField())).values("count")
    proposals = seen.values("proposal__identifier").distinct().order_by("proposal__identifier")
    return (
        Instance.objects.visible_to(user)
        .select_related("plan__flavour")
        .prefetch_related("memberships")
        .annotate(elapsed=_elapsed(), experiment_count=Subquery(count), proposals=ArraySubquery(proposals[:4]))
        .order_by("-pk")
    )


def _elapsed() -> ExpressionWrapper:
    return ExpressionWrapper(Now() - F("state_changed_at"), output_field=DurationField())


def _card(instance: Any, user: User) -> dict[str, Any]:
    role = presentation.role_of(list(instance.memberships.all()), user.pk)
    return {
        "instance": instance,
        "word": presentation.word(instance),
        "verbs": presentation.verbs(instance, role),
        "open_url": presentation.open_url(instance),
        "why": presentation.why(instance),
        "proposals": instance.proposals,
    }


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


@require_safe
@signed_in
def detail(request: HttpRequest, uid: uuid.UUID) -> HttpResponse:
    """One instance: where it is on its way, what one may do, what belongs to it."""
    user = viewer(request)
    try:
        instance = _instance(user, uid)
    except NotFound:
        if not is_fragment(request):
            raise
        return HttpResponse(status=204, headers={"HX-Redirect": reverse("instances:list")})
    context = _detail(instance, user)
    return render(request, "instances/_live.html" if is_fragment(request) else "instances/detail.html", context)


def _instance(user: User, uid: uuid.UUID) -> Any:
    instance = (
        Instance.objects.visible_to(user)
        .select_related("owner", "facility", "home", "provider", "plan__flavour", "plan__image", "measured")
        .annotate(elapsed=_elapsed(), measured_lately=measures.lately())
        .filter(uid=uid)
        .first()
    )
    if instance is None:
        raise NotFound
    return instance


def _detail(instance: Any, user: User) -> dict[str, Any]:
    memberships = list(Member.objects.filter(instance=instance).select_related("user").order_by("pk"))
    history = _history(instance)
    shown = Experiment.objects.visible_to(user).filter(instances=instance).select_related("proposal")
    total = instance.experiments.count()
    experiments = list(shown.order_by("-start_at", "-pk"))
    return {
        "instance": instance,
        "word": presentation.word(instance),
        "why": presentation.why(instance),
        "draining": drain.sentence(instance.provider) if instance.provider.is_draining else "",
        "moving": presentation.is_moving(instance),
        "usable": presentation.is_usable(instance),
        "steps": presentation.steps(instance, presentation.failed_in(history)),
        "verbs": presentation.verbs(instance, presentation.role_of(memberships, user.pk)),
        "open_url": presentation.open_url(instance),
        "larger_plan": explain.next_larger_plan(instance.plan) if instance.reason == "out-of-memory" else None,
        "again_query": urlencode([("experiments", experiment.uid) for experiment in experiments]),
        "memberships": memberships,
        "experiments": experiments,
        "hidden_experiments": total - len(experiments),
        "history": [_line(row) for row in reversed(history)],
        "home_used_by": _home_used_by(instance),
        "measured": presentation.measured(instance),
        "own_home": instance.home if instance.owner_id == user.pk else None,
    }


def _history(instance: Instance) -> list[Transition]:
    newest = Transition.objects.filter(instance=instance).select_related("actor").order_by("-pk")[:HISTORY_LINES]
    return list(reversed(newest))


def _line(row: Transition) -> dict[str, Any]:
    moved = row.old != row.new
    return {
        "row": row,
        "what": presentation.WORDS[State(row.new)] if moved else f"Asked: {row.event.replace('-', ' ')}",
        "state": row.new if moved else "info",
    }


def _home_used_by(instance: Instance) -> Instance | None:
    """Another running instance that shares the home, so that its owner is not surprised by files that change."""
    if instance.home_id is None:
        return None
    others = Instance.objects.alive().filter(home_id=instance.home_id, owner_id=instance.owner_id)
    return others.exclude(pk=instance.pk).exclude(state=State.STOPPED).order_by("-pk").first()


# ---- verbs ----


def _verb(act: Callable[[Instance, User], object], done: str) -> View:
    """Make the page of a verb: POST, visible to me, back to the instance with a word about it."""

    @require_POST
    @signed_in
    def view(request: HttpRequest, uid: uuid.UUID) -> HttpResponse:
        user = viewer(request)
        instance = _instance(user, uid)
        try:
            act(instance, user)
        except PortalError as error:
            if error.status not in (409, 403):
                raise
            messages.error(request, f"{error.message} {error.next_step}")
        else:
            messages.success(request, done.format(name=instance.name))
        return redirect("instances:detail", uid=uid)

    return view


start = _verb(lambda instance, user: services.start(instance, by=user), "{name} is being started.")
stop = _verb(lambda instance, user: services.stop(instance, by=user), "{name} is being stopped; its files stay.")
reboot = _verb(lambda instance, user: services.reboot(instance, by=user), "{name} is being restarted.")
retry = _verb(lambda instance, user: services.retry(instance, by=user), "Trying again with {name}.")


@require_http_methods(["GET", "HEAD", "POST"])
@signed_in
def delete(request: HttpRequest, uid: uuid.UUID) -> HttpResponse:
    """Ask once more, then delete; says what goes and what stays."""
    user = viewer(request)
    instance = _instance(user, uid)
    memberships = list(Member.objects.filter(instance=instance))
    if request.method != "POST":
        verbs = presentation.verbs(instance, presentation.role_of(memberships, user.pk))
        return render(request, "instances/delete.html", {"instance": instance, "may_delete": "delete" in verbs})
    try:
        services.delete(instance, by=user)
    except PortalError as error:
        if error.status not in (409, 403):
            raise
        messages.error(request, f"{error.message} {error.next_step}")
        return redirect("instances:detail", uid=uid)
    messages.success(request, f"{instance.name} is being deleted. Your home stays.")
    return redirect("instances:list")


# ---- homes ----


@require_http_methods(["GET", "HEAD", "POST"])
@signed_in
def home_delete(request: HttpRequest, key: str) -> HttpResponse:
    """Delete a home: by its own page and a word typed out, never as a side effect."""
    user = viewer(request)
    view = next((view for view in homes.of_user(user) if view.home.key == key), None)
    if view is None:
        raise NotFound
    home, word = view.home, view.home.facility.slug
    context: dict[str, Any] = {"view": view, "home": home, "word": word, "error": ""}
    if request.method != "POST":
        return render(request, "instances/home_delete.html", context)
    if request.POST.get("confirmation", "").strip() != word:
        context["error"] = f"Type {word} to confirm."
        return render(request, "instances/home_delete.html", context, status=BadRequest.status)
    try:
        services.delete_home(home, by=user)
    except PortalError as error:
        context["error"] = f"{error.message} {error.next_step}"
        return render(request, "instances/home_delete.html", context, status=error.status)
    messages.success(request, f"Your home at {home.facility} was deleted.")
    return redirect("accounts:account")
