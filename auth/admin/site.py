"""The site that the pages are on: Django's, without its sign-in, its log and its ways to change rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from django.contrib import admin
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.urls import path, reverse
from django.urls.resolvers import URLPattern, URLResolver
from django.views.decorators.http import require_http_methods

from auth.admin import door
from auth.fresh import SignInNotFresh, show_again
from portal.problems import NotSignedIn, by_script, respond

if TYPE_CHECKING:
    from auth.admin.pages import Page

View = Callable[..., HttpResponseBase]


class Site(admin.AdminSite):
    site_title = site_header = "Beamport administration"
    index_title = "Administration"
    index_template = "accounts/admin/index.html"

    def has_permission(self, request: HttpRequest) -> bool:
        """Asked by Django's templates; `door.check` has answered already."""
        return request.user.is_authenticated

    def guarded(self, view: View, *methods: str) -> View:
        """Put the door in front of a view."""

        def entered(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            try:
                door.check(request)
                return view(request, *args, **kwargs)
            except NotSignedIn as error:
                return respond(request, error) if by_script(request) else _sign_in(request)
            except SignInNotFresh as error:
                return show_again(request, error)

        return update_wrapper(require_http_methods(["GET", "HEAD", *methods])(entered), view)

    def get_urls(self) -> list[URLPattern | URLResolver]:
        return [
            path("", self.guarded(self.index), name="index"),
            path("<slug:page>/", self._to("show_list"), name="list"),
            path("<slug:page>/do/<slug:name>/", self._to("perform", "POST"), name="do"),
            path("<slug:page>/<str:key>/", self._to("show_one"), name="one"),
            path("<slug:page>/<str:key>/<slug:name>/", self._to("perform", "POST"), name="act"),
        ]

    def pages(self) -> dict[str, Page]:
        found: list[Any] = list(self._registry.values())
        return {page.name: page for page in found}

    def _to(self, view: str, *methods: str) -> View:
        """Lead to a view of the page that is named; one that somebody may not see is as one that is not there."""

        def lead(request: HttpRequest, page: str, **more: Any) -> HttpResponseBase:
            found = self.pages().get(page)
            if found is None or not found.may(request):
                raise door.refusal(request, "page")
            answer: HttpResponseBase = getattr(found, view)(request, **more)
            return answer

        return self.guarded(lead, *methods)

    #: in which order
    SECTIONS = ("People", "Rights", "Sign-ins", "Policies and erasure", "Audit", "Machines")

    def get_app_list(self, request: HttpRequest, app_label: str | None = None) -> list[Any]:
        """Return the pages that this person may see, by section."""
        sections: dict[str, list[dict[str, Any]]] = {name: [] for name in self.SECTIONS}
        for page in self.pages().values():
            if not page.may(request):
                continue
            entry = {
                "name": str(page.opts.verbose_name_plural).capitalize(),
                "object_name": page.opts.object_name,
                "admin_url": page.address,
                "view_only": True,
            }
            sections[page.section].append(entry)
        home = reverse("admin:index")
        return [
            {"name": name, "app_label": name.lower().replace(" ", "-"), "app_url": home, "models": entries}
            for name, entries in sections.items()
            if entries
        ]


def _sign_in(request: HttpRequest) -> HttpResponse:
    return HttpResponseRedirect(f"{reverse('accounts:sign-in')}?{urlencode({'next': request.get_full_path()})}")


site = Site(name="admin")
