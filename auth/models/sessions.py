"""Sign-ins, attempts at them, and API tokens."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta

from django.db import models
from django.db.models.functions import Now
from django.urls import reverse

from auth.models.people import Identity, User


class Session(models.Model):
    """One sign-in in one browser; the key itself is only in the browser, here lies its SHA-256.

    Serves Django's session engine (auth/sessions.py), "my sessions", logout and suspension. A session without
    user is an anonymous visitor's (login states hang on it). Ended rows stay for a day so that the gateways hear.
    """

    uid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    key_hash = models.CharField(max_length=64, unique=True)
    #: its user has got a role since: the key changes with the next page
    key_due = models.BooleanField(default=False, db_default=False)
    user = models.ForeignKey(User, models.CASCADE, null=True, blank=True, related_name="sessions")
    identity = models.ForeignKey(Identity, models.SET_NULL, null=True, blank=True, related_name="sessions")
    provider_sid = models.CharField(max_length=255, blank=True)
    provider_acr = models.CharField(max_length=255, blank=True, db_default="")
    #: when the person last showed who they are, as the provider says; null: it does not say
    authenticated_at = models.DateTimeField(null=True, blank=True)
    #: encrypted; kept only where the provider's logout asks for it (`id_token_hint`)
    id_token = models.TextField(blank=True, db_default="")
    data = models.JSONField(default=dict, blank=True)
    user_agent = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(db_default=Now())
    last_used_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        indexes = [
            models.Index(fields=["user"], name="session_user"),
            models.Index(fields=["identity", "provider_sid"], name="session_identity_sid"),
            models.Index(fields=["expires_at"], name="session_expires"),
            models.Index(fields=["updated_at"], name="session_updated"),
        ]

    def __str__(self) -> str:
        return f"session of {self.user or 'a visitor'}"


class LoginState(models.Model):
    """One attempt to sign in; taken once, by conditional UPDATE, before the token call (RFC 6749 §10.12)."""

    class Intent(models.TextChoices):
        LOGIN = "login"
        LINK = "link"
        REAUTH = "reauth"

    state_hash = models.CharField(max_length=64, unique=True)
    session = models.ForeignKey(Session, models.CASCADE, related_name="login_states")
    provider = models.SlugField(max_length=40)
    nonce = models.CharField(max_length=100)
    verifier = models.CharField(max_length=200)
    next = models.CharField(max_length=2048, blank=True)
    intent = models.CharField(max_length=10, choices=Intent, default=Intent.LOGIN)
    user = models.ForeignKey(User, models.CASCADE, null=True, blank=True)
    created_at = models.DateTimeField(db_default=Now())
    consumed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = [models.Index(fields=["session", "created_at"], name="login_state_session")]

    def __str__(self) -> str:
        return f"{self.intent} at {self.provider}"


class UsedLogoutToken(models.Model):
    """The `jti` of a logout token that was taken; its insertion is what lets each token in once.

    Kept until the token has expired and the leeway is over (OpenID Connect Back-Channel Logout 2.6).
    """

    issuer = models.CharField(max_length=255)
    jti_hash = models.CharField(max_length=64)
    expires_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["issuer", "jti_hash"], name="logout_token_once")]

    def __str__(self) -> str:
        return f"logout token of {self.issuer}"


class DatabaseMark(models.Model):
    """By what this database was known when the portal last looked (one row). In a restored copy it tells of another.

    See auth/restored.py.
    """

    mark = models.CharField(max_length=200)
    noted_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return self.mark


class ApiToken(models.Model):
    """A hashed token of a user: shown once, scoped, at most 90 days."""

    LONGEST = timedelta(days=90)

    user = models.ForeignKey(User, models.CASCADE, related_name="api_tokens")
    name = models.CharField(max_length=100, blank=True)
    prefix = models.CharField(max_length=16, unique=True)
    secret_hash = models.CharField(max_length=64)
    scopes = models.JSONField(default=list)
    created_at = models.DateTimeField(db_default=Now())
    expires_at: models.DateTimeField[datetime, datetime] = models.DateTimeField()
    last_used_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"{self.prefix}… of {self.user}"

    def get_absolute_url(self) -> str:
        return reverse("accounts:account")
