"""What all pages share: a list, one row, and its acts; each shows what lies within reach, and reading is noted."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.utils import display_for_field, display_for_value, label_for_field, lookup_field
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import ValidationError
from django.core.paginator import Paginator
from django.db.models import JSONField, Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.urls import reverse
from django.urls.converters import get_converters
from django.utils.functional import cached_property
from django.views.decorators.debug import sensitive_variables

from auth import fresh, roles
from auth.admin import door
from auth.admin.acts import Act, Asked, ShownOnce, is_sealed, seal
from auth.reach import Reach
from portal import audit
from portal.lib.errors import BadRequest, NotFound, PortalError

#: rows are counted up to here: pages beyond are reached by filters
MOST_COUNTED = 10_000


class CountedSoFar(Paginator):
    """Counts no further than anybody turns pages: the log has millions of rows."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return rows.order_by()[:MOST_COUNTED].count()


def exactly(at: datetime) -> str:
    """Return a time as an incident report wants it."""
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


@dataclass(frozen=True)
class Cell:
    text: object
    url: str = ""


@dataclass(frozen=True)
class Table:
    """What belongs to a row, below it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


class List(ChangeList):
    def url_for_result(self, result: Model) -> str:
        page: Any = self.model_admin
        return str(page.url_of(result))


class Page(admin.ModelAdmin):
    """Base of all pages. Nothing is saved or deleted here; see `acts`."""

    section: ClassVar[str]
    #: what a role must allow for looking (auth.roles.PLATFORM)
    action: ClassVar[str] = "see-people"
    #: what addresses and audit rows call a row, and its converter
    key: ClassVar[str] = "pk"
    key_kind: ClassVar[str] = "int"
    #: rows tell about people: looking at them is noted
    personal: ClassVar[bool] = True
    #: shown of one row
    shown: ClassVar[Sequence[str]] = ()
    acts: ClassVar[Sequence[Act]] = ()

    actions = None
    list_per_page = 50
    list_max_show_all = 0
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    paginator = CountedSoFar
    change_list_template = "accounts/admin/list.html"

    # ---- what differs ----
    def within(self, reach: Reach) -> QuerySet[Any]:
        """Return the rows for somebody whose roles reach so far."""
        raise NotImplementedError

    def tables(self, asked: Asked) -> list[Table]:
        return []

    # ---- who ----
    @property
    def name(self) -> str:
        return str(self.opts.verbose_name_plural).lower().replace(" ", "-")

    @property
    def address(self) -> str:
        return reverse("admin:list", args=[self.name])

    def url_of(self, row: Model, act: str = "") -> str:
        key = str(getattr(row, self.key))
        return reverse("admin:act", args=[self.name, key, act]) if act else reverse("admin:one", args=[self.name, key])

    def may(self, request: HttpRequest) -> bool:
        return roles.reach(door.held(request), self.action) != frozenset()

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.may(request)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.may(request)

    def _never(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    has_add_permission = has_change_permission = has_delete_permission = _never

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return self.within(roles.reach(door.held(request), self.action))

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return List

    # ---- views ----
    def show_list(self, request: HttpRequest) -> HttpResponseBase:
        if "\0" in "".join([*request.GET.keys(), *(value for _, many in request.GET.lists() for value in many)]):
            raise BadRequest
        held = door.held(request)
        acts = [act for act in self.acts if act.is_open(held, None)]
        links = [(act.label, reverse("admin:do", args=[self.name, act.name])) for act in acts]
        try:
            response = self.changelist_view(request, {"acts": links})
        except IncorrectLookupParameters:  # raised where Django cannot lead back to a page that works
            raise BadRequest from None
        rows = getattr(response, "context_data", {}).get("cl")
        if rows is not None:
            filters = sorted(name[:40] for name in set(request.GET) - {"p", "o", "e"})[:20]
            self._note_reading(request, "list", shown=len(rows.result_list), by=filters)
        return response

    def show_one(self, request: HttpRequest, key: str) -> HttpResponse:
        row = self._row(request, key)
        asked = Asked(door.who(request), door.held(request), row)
        acts = [(act.label, self.url_of(row, act.name)) for act in self.acts if act.is_open(asked.held, row)]
        fields = [self._shown(name, row) for name in self.shown]
        self._note_reading(request, key)
        return self._render(
            request, "one", row=row, title=str(row), fields=fields, acts=acts, tables=self.tables(asked)
        )

    def perform(self, request: HttpRequest, name: str, key: str | None = None) -> HttpResponseBase:
        """Ask, foresee where that is needed, do, and lead back."""
        try:
            row = self._row(request, key) if key is not None else None
            asked = Asked(door.who(request), door.held(request), row)
            act = next(act for act in self.acts if act.name == name and act.is_open(asked.held, row))
        except (NotFound, StopIteration):
            raise door.refusal(request, "not-found") from None
        fresh.check(request)
        sent = request.method == "POST"
        form = act.form(request.POST if sent else None, asked=asked, initial=request.GET.dict())
        back = self.url_of(row) if row is not None else self.address
        context: dict[str, Any] = {"row": row, "act": act, "form": form, "title": act.label, "back": back}
        context["shows_first"] = act.foresee is not None  # Django's templates would call it
        if not sent or not form.is_valid():
            return self._render(request, "act", **context, status=400 if sent else 200)
        try:
            return self._done(request, act, asked, form.cleaned_data, context)
        except ValidationError as error:
            form.add_error(None, error.messages)
            return self._render(request, "act", **context, status=400)
        except PortalError as error:
            return self._render(request, "act", **context, problem=error, status=error.status)

    @sensitive_variables("done")
    def _done(
        self, request: HttpRequest, act: Act, asked: Asked, said: dict[str, Any], context: dict[str, Any]
    ) -> HttpResponseBase:
        if act.foresee is not None and not is_sealed(said, request.POST.get("seen", "")):
            foreseen = act.foresee(asked, **said)
            self._note_reading(request, "dry run", shown=len(foreseen.lines))
            return self._render(request, "act", **context, foreseen=foreseen, seen=seal(said))
        done = act.do(asked, **said)
        if isinstance(done, ShownOnce):
            return self._render(request, "act", **context | {"form": None}, once=done)
        if not isinstance(done, str):
            return done
        messages.success(request, done)
        row = asked.row
        if row is not None and self.get_queryset(request).filter(pk=row.pk).exists():
            return HttpResponseRedirect(reverse("admin:one", args=[self.name, getattr(row, self.key)]))
        return HttpResponseRedirect(reverse("admin:list", args=[self.name]))

    # ---- parts ----
    def _row(self, request: HttpRequest, key: str) -> Any:
        converter = get_converters()[self.key_kind]
        if not re.fullmatch(converter.regex, key):
            raise NotFound
        row = self.get_queryset(request).filter(**{self.key: converter.to_python(key)}).first()
        if row is None:
            raise NotFound
        return row

    def _shown(self, name: str, row: Model) -> tuple[str, object, bool]:
        """Return label, value, and whether the value is text as it lies."""
        field, _, value = lookup_field(name, row, self)
        label = str(label_for_field(name, type(row), self)).capitalize()
        if isinstance(field, JSONField) or isinstance(value, dict | list):
            return label, json.dumps(value, indent=2, ensure_ascii=False, default=str), True
        if isinstance(value, datetime):
            return label, exactly(value), False
        if field is None:
            return label, display_for_value(value, "–"), False
        return label, display_for_field(value, field, "–"), False

    def _note_reading(self, request: HttpRequest, key: object, **detail: Any) -> None:
        """One row for one look at what tells about people; what was searched for is not kept."""
        if self.personal:
            about = (str(self.opts.model_name), key)
            audit.record("personal_data_read", actor=door.who(request), about=about, **detail)

    def _render(self, request: HttpRequest, name: str, *, status: int = 200, **context: Any) -> HttpResponse:
        known = {**self.admin_site.each_context(request), "opts": self.opts, "list_url": self.address}
        return render(request, f"accounts/admin/{name}.html", known | context, status=status)
