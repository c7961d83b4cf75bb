"""Facilities, users, their identities, and the persons whom user offices know."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.postgres.functions import RandomUUID
from django.db import models
from django.db.models import Q
from django.db.models.functions import Lower, Now


class Facility(models.Model):
    """A site: scopes operators, providers, data paths, embargo policy, homes and statistics."""

    class EmbargoedMetadata(models.TextChoices):
        NONE = "none", "nothing: an embargoed DOI answers like an unknown one"
        LANDING = "landing", "the landing page, without runs, files, sizes or team"

    slug = models.SlugField(max_length=40, unique=True)
    name = models.CharField(max_length=200)
    time_zone = models.CharField(max_length=64, default="Europe/Berlin")
    data_path_template = models.CharField(
        max_length=500,
        blank=True,
        help_text="Where an experiment's data lie, e.g. /data/{instrument}/{cycle}/p{proposal}/raw/r{run:04d}",
    )
    embargoed_metadata = models.CharField(max_length=10, choices=EmbargoedMetadata, default=EmbargoedMetadata.NONE)
    open_data_enabled = models.BooleanField(default=True)
    contact = models.EmailField(blank=True)

    class Meta:
        ordering = ["name"]
        verbose_name_plural = "facilities"

    def __str__(self) -> str:
        return self.name


class UserManager(BaseUserManager["User"]):
    def get_by_natural_key(self, username: str | None) -> User:
        return self.get(handle=username)

    def active(self) -> models.QuerySet[User]:
        """Return the users who may hold a session, token or membership; the one rule for suspension."""
        return self.filter(is_active=True, suspended_at__isnull=True, erased_at__isnull=True)


class User(AbstractBaseUser):
    """Somebody who signs in. Found by (issuer, subject) alone; has no password; `uid` is the only id outside."""

    uid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    handle = models.CharField(max_length=32, unique=True)
    display_name = models.CharField(max_length=200, blank=True)
    email = models.EmailField(blank=True)
    email_verified = models.BooleanField(default=False)
    is_active = models.BooleanField(default=True)
    suspended_at = models.DateTimeField(null=True, blank=True)
    suspended_reason = models.CharField(max_length=200, blank=True)
    aup_version = models.CharField(max_length=20, blank=True)
    erased_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now())

    USERNAME_FIELD = "handle"
    EMAIL_FIELD = "email"

    objects: ClassVar[UserManager] = UserManager()

    def __str__(self) -> str:
        return self.display_name or self.handle

    @property
    def may_sign_in(self) -> bool:
        """The same rule as `UserManager.active`, for a row at hand."""
        return self.is_active and self.suspended_at is None and self.erased_at is None

    @property
    def is_staff(self) -> bool:
        """Django's admin asks this; the answer is in the roles table."""
        from auth import roles

        return roles.may(self, "open-admin")

    def has_perm(self, perm: str, obj: object = None) -> bool:
        return self.is_staff

    def has_module_perms(self, app_label: str) -> bool:
        return self.is_staff


class Identity(models.Model):
    """One account at one OpenID provider; (issuer, subject) never changes hands."""

    uid = models.UUIDField(default=uuid.uuid4, db_default=RandomUUID(), unique=True, editable=False)
    user = models.ForeignKey(User, models.PROTECT, related_name="identities")
    provider = models.SlugField(max_length=40)
    issuer = models.CharField(max_length=255)
    subject = models.CharField(max_length=255)
    voperson_id = models.CharField(max_length=255, blank=True)
    assurance = models.JSONField(default=list, blank=True)
    organisation = models.CharField(max_length=200, blank=True)
    claims_subset = models.JSONField(default=dict, blank=True)
    first_login_at = models.DateTimeField(db_default=Now())
    last_login_at = models.DateTimeField(db_default=Now())

    class Meta:
        verbose_name_plural = "identities"
        constraints = [
            models.UniqueConstraint(fields=["issuer", "subject"], name="identity_issuer_subject"),
            models.UniqueConstraint(Lower("subject"), "issuer", name="identity_subject_any_case"),
        ]

    def __str__(self) -> str:
        return f"{self.subject} at {self.issuer}"


class Person(models.Model):
    """Somebody a facility's user office knows; teams hold persons. May never have signed in."""

    class TiedBy(models.TextChoices):
        CLAIM = "claim"
        LINK = "link"
        OPERATOR = "operator"

    facility = models.ForeignKey(Facility, models.PROTECT, related_name="persons")
    external_id = models.CharField(max_length=100)
    name = models.CharField(max_length=200, blank=True)
    user = models.ForeignKey(User, models.SET_NULL, null=True, blank=True, related_name="persons")
    tied_by = models.CharField(max_length=10, choices=TiedBy, blank=True)
    tied_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["facility", "external_id"], name="person_external_id"),
            models.UniqueConstraint(
                fields=["facility", "user"], condition=Q(user__isnull=False), name="person_one_user"
            ),
        ]

    def __str__(self) -> str:
        return self.name or self.external_id


class PersonLink(models.Model):
    """A link by which somebody who has signed in says: I am this person. Used once; only its hash is kept."""

    person = models.ForeignKey(Person, models.CASCADE, related_name="links")
    token_hash = models.CharField(max_length=64, unique=True)
    made_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    made_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField()
    withdrawn_at = models.DateTimeField(null=True, blank=True)
    redeemed_at = models.DateTimeField(null=True, blank=True)
    redeemed_by = models.ForeignKey(User, models.SET_NULL, null=True, blank=True, related_name="+")

    def __str__(self) -> str:
        return f"link for {self.person}"


class PosixIdentity(models.Model):
    """Who a user is on a facility's file systems; none → anonymous, open data only."""

    class Source(models.TextChoices):
        CLAIM = "claim", "what the provider says at each sign-in"
        IMPORT = "import", "a list of the facility"

    user = models.ForeignKey(User, models.CASCADE, related_name="posix_identities")
    facility = models.ForeignKey(Facility, models.CASCADE)
    uid = models.PositiveIntegerField()
    gid = models.PositiveIntegerField()
    groups = models.JSONField(default=list, blank=True)
    home = models.CharField(max_length=300, blank=True)
    source = models.CharField(max_length=10, choices=Source, db_default=Source.IMPORT, default=Source.IMPORT)

    class Meta:
        verbose_name_plural = "POSIX identities"
        constraints = [
            models.UniqueConstraint(fields=["user", "facility"], name="posix_one_per_facility"),
            models.UniqueConstraint(fields=["facility", "uid"], name="posix_uid_of_one"),
        ]

    def __str__(self) -> str:
        return f"uid {self.uid} at {self.facility}"
