"""What the portal has to tell somebody about their own account."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now

from auth.models.people import User


class Notice(models.Model):
    """One thing that happened to an account, told on its page: what a letter would say."""

    user = models.ForeignKey(User, models.CASCADE, related_name="notices")
    text = models.CharField(max_length=500)
    at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["user", "-id"], name="notice_user")]

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d} to {self.user}"
