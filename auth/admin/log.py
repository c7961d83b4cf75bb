"""The audit log: to filter and to take along, never to change."""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Callable, Iterator
from typing import IO, Any

from django import forms
from django.contrib import admin
from django.core.serializers.json import DjangoJSONEncoder
from django.db.models import Q, QuerySet
from django.http import HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase

from auth.admin.acts import Act, ActForm, Asked
from auth.admin.pages import Page, exactly
from auth.admin.site import site
from auth.export import pieces
from auth.models import Facility
from auth.reach import Reach, users_within
from portal import audit
from portal.audit import AuditEvent
from portal.lib.errors import Conflict

#: rows that one export holds at most
MOST = 50_000
COLUMNS = (
    "at",
    "action",
    "result",
    "reason",
    "actor_uid",
    "actor_name",
    "identity",
    "for_uid",
    "for_name",
    "object_type",
    "object_id",
    "address",
    "request_id",
    "detail",
)
#: what a spreadsheet takes for the beginning of a formula
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


# ---- filters ----
class FilterForm(forms.Form):
    """Every field may be empty; what is said is compared whole."""

    actor = forms.UUIDField(required=False, label="By (user id)")
    identity = forms.CharField(max_length=520, required=False, label="Identity (subject at issuer)")
    about_user = forms.UUIDField(required=False, label="By or about (user id)")
    action = forms.CharField(max_length=60, required=False)
    object_type = forms.CharField(max_length=40, required=False, label="Kind of object")
    object_id = forms.CharField(max_length=200, required=False, label="Object")
    result = forms.ChoiceField(choices=[("", "any"), *AuditEvent.Result.choices], required=False)
    address = forms.GenericIPAddressField(required=False, label="From address")
    request_id = forms.RegexField(r"^[0-9a-f]{32}$", required=False, label="Request id")
    since = forms.DateTimeField(required=False, help_text="2026-11-21 or 2026-11-21 14:00, UTC")
    until = forms.DateTimeField(required=False)

    LOOKUPS = {"actor": "actor_uid", "since": "at__gte", "until": "at__lt"}

    def of(self, rows: QuerySet[AuditEvent]) -> QuerySet[AuditEvent]:
        said = {name: value for name, value in self.cleaned_data.items() if name in FilterForm.base_fields and value}
        if user := said.pop("about_user", None):
            rows = rows.filter(Q(actor_uid=user) | Q(for_uid=user) | Q(object_type="user", object_id=str(user)))
        return rows.filter(**{self.LOOKUPS.get(name, name): value for name, value in said.items()})


class Filters(admin.ListFilter):
    """All filters as one form."""

    title, template = "Filters", "accounts/admin/filters.html"

    def __init__(self, request: HttpRequest, params: dict[str, Any], model: Any, model_admin: Any) -> None:
        super().__init__(request, params, model, model_admin)
        for name in FilterForm.base_fields:
            if (given := params.pop(name, None)) is not None:
                self.used_parameters[name] = given[-1]
        self.form = FilterForm(self.used_parameters or None, auto_id="filter_%s")

    def expected_parameters(self) -> list[str | None]:
        return list(FilterForm.base_fields)

    def has_output(self) -> bool:
        return True

    def choices(self, changelist: Any) -> Iterator[Any]:
        yield {"form": self.form}

    def queryset(self, request: HttpRequest, queryset: QuerySet[AuditEvent]) -> QuerySet[AuditEvent]:
        if not self.used_parameters:
            return queryset
        return self.form.of(queryset) if self.form.is_valid() else queryset.none()


# ---- taking it along ----
class ExportForm(FilterForm, ActForm):
    format = forms.ChoiceField(choices=[("csv", "CSV, for spreadsheets"), ("json", "JSON")])


def neutral(value: object) -> str:
    """Return a cell that no spreadsheet calculates (OWASP: CSV injection)."""
    text = "" if value is None else value if isinstance(value, str) else _encode(value).strip('"')
    return f"'{text}" if text.startswith(_FORMULA) else text


_encode = DjangoJSONEncoder(ensure_ascii=False).encode


def _as_csv(rows: Iterator[tuple[object, ...]]) -> Iterator[str]:
    yield _line(COLUMNS)
    for row in rows:
        yield _line(map(neutral, row))


def _line(cells: Any) -> str:
    out = io.StringIO()
    csv.writer(out).writerow(cells)
    return out.getvalue()


def _as_json(rows: Iterator[tuple[object, ...]]) -> Iterator[str]:
    before = "["
    for row in rows:
        yield f"{before}\n{_encode(dict(zip(COLUMNS, row, strict=True)))}"
        before = ","
    yield "[]\n" if before == "[" else "\n]\n"


FORMATS: dict[str, tuple[str, Callable[[Iterator[Any]], Iterator[str]]]] = {
    "csv": ("text/csv; charset=utf-8", _as_csv),
    "json": ("application/json", _as_json),
}


def _export(asked: Asked, **said: Any) -> HttpResponseBase:
    """Write it to a file, so that the database is given back before anybody reads, however slowly."""
    kind, write = FORMATS[said["format"]]
    form = ExportForm(asked=asked)
    form.cleaned_data = said
    rows = form.of(visible(asked.reach("see-audit")))
    with audit.attempt("audit_exported", actor=asked.by, about=("audit", said["format"])) as detail:
        detail["filters"] = {name: str(value) for name, value in said.items() if value and name != "format"}
        detail["rows"] = rows.order_by()[: MOST + 1].count()
        if detail["rows"] > MOST:
            raise Conflict(f"More than {MOST} rows fit.", next_step="Narrow the time and take it in parts.")
    file: IO[bytes] = tempfile.SpooledTemporaryFile(2**20)  # noqa: SIM115  (closed by who sends it)
    for piece in write(rows.values_list(*COLUMNS)[:MOST].iterator(chunk_size=2000)):
        file.write(piece.encode())
    file.seek(0)
    answer = StreamingHttpResponse(pieces(file), content_type=kind)
    answer.headers["Content-Disposition"] = f'attachment; filename="audit.{said["format"]}"'
    return answer


# ---- what lies within reach ----
def visible(reach: Reach) -> QuerySet[AuditEvent]:
    """Return the acts of and about people within reach, and about persons and groups there; nothing about others."""
    rows = AuditEvent.objects.all()
    if reach is None:
        return rows
    users = users_within(reach)
    uids = list(users.values_list("uid", flat=True))
    texts = [str(uid) for uid in uids]
    of_places = Q(object_type__in=("person", "group"))
    here = Q(pk__in=())
    for slug in Facility.objects.filter(pk__in=reach).values_list("slug", flat=True):
        here |= Q(object_id__startswith=f"{slug}/")
    theirs = Q(actor_uid__in=uids) | Q(for_uid__in=uids) | Q(object_type="user", object_id__in=texts)
    others = Q(object_type="user") & ~Q(object_id__in=texts) | of_places & ~here
    others |= Q(for_uid__isnull=False) & ~Q(for_uid__in=uids)
    return rows.filter(theirs | of_places & here).exclude(others)


@admin.register(AuditEvent, site=site)
class AuditPage(Page):
    section, action = "Audit", "see-audit"
    list_display = ("when", "action", "result", "actor_name", "for_name", "object_type", "object_id", "address")
    list_filter = (Filters,)
    ordering = ("-id",)
    sortable_by = ()
    shown = COLUMNS
    acts = (
        Act("export", "Export", "see-audit", _export, f"At most {MOST} rows. The export itself is noted.", ExportForm,
            to_row=False),
    )  # fmt: skip

    @admin.display(description="at")
    def when(self, event: AuditEvent) -> str:
        return exactly(event.at)

    def within(self, reach: Reach) -> QuerySet[AuditEvent]:
        return visible(reach)
