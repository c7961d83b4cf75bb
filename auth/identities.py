"""Who somebody is: the pair (issuer, subject), and nothing else."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import structlog
from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models.functions import Lower

from auth.claims import Profile
from auth.models import ErasedIdentity, Identity, User
from auth.oidc.errors import AccountClosed, SignInRefused
from auth.providers import Provider
from portal import audit
from portal.lib import hashing
from portal.lib.clock import Now
from portal.lib.slugs import random_slug, slugify_host

log = structlog.get_logger("auth.identities")

#: how long it is remembered that somebody was erased (18 months)
REMEMBERED: Final = timedelta(days=548)


def signed_in(provider: Provider, subject: str, profile: Profile) -> Identity:
    """Return the identity, made together with its user at the first sign-in, and refresh what we know of them.

    Runs in the caller's transaction. Of two first sign-ins at once the unique constraint lets one through.
    """
    identity = _find(provider, subject) or _make(provider, subject, profile) or _find(provider, subject)
    if identity is None:  # a constraint spoke and the other's row is gone again
        raise SignInRefused("identity-race")
    if not identity.user.may_sign_in:
        raise AccountClosed("suspended" if identity.user.suspended_at else "inactive")
    _refresh(identity, provider, profile)
    return identity


def remember_erased(identity: Identity, *, suspended: bool) -> None:
    """Keep a keyed hash of an identity that is being erased, so that who was suspended does not come back as new."""
    ErasedIdentity.objects.update_or_create(
        key_hash=_hashes(identity.issuer, identity.subject)[0],
        defaults={"suspended": suspended, "erased_at": Now(), "expires_at": Now() + REMEMBERED},
    )


def is_barred(issuer: str, subject: str) -> bool:
    """Tell whether this was the identity of somebody who was suspended when they were erased."""
    erased = ErasedIdentity.objects.filter(key_hash__in=_hashes(issuer, subject), expires_at__gt=Now())
    return erased.filter(suspended=True).exists()


def _hashes(issuer: str, subject: str) -> list[str]:
    """By the present key first, then by those it has replaced; letter case makes nobody else of somebody."""
    keys = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    return [hashing.keyed(str(key), "erased-identity", f"{issuer}\n{subject.lower()}") for key in keys]


def _find(provider: Provider, subject: str) -> Identity | None:
    """Look up under a row lock. Another letter case of a known subject is refused, never a second account.

    (OpenID Connect compares subjects exactly, eduTEAMS without regard to case.)
    """
    identity = (
        Identity.objects.select_for_update(of=("self",))
        .select_related("user")
        .alias(folded=Lower("subject"))
        .filter(folded=subject.lower(), issuer=provider.issuer)
        .first()
    )
    if identity is not None and identity.subject != subject:
        log.error("known subject in another letter case", provider=provider.slug)
        raise SignInRefused("subject-in-another-case")
    return identity


def _make(provider: Provider, subject: str, profile: Profile) -> Identity | None:
    if is_barred(provider.issuer, subject):
        raise AccountClosed("erased-while-suspended")
    try:
        with transaction.atomic():
            user = User(handle=_handle(profile.name), display_name=profile.name)
            user.set_unusable_password()
            user.save()
            identity = Identity.objects.create(
                user=user, provider=provider.slug, issuer=provider.issuer, subject=subject
            )
    except IntegrityError:
        return None
    audit.record("user_created", actor=user, about=("user", user.uid), provider=provider.slug)
    return identity


def _refresh(identity: Identity, provider: Provider, profile: Profile) -> None:
    said = {"orcid": profile.orcid, "acr": profile.acr, "affiliations": list(profile.affiliations[:50])}
    about_identity = {
        "provider": provider.slug,
        "voperson_id": profile.voperson_id,
        "assurance": list(profile.assurance[:50]),
        "organisation": profile.organisation,
        "claims_subset": identity.claims_subset | said,
    }
    Identity.objects.filter(pk=identity.pk).update(**about_identity, last_login_at=Now())
    _set(identity, about_identity)
    about_user = {
        "display_name": profile.name or identity.user.display_name,
        "email": profile.email,
        "email_verified": profile.email_verified,
    }
    if _set(identity.user, about_user):
        User.objects.filter(pk=identity.user_id).update(**about_user, updated_at=Now())


def _set(row: Identity | User, values: dict[str, Any]) -> bool:
    """Make the row at hand what the database has; return whether anything is new."""
    new = {name: value for name, value in values.items() if getattr(row, name) != value}
    for name, value in new.items():
        setattr(row, name, value)
    return bool(new)


def _handle(name: str) -> str:
    """Return a new POSIX-safe name: readable, and with a random end never anybody else's."""
    plain = slugify_host(name, 20)
    if not plain[:1].isalpha():
        plain = f"user-{plain}".rstrip("-")[:20]
    return f"{plain}-{random_slug(8)}"
