"""Roles granted by hand, groups, and the rules that make their members."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import Q, QuerySet

from auth import grants, groups, providers
from auth.admin.acts import (
    FOR_GOOD,
    MOST_NAMED,
    WHOLE,
    Act,
    ActForm,
    Asked,
    FacilityField,
    Foreseen,
    RoleForm,
    UntilField,
    UserField,
)
from auth.admin.pages import Cell, Page, Table
from auth.admin.people import GrantToForm, grant, page_of
from auth.admin.site import site
from auth.models import Facility, Group, GroupMember, GroupRole, GroupRule, RoleGrant, User
from auth.reach import Reach
from auth.roles import Role
from portal.lib.clock import Now


# ---- roles by hand ----
def _withdraw(asked: Asked) -> str:
    grants.withdraw(asked.row, by=asked.by)
    return f"{asked.row.user} is no longer {asked.row.role}."


class Valid(admin.SimpleListFilter):
    title, parameter_name = "validity", "valid"

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, str]]:
        return [("now", "valid now"), ("over", "expired")]

    def queryset(self, request: Any, queryset: QuerySet[Any]) -> QuerySet[Any]:
        over = Q(expires_at__lte=Now())
        return {"now": queryset.exclude(over), "over": queryset.filter(over)}.get(self.value() or "", queryset)


@admin.register(RoleGrant, site=site)
class RoleGrantPage(Page):
    section, action = "Rights", "grant-roles"
    list_display = ("user", "role", "facility", "granted_at", "expires_at", "source")
    list_filter = ("role", "facility", Valid)
    list_select_related = ("user", "facility")
    search_fields = ("=user__handle",)
    search_help_text = "The whole handle. Visitors: the role “visitor”, at the right."
    ordering = ("-granted_at",)
    shown = ("user", "role", "facility", "granted_at", "expires_at", "source")
    acts = (
        Act("grant", "Grant a role", "grant-roles", grant, "Nobody grants what they lack.", GrantToForm, to_row=False),
        Act("withdraw", "Withdraw", "grant-roles", _withdraw, "The user loses the role at once."),
    )

    def within(self, reach: Reach) -> QuerySet[RoleGrant]:
        every = RoleGrant.objects.select_related("user", "facility")
        return every if reach is None else every.filter(facility__in=reach)


# ---- groups ----
class TitleForm(ActForm):
    title = forms.CharField(max_length=200)


class GroupForm(TitleForm):
    facility = FacilityField()
    slug = forms.SlugField(max_length=60, help_text="Never changes; names the group in the audit log.")
    field_order = ("facility", "slug", "title")

    def prepare(self) -> None:
        field = self.fields["facility"]
        assert isinstance(field, FacilityField)  # noqa: S101
        field.fit(self.asked.reach("manage-groups"))


class _OfGroup(ActForm):
    """One of the rows that hang on the group."""

    def choose(self, name: str, rows: QuerySet[Any]) -> None:
        field = self.fields[name]
        assert isinstance(field, forms.ModelChoiceField)  # noqa: S101
        field.queryset = rows


class TakeRoleForm(_OfGroup):
    held = forms.ModelChoiceField(GroupRole.objects.none(), label="Role")

    def prepare(self) -> None:
        self.choose("held", self.asked.row.roles.select_related("group", "facility"))


class MemberForm(ActForm):
    user = UserField()
    until = UntilField(required=False, help_text="UTC. Empty: for good.")


class RemoveMemberForm(_OfGroup):
    member = forms.ModelChoiceField(GroupMember.objects.none())

    def prepare(self) -> None:
        self.choose("member", self.asked.row.memberships.select_related("user", "group__facility"))


def _make(asked: Asked, **said: Any) -> str:
    return f"{grants.save_group(Group(**said), by=asked.by)} is made."


def _rename(asked: Asked, title: str) -> str:
    asked.row.title = title
    return f"It is called {grants.save_group(asked.row, by=asked.by)} now."


def _delete(asked: Asked) -> str:
    grants.delete_group(asked.row, by=asked.by)
    return "The group is gone."


def _give(asked: Asked, role: str, facility: Facility | None) -> str:
    grants.give_to_group(asked.row, Role(role), facility, by=asked.by)
    return f"Every member is {role} now."


def _take(asked: Asked, held: GroupRole) -> str:
    grants.take_from_group(held, by=asked.by)
    return f"No member is {held.role} by this group any more."


def _add(asked: Asked, user: User, until: datetime | None) -> str:
    grants.add_member(asked.row, user, until=until, by=asked.by)
    return f"{user} is a member."


def _remove(asked: Asked, member: GroupMember) -> str:
    grants.remove_member(member, by=asked.by)
    return f"{member.user} is no member now."


# ---- rules ----
class RuleForm(ActForm):
    """Fields of the model, so that its rules of what is too long or missing hold; `lasts` is in days."""

    days = forms.IntegerField(min_value=1, max_value=groups.LONGEST.days, initial=30, label="Lasts, days after sign-in")

    FIELDS = (
        "provider",
        "kind",
        "namespace",
        "path",
        "role",
        "authority",
        "claim",
        "value",
        "minimum_assurance",
        "requires_mfa",
        "enabled",
        "note",
    )

    def prepare(self) -> None:
        rule = self.asked.row if isinstance(self.asked.row, GroupRule) else None
        asked = forms.fields_for_model(GroupRule, self.FIELDS)
        asked["provider"] = forms.ChoiceField(choices=[(one.slug, one.title) for one in providers.every()])
        self.fields = {**asked, **self.fields}
        if rule is not None:
            self.initial = {**forms.model_to_dict(rule, self.FIELDS), "days": rule.lasts.days}

    def clean(self) -> dict[str, Any]:
        said = super().clean() or self.cleaned_data
        if not self.errors:
            self.rule().full_clean()
        return said

    def rule(self) -> GroupRule:
        return rule_of(self.asked, self.cleaned_data)


def rule_of(asked: Asked, said: dict[str, Any]) -> GroupRule:
    """Return the rule as the form says it, of this group or changed; not saved."""
    rule = asked.row if isinstance(asked.row, GroupRule) else GroupRule(group=asked.row)
    for name, value in said.items():
        if name in RuleForm.FIELDS:
            setattr(rule, name, value)
    rule.lasts = timedelta(days=said["days"])
    return rule


def _foresee(asked: Asked, **said: Any) -> Foreseen:
    found = groups.dry_run(rule_of(asked, said))
    how_many = Counter(one.effect for one in found)
    order = [groups.Effect.LOSES, groups.Effect.GETS, groups.Effect.KEEPS]
    lose, get, keep = (how_many[effect] for effect in order)
    changes = sorted(found, key=lambda one: order.index(one.effect))
    return Foreseen(
        f"By what was said at the last sign-ins: {lose} lose what the group holds at once, "
        f"{get} get it at their next sign-in, {keep} keep it.",
        [(one.effect.value, f"{one.identity.user.handle}: {one.identity.user}") for one in changes[:MOST_NAMED]],
    )


def _save_rule(asked: Asked, **said: Any) -> str:
    return f"Saved: {grants.save_rule(rule_of(asked, said), by=asked.by)}"


def _delete_rule(asked: Asked) -> str:
    grants.delete_rule(asked.row, by=asked.by)
    return "The rule is gone, and with it its members."


@admin.register(Group, site=site)
class GroupPage(Page):
    section, action = "Rights", "manage-groups"
    list_display = ("title", "slug", "facility")
    list_filter = ("facility",)
    list_select_related = ("facility",)
    search_fields = ("slug", "title")
    shown = ("title", "slug", "facility")
    acts = (
        Act("make", "Make a group", "manage-groups", _make, form=GroupForm, to_row=False),
        Act("title", "Change the title", "manage-groups", _rename, form=TitleForm),
        Act("give", "Give a role", "manage-groups", _give, "All members hold it from now on.", RoleForm),
        Act("take", "Take a role", "manage-groups", _take, "All members lose it at once.", TakeRoleForm),
        Act("add", "Add a member", "manage-groups", _add, form=MemberForm),
        Act("remove", "Remove a member", "manage-groups", _remove,
            "Who is a member by a rule comes back with the next sign-in.", RemoveMemberForm),
        Act("rule", "Add a rule", "manage-groups", _save_rule, form=RuleForm, foresee=_foresee),
        Act("delete", "Delete", "manage-groups", _delete, "With its rules; its members lose its roles at once."),
    )  # fmt: skip

    def within(self, reach: Reach) -> QuerySet[Group]:
        every = Group.objects.select_related("facility")
        return every if reach is None else every.filter(facility__in=reach)

    def tables(self, asked: Asked) -> list[Table]:
        group = asked.row
        held = group.roles.select_related("facility")
        members = group.memberships.select_related("user").order_by("user__handle")[:MOST_NAMED]
        return [
            Table("Roles of its members", ("role", "at"), [(one.role, one.facility or WHOLE) for one in held]),
            Table("Rules", ("rule", "in force"), [_rule_line(rule) for rule in group.rules.select_related("group")]),
            Table("Members", ("user", "by", "until"), [_member_line(member) for member in members]),
        ]


def _rule_line(rule: GroupRule) -> tuple[object, ...]:
    return Cell(rule, page_of(rule)), "yes" if rule.enabled else "no"


def _member_line(member: GroupMember) -> tuple[object, ...]:
    return Cell(member.user, page_of(member.user)), member.said or "hand", member.expires_at or FOR_GOOD


@admin.register(GroupRule, site=site)
class GroupRulePage(Page):
    section, action, personal = "Rights", "manage-groups", False
    list_display = ("__str__", "provider", "group", "enabled")
    list_filter = ("provider", "enabled")
    list_select_related = ("group__facility",)
    shown = ("group", *RuleForm.FIELDS, "lasts", "updated_at")
    acts = (
        Act("change", "Change", "manage-groups", _save_rule, form=RuleForm, foresee=_foresee),
        Act("delete", "Delete", "manage-groups", _delete_rule, "Who is a member by it alone leaves the group at once."),
    )

    def within(self, reach: Reach) -> QuerySet[GroupRule]:
        every = GroupRule.objects.select_related("group__facility")
        return every if reach is None else every.filter(group__facility__in=reach)
