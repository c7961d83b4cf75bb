"""Nothing about people is forgotten: each model with a way to a user says what it holds, and what becomes of it.

docs/reference/personal-data.md lists it; `BEAMPORT_WRITE_PERSONAL=1` writes the page anew.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from django.apps import apps
from django.db import models
from django.test.utils import isolate_apps

from auth import export, registry
from auth.models import User

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "personal-data.md"


def test_every_model_with_a_way_to_a_user_is_held_or_exempt() -> None:
    assert registry.unaccounted() == []


def test_one_that_nobody_spoke_of_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with isolate_apps():

        class Badge(models.Model):
            user = models.ForeignKey(User, models.CASCADE, related_name="+")

            class Meta:
                app_label = "instances"

        class Scan(models.Model):
            badge = models.ForeignKey(Badge, models.CASCADE, related_name="+")

            class Meta:
                app_label = "instances"

    known = list(apps.get_models(include_auto_created=True))
    monkeypatch.setattr(registry.apps, "get_models", lambda **_: [*known, Badge, Scan])
    assert registry.unaccounted() == ["instances.Badge", "instances.Scan"]


def test_a_second_key_to_a_user_is_found_too(monkeypatch: pytest.MonkeyPatch) -> None:
    held = [one for one in registry.everything() if one.section != "erasure_requests"]
    (requests,) = [one for one in registry.everything() if one.section == "erasure_requests"]
    less = registry.Held(**{**requests.__dict__, "keys": frozenset({"user"})})
    monkeypatch.setattr(registry._known, "held", [*held, less])
    assert registry.unaccounted() == ["accounts.ErasureRequest.decided_by"]


def test_sections_have_names_of_their_own() -> None:
    sections = [held.section for held in registry.everything()]
    assert len(sections) == len(set(sections))
    assert not {"format", "portal", "made_at"} & set(sections)


def page() -> str:
    lines = [
        "# Personal data",
        "",
        "Written by a test from what each app registers (`tests/auth/test_registry.py`); not to be edited by hand.",
        "What people see of it, how long it is kept and what an operator does: [privacy](../operate/privacy.md).",
        "",
        f"The export is one JSON object: `format` (`{export.FORMAT}`), `portal` (its address), `made_at`, and a list",
        "of objects for each section. Times are ISO 8601 in UTC. A field that says nothing is empty or null. New",
        "sections and fields may come; those that are here keep their meaning as long as the number in `format` stays.",
        "",
        "| section | of | fields | when its owner is erased |",
        "|---|---|---|---|",
    ]
    for held in registry.everything():
        fields = ", ".join(f"`{name}`" for name in held.fields)
        lines.append(f"| `{held.section}` | {held.model._meta.label} | {fields} | {held.fate} |")
    lines += ["", "Not in it, although a way leads from it to a user:", ""]
    lines += [f"- {model._meta.label}: {reason}." for model, reason in registry.exemptions().items()]
    return "\n".join(lines) + "\n"


def test_the_page_lists_them_all() -> None:
    if os.environ.get("BEAMPORT_WRITE_PERSONAL"):
        PAGE.write_text(page())
    assert PAGE.read_text() == page()
