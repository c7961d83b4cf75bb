"""Instances for those who run the portal: to look at. What they hold is their owners'."""

from __future__ import annotations

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.urls import reverse

from auth.admin.acts import Act, ActForm, Asked, Foreseen
from auth.admin.pages import Cell, Page, Table
from auth.admin.site import site
from auth.reach import Reach
from instances import drain, imports
from instances.models import Instance, Provider

#: what helps where a cluster cannot know whether a machine still runs: only who has looked may say that it does not
_LOST = (
    ("Look", "is the computer off, or only cut off? While it may be running, the machine may be writing to its disk."),
    ("It comes back", "do nothing: the machine is found again, or started anew, by itself."),
    (
        "It is off for certain",
        "taint it `node.kubernetes.io/out-of-service=nodeshutdown:NoExecute`: its disks are "
        "detached, and the machine starts elsewhere.",
    ),
    ("It will never come back", "delete the Node: within minutes the cluster collects what was on it."),
    ("Never", "delete the pod by force while the computer may be running: two machines would write to one disk."),
)


@admin.register(Instance, site=site)
class InstancePage(Page):
    section, action, key, key_kind = "Machines", "see-all-instances", "uid", "uuid"
    list_display = ("uid", "owner", "facility", "plan", "state", "target", "created_at")
    list_filter = ("state", "facility")
    list_select_related = ("owner", "facility", "plan")
    search_fields = ("=uid", "=owner__handle")
    search_help_text = "The whole id, or the owner's whole handle."
    ordering = ("-created_at",)
    shown = (
        *("uid", "owner", "facility", "plan", "provider", "state", "target", "reason", "detail", "attempt"),
        "created_at",
    )

    def tables(self, asked: Asked) -> list[Table]:
        if asked.row.reason != "node-lost":
            return []
        return [Table("Its computer does not answer: what can be done", ("when", "what"), _LOST)]

    def within(self, reach: Reach) -> QuerySet[Instance]:
        every = Instance.objects.select_related("owner", "facility", "plan", "provider")
        return every if reach is None else every.filter(facility__in=reach)


class DrainForm(ActForm):
    because = forms.CharField(
        label="What people are told",
        max_length=300,
        required=False,
        help_text="Shown after “No instances are started here for now:”, e.g. “maintenance until Monday 8:00.”",
    )


def _drain(asked: Asked, because: str) -> str:
    drain.begin(asked.row, by=asked.by, because=" ".join(because.split()))
    return f"Nothing new starts on {asked.row} now. What runs goes on."


class ImportForm(ActForm):
    begins = forms.CharField(
        label="Images whose reference begins with",
        max_length=200,
        required=False,
        help_text="Nodes hold the cluster's own images too. Empty: no images.",
    )


def _foresee_import(asked: Asked, begins: str) -> Foreseen:
    found = imports.find(asked.row, begins)
    return Foreseen(f"{len(found.images)} images and {len(found.flavours)} flavours are new.", found.lines())


def _import(asked: Asked, begins: str) -> str:
    found = imports.take(asked.row, begins, by=asked.by)
    return f"{len(found.images)} images and {len(found.flavours)} flavours were added."


def _open(asked: Asked) -> str:
    drain.end(asked.row, by=asked.by)
    return f"Instances start on {asked.row} again."


@admin.register(Provider, site=site)
class ProviderPage(Page):
    """What makes machines. Its options stay on the command line: they name files of credentials."""

    section, action, key, key_kind = "Machines", "run-providers", "name", "slug"
    list_display = ("name", "kind", "facility", "enabled", "draining_at", "last_seen_at")
    list_select_related = ("facility",)
    ordering = ("name",)
    shown = ("name", "kind", "facility", "enabled", "draining_at", "draining_because", "last_seen_at", "last_error")
    acts = (
        Act(
            "drain",
            "Drain",
            "run-providers",
            _drain,
            says="Nothing new starts here, and people are told. What runs goes on; nothing is stopped by itself.",
            form=DrainForm,
        ),
        Act(
            "open",
            "Open again",
            "run-providers",
            _open,
            says="Instances may be made and started here again.",
            fits=lambda row: bool(row.is_draining),
        ),
        Act(
            "import",
            "Import images and flavours",
            "run-providers",
            _import,
            says="Asks what there is, shows what is new, and adds it. Plans of it come by `manage.py offer FILE`.",
            form=ImportForm,
            foresee=_foresee_import,
        ),
    )

    def within(self, reach: Reach) -> QuerySet[Provider]:
        every = Provider.objects.select_related("facility")
        return every if reach is None else every.filter(facility__in=reach)

    def tables(self, asked: Asked) -> list[Table]:
        rows = [(_link(one), one.owner, one.state, why) for one, why in drain.left(asked.row)]
        return [Table("What is on it, and what keeps it there", ("instance", "owner", "state", "because"), rows)]


def _link(instance: Instance) -> Cell:
    return Cell(instance.uid, reverse("admin:one", args=["instances", str(instance.uid)]))
