"""Policies, and requests to be forgotten."""

from __future__ import annotations

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import QuerySet

from auth import erasure, policies, registry
from auth.admin.acts import Act, ActForm, Asked
from auth.admin.pages import Cell, Page, Table
from auth.admin.people import page_of
from auth.admin.site import site
from auth.models import ErasureRequest, Policy
from auth.reach import Reach, users_within


class PolicyForm(ActForm):
    kind = forms.ChoiceField(choices=Policy.Kind.choices)
    version = forms.RegexField(r"^[\w.-]+$", max_length=20)
    title = forms.CharField(max_length=200)
    text = forms.CharField(widget=forms.Textarea, max_length=100_000, help_text="An empty line begins a new paragraph.")


def _publish(asked: Asked, kind: str, version: str, title: str, text: str) -> str:
    return f"In force from now on: {policies.publish(kind, version, title, text, by=asked.by)}"


@admin.register(Policy, site=site)
class PolicyPage(Page):
    section, action, personal = "Policies and erasure", "manage-policies", False
    list_display = ("title", "kind", "version", "published_at")
    list_filter = ("kind",)
    shown = ("kind", "version", "title", "text", "published_at")
    acts = (
        Act("publish", "Publish a version", "manage-policies", _publish,
            "It is in force at once and never changes. New rules of use stop everybody until they accept them.",
            PolicyForm, to_row=False),
    )  # fmt: skip

    def within(self, reach: Reach) -> QuerySet[Policy]:
        return Policy.objects.all() if reach is None else Policy.objects.none()


class AnswerForm(ActForm):
    answer = forms.CharField(max_length=500, widget=forms.Textarea, help_text="The person reads it.")


class EraseForm(ActForm):
    handle = forms.CharField(max_length=32, help_text="Type the user's handle: there is no way back.")

    def clean_handle(self) -> str:
        if self.cleaned_data["handle"] != self.asked.row.user.handle:
            raise ValidationError("This is not the handle of the user who asks.")
        return str(self.cleaned_data["handle"])


def _erase(asked: Asked, handle: str) -> str:
    return f"Erased. What stays is called {erasure.erase(asked.row.user, asked.by)}."


def _refuse(asked: Asked, answer: str) -> str:
    erasure.refuse(asked.row, by=asked.by, answer=answer)
    return "Refused; the person reads why."


def _is_open(request: ErasureRequest) -> bool:
    return request.outcome == ErasureRequest.Outcome.OPEN


@admin.register(ErasureRequest, site=site)
class ErasureRequestPage(Page):
    section, action = "Policies and erasure", "erase-user"
    list_display = ("user", "outcome", "asked_at", "decided_at", "decided_by")
    list_filter = ("outcome",)
    list_select_related = ("user", "decided_by")
    ordering = ("-asked_at",)
    shown = ("user", "outcome", "reason", "asked_at", "answer", "decided_at", "decided_by")
    acts = (
        Act("erase", "Erase the user", "erase-user", _erase,
            "Name, e-mail, identities, sessions and rights go at once; accounting and audit stay under a pseudonym.",
            EraseForm, fits=_is_open),
        Act("refuse", "Refuse", "erase-user", _refuse, form=AnswerForm, fits=_is_open),
    )  # fmt: skip

    def within(self, reach: Reach) -> QuerySet[ErasureRequest]:
        return ErasureRequest.objects.filter(user__in=users_within(reach)).select_related("user", "decided_by")

    def tables(self, asked: Asked) -> list[Table]:
        user = asked.row.user
        ways = [(one.what,) for one in registry.hindrances(user)] if _is_open(asked.row) else []
        return [
            Table("What stands in the way", ("still there",), ways),
            Table("What is lost beyond rows", ("",), [(text,) for text in registry.losses(user)]),
            Table("See also", ("",), [(Cell(f"user {user}", page_of(user)),)]),
        ]
