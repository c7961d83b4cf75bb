"""What people's accounts, sign-ins and acts hold about them."""

from __future__ import annotations

from django.contrib.admin.models import LogEntry
from django.db.models import Q

from auth.models import (
    Acceptance,
    ApiToken,
    ErasureRequest,
    GroupMember,
    Identity,
    LoginState,
    Notice,
    Person,
    PersonLink,
    PosixIdentity,
    RoleGrant,
    Session,
    User,
)
from auth.registry import Rows, delete, exempt, hold
from portal.audit import AuditEvent

GOES = "deleted"
PSEUDONYM = "stays, under the pseudonym"


def register() -> None:
    """Called once, when the app is ready."""
    hold(
        User,
        "account",
        "id=uid handle name=display_name email email_verified rules_accepted=aup_version "
        "suspended_at suspended_reason created_at updated_at",
        of=lambda user: User.objects.filter(pk=user.pk),
        fate="a tombstone stays: the id, and “deleted-…” for handle and name",
    )
    exempt(LogEntry, "Django's own log of its admin, in which nothing is ever written: the audit log is ours")
    _who()
    _rights()
    _sign_ins()
    _consent()
    _acts()


def _who() -> None:
    hold(
        Identity,
        "identities",
        "id=uid provider issuer subject voperson_id assurance organisation claims=claims_subset "
        "first_login_at last_login_at",
        of="user",
        fate="deleted; a keyed hash of issuer and subject stays for 18 months",
        erase=delete,
    )
    hold(
        Person,
        "persons",
        "facility=facility__slug id=external_id name tied_by tied_at",
        of="user",
        fate="untied; the person is the user office's",
        erase=lambda rows: rows.update(user=None, tied_by="", tied_at=None),
    )
    hold(
        PersonLink,
        "person_links",
        "facility=person__facility__slug id=person__external_id redeemed_at",
        of="redeemed_by",
        fate="untied",
        erase=lambda rows: rows.update(redeemed_by=None),
        also=["made_by"],
    )
    hold(
        PosixIdentity,
        "posix_identities",
        "facility=facility__slug uid gid groups home",
        of="user",
        fate=GOES,
        erase=delete,
    )


def _rights() -> None:
    hold(
        RoleGrant,
        "roles",
        "role facility=facility__slug source granted_at expires_at",
        of="user",
        fate=GOES,
        erase=delete,
    )
    hold(
        GroupMember,
        "groups",
        "group=group__slug facility=group__facility__slug identity=identity__uid said seen_at expires_at",
        of="user",
        fate=GOES,
        erase=delete,
    )
    hold(
        ApiToken,
        "api_tokens",
        "name prefix scopes created_at expires_at last_used_at revoked_at",
        of="user",
        fate=GOES,
        erase=delete,
    )


def _sign_ins() -> None:
    hold(
        Session,
        "sessions",
        "id=uid identity=identity__uid browser=user_agent authenticated_at level=provider_acr "
        "created_at last_used_at expires_at ended_at",
        of="user",
        fate="ended at once, emptied, and deleted a day later",
        erase=lambda rows: rows.update(user_agent="", provider_sid="", id_token="", data={}),
    )
    hold(
        LoginState,
        "sign_in_attempts",
        "provider intent next created_at consumed_at",
        of=lambda user: LoginState.objects.filter(Q(user=user) | Q(session__user=user)),
        fate=GOES,
        erase=delete,
        also=["user"],
    )


def _consent() -> None:
    hold(
        Acceptance,
        "acceptances",
        "kind=policy__kind version=policy__version accepted_at",
        of="user",
        fate=GOES,
        erase=delete,
    )
    hold(
        ErasureRequest,
        "erasure_requests",
        "outcome reason answer asked_at decided_at",
        of="user",
        fate="stays, without its words",
        erase=lambda rows: rows.update(reason="", answer=""),
        also=["decided_by"],
    )
    hold(Notice, "notices", "text at", of="user", fate=GOES, erase=delete)


def _acts() -> None:
    hold(
        AuditEvent,
        "acts",
        "at action object_type object_id result reason detail identity address request_id",
        of=lambda user: AuditEvent.objects.filter(actor_uid=user.uid),
        fate=f"{PSEUDONYM}; addresses go after their time",
    )
    hold(
        AuditEvent,
        "acts_of_others",
        # who they are, and where they sat, is about them
        "at action object_type result",
        of=_by_others,
        fate=PSEUDONYM,
    )


def _by_others(user: User) -> Rows:
    """What others did to the account, or for its owner."""
    about = Q(object_type="user", object_id=str(user.uid)) | Q(for_uid=user.uid)
    return AuditEvent.objects.filter(about).exclude(actor_uid=user.uid)
