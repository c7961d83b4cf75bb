"""Who is what on the portal: grants by hand, groups, and the rules by which providers' statements make members."""

from __future__ import annotations

from datetime import timedelta

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from auth.models.people import Facility, Identity, User
from auth.roles import Role

_ROLES = [(role.value, role.value) for role in Role]


class RoleGrant(models.Model):
    """A role of a user, at one facility or (facility null) at all of them; gone to the second when expired."""

    user = models.ForeignKey(User, models.CASCADE, related_name="role_grants")
    role = models.CharField(max_length=30, choices=_ROLES)
    facility = models.ForeignKey(Facility, models.CASCADE, null=True, blank=True)
    source = models.CharField(max_length=100, blank=True)
    granted_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["user", "role", "facility"], name="role_grant_once", nulls_distinct=False)
        ]

    def __str__(self) -> str:
        return f"{self.user}: {self.role}" + (f" at {self.facility}" if self.facility else "")


class Group(models.Model):
    """People who hold roles together; made of a facility, or (facility null) of the whole portal."""

    facility = models.ForeignKey(Facility, models.CASCADE, null=True, blank=True, related_name="groups")
    slug = models.SlugField(max_length=60)
    title = models.CharField(max_length=200)

    class Meta:
        ordering = ["facility__name", "slug"]
        constraints = [models.UniqueConstraint(fields=["facility", "slug"], name="group_slug", nulls_distinct=False)]

    def __str__(self) -> str:
        return f"{self.title} at {self.facility}" if self.facility else self.title


class GroupRole(models.Model):
    """A role that every member of a group holds, at one facility or (facility null) at all of them."""

    group = models.ForeignKey(Group, models.CASCADE, related_name="roles")
    role = models.CharField(max_length=30, choices=_ROLES)
    facility = models.ForeignKey(Facility, models.CASCADE, null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["group", "role", "facility"], name="group_role_once", nulls_distinct=False)
        ]

    def __str__(self) -> str:
        return f"{self.group}: {self.role}" + (f" at {self.facility}" if self.facility else "")

    def clean(self) -> None:
        lax = [rule for rule in self.group.rules.all() if not rule.is_fit_for_admin]
        if self.role == Role.ADMIN and lax:
            raise ValidationError(
                {"role": f"No admins by a rule that does not ask for assurance and a second factor: {lax[0]}"}
            )


class GroupRule(models.Model):
    """What a provider must say of somebody to make them a member of a group, until `lasts` after their last sign-in.

    An entitlement (AARC-G069) is compared whole: namespace, group path, role, authority. A claim is one that lists
    free text, such as a Keycloak realm's `groups`.
    """

    class Kind(models.TextChoices):
        ENTITLEMENT = "entitlement", "an entitlement"
        CLAIM = "claim", "a value in a claim"

    class Assurance(models.TextChoices):
        NONE = "", "none asked"
        LOW = "low", "low: self-asserted"
        MEDIUM = "medium", "medium: seen by the home institution"
        HIGH = "high", "high: identity document checked"

    #: what a rule must ask for before it may make admins, together with a second factor
    FIT_FOR_ADMIN = (Assurance.MEDIUM, Assurance.HIGH)

    provider = models.SlugField(max_length=40)
    kind = models.CharField(max_length=12, choices=Kind, default=Kind.ENTITLEMENT)
    namespace = models.CharField(max_length=255, blank=True, help_text="urn:<nid>:<namespace>, all before :group:")
    path = models.CharField(max_length=500, blank=True, help_text="group and subgroups, joined by :")
    role = models.CharField(max_length=100, blank=True, help_text="empty: whatever the role in the group")
    authority = models.CharField(max_length=255, blank=True, help_text="all after #; empty: there must be none")
    claim = models.CharField(max_length=100, blank=True, help_text="name of the claim; a dot leads into it")
    value = models.CharField(max_length=255, blank=True, help_text="the text that the claim must hold")
    minimum_assurance = models.CharField(max_length=10, choices=Assurance, blank=True)
    requires_mfa = models.BooleanField(default=False)
    group = models.ForeignKey(Group, models.CASCADE, related_name="rules")
    lasts: models.DurationField[timedelta, timedelta] = models.DurationField(default=timedelta(days=30))
    enabled = models.BooleanField(default=True)
    note = models.CharField(max_length=200, blank=True)
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["provider", "pk"]

    def __str__(self) -> str:
        said = self.value if self.kind == self.Kind.CLAIM else f"{self.namespace}:group:{self.path}"
        return f"{said} at {self.provider} → {self.group}"

    def clean(self) -> None:
        from auth import groups

        groups.check_rule(self)

    @property
    def is_fit_for_admin(self) -> bool:
        """A provider's word alone makes nobody admin: the person must be known, and have shown a second factor."""
        return self.requires_mfa and self.minimum_assurance in self.FIT_FOR_ADMIN


class GroupMember(models.Model):
    """Somebody's membership in a group: by a rule from one of their identities, or (rule null) by hand."""

    user = models.ForeignKey(User, models.CASCADE, related_name="group_memberships")
    group = models.ForeignKey(Group, models.CASCADE, related_name="memberships")
    identity = models.ForeignKey(Identity, models.CASCADE, null=True, blank=True, related_name="memberships")
    rule = models.ForeignKey(GroupRule, models.CASCADE, null=True, blank=True, related_name="memberships")
    said = models.CharField(max_length=2048, blank=True, help_text="the entitlement or value that made it")
    seen_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["user", "group", "identity", "rule"], name="group_member_once", nulls_distinct=False
            ),
            models.CheckConstraint(
                condition=Q(rule__isnull=True) | Q(identity__isnull=False, expires_at__isnull=False),
                name="group_member_by_rule_has_source",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user} in {self.group}"
