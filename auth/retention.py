"""What the portal forgets by itself, once a day (docs/operate/privacy.md has the list)."""

from __future__ import annotations

from datetime import timedelta

from django.db.models import Q

from auth import notices, sessions, unused
from auth.models import ApiToken, ErasedIdentity, Notice, PersonLink
from portal.audit import AuditEvent
from portal.lib.clock import Now

#: from where sign-ins and tokens were refused, in the audit (whose trigger lets none go before 30 days are over)
REFUSED = ("login_failed", "token_refused")
REFUSED_FROM = timedelta(days=30)
#: from where anything else was done
DONE_FROM = timedelta(days=180)
#: what a person sees of tokens and links that are over; the audit keeps the acts
SPENT = timedelta(days=90)


def forget() -> None:
    """Delete what has had its time, take addresses out of old audit rows, and look for accounts that nobody uses."""
    sessions.forget_expired()
    ApiToken.objects.filter(Q(expires_at__lt=Now() - SPENT) | Q(revoked_at__lt=Now() - SPENT)).delete()
    PersonLink.objects.filter(expires_at__lt=Now() - SPENT).delete()
    Notice.objects.filter(at__lt=Now() - notices.KEPT).delete()
    ErasedIdentity.objects.filter(expires_at__lt=Now()).delete()
    refused = AuditEvent.objects.filter(action__in=REFUSED, at__lt=Now() - REFUSED_FROM)
    for rows in (refused, AuditEvent.objects.filter(at__lt=Now() - DONE_FROM)):
        rows.exclude(address="").update(address="")
    unused.tidy()
