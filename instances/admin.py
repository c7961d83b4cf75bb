"""Instances for those who run the portal: to look at. What they hold is their owners'."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import QuerySet

from auth.admin.pages import Page
from auth.admin.site import site
from auth.reach import Reach
from instances.models import Instance


@admin.register(Instance, site=site)
class InstancePage(Page):
    section, action, key, key_kind = "Machines", "see-all-instances", "uid", "uuid"
    list_display = ("uid", "owner", "facility", "plan", "state", "target", "created_at")
    list_filter = ("state", "facility")
    list_select_related = ("owner", "facility", "plan")
    search_fields = ("=uid", "=owner__handle")
    search_help_text = "The whole id, or the owner's whole handle."
    ordering = ("-created_at",)
    shown = ("uid", "owner", "facility", "plan", "provider", "state", "target", "reason", "attempt", "created_at")

    def within(self, reach: Reach) -> QuerySet[Instance]:
        every = Instance.objects.select_related("owner", "facility", "plan", "provider")
        return every if reach is None else every.filter(facility__in=reach)
