"""Users, their identities, and the persons whom user offices know."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.contrib import admin
from django.db.models import Model, QuerySet
from django.urls import reverse

from auth import access, grants, persons, roles, services
from auth.admin.acts import FOR_GOOD, WHOLE, Act, ActForm, Asked, RoleForm, ShownOnce, UntilField, UserField
from auth.admin.pages import Cell, Page, Table
from auth.admin.site import site
from auth.models import Facility, Identity, Person, PersonLink, User
from auth.reach import Reach, users_within
from auth.roles import Role


def log_of(**filters: object) -> str:
    """Return the address of the audit log with these filters."""
    return f"{reverse('admin:list', args=['audit-events'])}?{urlencode(filters)}"


# ---- users ----
class ReasonForm(ActForm):
    reason = forms.CharField(max_length=200, help_text="Kept in the audit log; the user is not shown it.")


class GrantForm(RoleForm):
    until = UntilField(required=False, help_text="UTC. Empty: for good; a visitor's role needs an end.")


class GrantToForm(GrantForm):
    user = UserField()
    field_order = ("user", "role", "facility", "until")


def grant(asked: Asked, role: str, facility: Facility | None, until: datetime | None, user: User | None = None) -> str:
    to = user or asked.row
    grants.grant(to, Role(role), facility=facility, until=until, by=asked.by)
    return f"{to} is {role} now."


def _suspend(asked: Asked, reason: str) -> str:
    services.suspend(asked.row, by=asked.by, reason=reason)
    return f"{asked.row} is suspended."


def _reinstate(asked: Asked) -> str:
    services.reinstate(asked.row, by=asked.by)
    return f"{asked.row} may sign in again."


def _end_sessions(asked: Asked) -> str:
    return f"{services.end_sessions_of(asked.row, by=asked.by)} sessions were ended."


@admin.register(User, site=site)
class UserPage(Page):
    section, key, key_kind = "People", "uid", "uuid"
    list_display = ("handle", "display_name", "state", "created_at")
    search_fields = ("=handle", "=email", "=uid")
    search_help_text = "The whole handle, id or e-mail address."
    ordering = ("handle",)
    shown = (
        "handle",
        "uid",
        "display_name",
        "email",
        "email_verified",
        "state",
        "suspended_at",
        "suspended_reason",
        "erased_at",
        "aup_version",
        "created_at",
    )
    acts = (
        Act("grant", "Grant a role", "grant-roles", grant, form=GrantForm, fits=lambda user: user.may_sign_in),
        Act(
            "suspend",
            "Suspend",
            "suspend-user",
            _suspend,
            "Takes sessions, API tokens and open connections from this user at once, and lets nobody in as them.",
            ReasonForm,
            fits=lambda user: user.suspended_at is None and user.erased_at is None,
        ),
        Act(
            "reinstate",
            "Reinstate",
            "suspend-user",
            _reinstate,
            "Lets this user sign in again. What was ended stays ended.",
            fits=lambda user: user.suspended_at is not None and user.erased_at is None,
        ),
        Act(
            "end-sessions",
            "End all sessions",
            "end-any-session",
            _end_sessions,
            "Signs this user out everywhere. They may sign in again; suspend them if they should not.",
        ),
    )

    def within(self, reach: Reach) -> QuerySet[User]:
        return users_within(reach)

    @admin.display(description="state")
    def state(self, user: User) -> str:
        if user.erased_at is not None:
            return "erased"
        return "suspended" if user.suspended_at is not None else "active" if user.is_active else "inactive"

    def tables(self, asked: Asked) -> list[Table]:
        user, reach = asked.row, asked.reach("see-people")
        known = user.persons.select_related("facility")
        known = known if reach is None else known.filter(facility__in=reach)
        sessions = access.live_sessions().filter(user=user).order_by("-last_used_at")
        logs = (Cell("acts of this user", log_of(actor=user.uid)), Cell("acts upon them", log_of(object_id=user.uid)))
        return [
            Table("Roles", ("role", "at", "until", "source"), [_held_line(one) for one in roles.given_to(user)]),
            Table(
                "Identities",
                ("identity", "last sign-in", "log"),
                [*map(_identity_line, user.identities.all())],
            ),
            Table("Persons", ("person", "at"), [(Cell(one, page_of(one)), one.facility) for one in known]),
            Table("Open sessions", SESSION, [(one.created_at, one.last_used_at, one.user_agent) for one in sessions]),
            Table("Audit log", ("", ""), [logs]),
        ]


SESSION = ("since", "last used", "browser")


def _held_line(held: roles.Held) -> tuple[object, ...]:
    return held.role, held.facility or WHOLE, held.until or FOR_GOOD, held.source


def _identity_line(one: Identity) -> tuple[object, ...]:
    return Cell(one, page_of(one)), one.last_login_at, Cell("every act", log_of(identity=str(one)))


def page_of(row: Model) -> str:
    """Return the address of another page's row."""
    page: Any = site.get_model_admin(type(row))
    return str(page.url_of(row))


# ---- identities ----
@admin.register(Identity, site=site)
class IdentityPage(Page):
    section, key, key_kind = "People", "uid", "uuid"
    list_display = ("subject", "provider", "user", "organisation", "last_login_at")
    list_filter = ("provider",)
    list_select_related = ("user",)
    search_fields = ("=subject", "=voperson_id", "=user__handle")
    search_help_text = "The whole subject, voPerson id or handle."
    ordering = ("-last_login_at",)
    shown = (
        "provider",
        "issuer",
        "subject",
        "voperson_id",
        "organisation",
        "assurance",
        "claims_subset",
        "first_login_at",
        "last_login_at",
    )

    def within(self, reach: Reach) -> QuerySet[Identity]:
        return Identity.objects.filter(user__in=users_within(reach))

    def tables(self, asked: Asked) -> list[Table]:
        one = asked.row
        links = [Cell(f"user {one.user}", page_of(one.user)), Cell("every act", log_of(identity=str(one)))]
        return [Table("See also", ("",), [(link,) for link in links])]


# ---- persons ----
class TieForm(ActForm):
    user = UserField()


def _tie(asked: Asked, user: User) -> str:
    persons.tie_by_operator(asked.row, user, asked.by)
    return f"{asked.row} is {user} now."


def _untie(asked: Asked) -> str:
    persons.untie(asked.row, asked.by)
    return f"{asked.row} belongs to no user now."


def _make_link(asked: Asked) -> ShownOnce:
    link, address = persons.make_link(asked.row, asked.by)
    return ShownOnce(
        address, f"Give this to {asked.row}, and to nobody else. Valid until {link.expires_at:%d %B, %H:%M} UTC."
    )


def _withdraw_link(asked: Asked) -> str:
    persons.withdraw_link(_open_link(asked.row) or PersonLink(person=asked.row), asked.by)
    return "The link is worth nothing now."


def _open_link(person: Person) -> PersonLink | None:
    return persons.open_links(person).first()


@admin.register(Person, site=site)
class PersonPage(Page):
    section, action = "People", "tie-person"
    list_display = ("external_id", "name", "facility", "user", "tied_by")
    list_filter = ("facility", "tied_by")
    list_select_related = ("facility", "user")
    search_fields = ("=external_id", "=user__handle")
    search_help_text = "The user office's whole id, or the user's whole handle."
    ordering = ("facility", "external_id")
    shown = ("external_id", "name", "facility", "user", "tied_by", "tied_at")
    acts = (
        Act("tie", "Tie to a user", "tie-person", _tie,
            "The user gets this person's experiments at once. Be sure who it is: ask for their handle in person.",
            TieForm, fits=lambda person: person.user_id is None),
        Act("untie", "Untie", "tie-person", _untie,
            "The user loses this person's experiments and place on the file systems at once.",
            fits=lambda person: person.user_id is not None),
        Act("link", "Make a one-time link", "tie-person", _make_link,
            "Whoever opens it after sign-in becomes this person. Links made before are withdrawn.",
            fits=lambda person: person.user_id is None),
        Act("withdraw-link", "Withdraw the link", "tie-person", _withdraw_link,
            fits=lambda person: _open_link(person) is not None),
    )  # fmt: skip

    def within(self, reach: Reach) -> QuerySet[Person]:
        everyone = Person.objects.select_related("facility", "user")
        return everyone if reach is None else everyone.filter(facility__in=reach)
