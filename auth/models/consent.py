"""What people have agreed to, and their wish to be forgotten."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from auth.models.people import User


class Policy(models.Model):
    """One version of a text that people must accept (rules of use) or should know (privacy notice).

    The newest published version of a kind is in force; a version that was published is never changed.
    """

    class Kind(models.TextChoices):
        RULES = "rules", "rules of use"
        PRIVACY = "privacy", "privacy notice"

    kind = models.CharField(max_length=10, choices=Kind)
    version = models.CharField(max_length=20)
    title = models.CharField(max_length=200)
    text = models.TextField(help_text="plain text; an empty line begins a new paragraph")
    published_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["kind", "-published_at"]
        verbose_name_plural = "policies"
        constraints = [models.UniqueConstraint(fields=["kind", "version"], name="policy_version_once")]

    def __str__(self) -> str:
        return f"{self.get_kind_display()}, version {self.version}"


class Acceptance(models.Model):
    """Somebody's yes to one version."""

    user = models.ForeignKey(User, models.CASCADE, related_name="acceptances")
    policy = models.ForeignKey(Policy, models.PROTECT, related_name="acceptances")
    accepted_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "policy"], name="acceptance_once")]

    def __str__(self) -> str:
        return f"{self.user} accepted {self.policy}"


class ErasureRequest(models.Model):
    """Somebody's wish that the portal forget them; an operator carries it out, or says why not."""

    class Outcome(models.TextChoices):
        OPEN = "open"
        WITHDRAWN = "withdrawn"
        ERASED = "erased"
        REFUSED = "refused"

    user = models.ForeignKey(User, models.CASCADE, related_name="erasure_requests")
    outcome = models.CharField(max_length=10, choices=Outcome, default=Outcome.OPEN)
    reason = models.CharField(max_length=500, blank=True, help_text="what the person says")
    answer = models.CharField(max_length=500, blank=True, db_default="", help_text="why not, where it was refused")
    asked_at = models.DateTimeField(db_default=Now())
    decided_at = models.DateTimeField(null=True, blank=True)
    decided_by = models.ForeignKey(User, models.SET_NULL, null=True, blank=True, related_name="+")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["user"], condition=Q(outcome="open"), name="erasure_request_one_open")
        ]

    def __str__(self) -> str:
        return f"erasure of {self.user}: {self.outcome}"


class ErasedIdentity(models.Model):
    """A keyed hash of (issuer, subject) of somebody erased, so that one who was suspended cannot come back as new."""

    key_hash = models.CharField(max_length=64, unique=True)
    suspended = models.BooleanField(default=False)
    erased_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"identity erased at {self.erased_at:%Y-%m-%d}"
