"""The append-only record of who did what. Below all apps: it names people by id and text, not by foreign key."""

from __future__ import annotations

import contextvars
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from django.core.exceptions import ValidationError
from django.db import models, transaction
from django.db.models.functions import Now

from portal.lib.errors import PortalError

if TYPE_CHECKING:
    from django.http import HttpRequest


class Actor(Protocol):
    uid: uuid.UUID

    def __str__(self) -> str: ...


@dataclass(frozen=True)
class Origin:
    """Where an act comes from: address, request id and signed-in identity of the running request."""

    address: str = ""
    request_id: str = ""
    identity: str = ""


_NOWHERE = Origin()
origin: contextvars.ContextVar[Origin] = contextvars.ContextVar("audit_origin", default=_NOWHERE)


class AuditEvent(models.Model):
    """One act. Rows are only ever inserted: a database trigger refuses UPDATE and DELETE.

    It lets through what takes a person away and leaves the act: an address older than 30 days becomes empty, and names
    become `deleted-…` when their owner is erased (auth/erasure.py, auth/retention.py).
    """

    class Result(models.TextChoices):
        DONE = "done"
        REFUSED = "refused"
        FAILED = "failed"

    at = models.DateTimeField(db_default=Now())
    action = models.CharField(max_length=60)
    actor_uid = models.UUIDField(null=True)
    actor_name = models.CharField(max_length=200, blank=True)
    identity = models.CharField(max_length=520, blank=True)
    #: for whom the actor acted, where that was somebody else (support, an operator in another's name)
    for_uid = models.UUIDField(null=True)
    for_name = models.CharField(max_length=200, blank=True, db_default="")
    object_type = models.CharField(max_length=40, blank=True)
    object_id = models.CharField(max_length=200, blank=True)
    result = models.CharField(max_length=10, choices=Result, default=Result.DONE)
    reason = models.CharField(max_length=200, blank=True)
    detail = models.JSONField(default=dict, blank=True)
    address = models.CharField(max_length=45, blank=True)
    request_id = models.CharField(max_length=40, blank=True)

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["actor_uid", "-id"], name="audit_actor"),
            models.Index(fields=["object_type", "object_id"], name="audit_object"),
            models.Index(fields=["for_uid", "-id"], condition=models.Q(for_uid__isnull=False), name="audit_for"),
            models.Index(fields=["identity", "-id"], condition=~models.Q(identity=""), name="audit_identity"),
            models.Index(
                fields=["address", "action", "at"], condition=models.Q(result="refused"), name="audit_refused_from"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S} {self.actor_name or '-'} {self.action} {self.result}"


def record(
    action: str,
    *,
    actor: Actor | None = None,
    about: tuple[str, object] | None = None,
    on_behalf_of: Actor | None = None,
    result: AuditEvent.Result = AuditEvent.Result.DONE,
    reason: str = "",
    **detail: Any,
) -> AuditEvent:
    """Write one row for one act; `about` is (kind, public id). Inside a transaction it stands or falls with the act.

    Never pass secrets, claims or anybody's name in `detail` or `reason`: they stay when their owner is erased.
    """
    where = origin.get()
    kind, key = about or ("", "")
    return AuditEvent.objects.create(
        action=action,
        actor_uid=actor.uid if actor else None,
        actor_name=str(actor)[:200] if actor else "",
        identity=where.identity[:520],
        for_uid=on_behalf_of.uid if on_behalf_of else None,
        for_name=str(on_behalf_of)[:200] if on_behalf_of else "",
        object_type=kind,
        object_id=str(key)[:200],
        result=result,
        reason=reason[:200],
        detail=detail,
        address=where.address,
        request_id=where.request_id,
    )


@contextmanager
def attempt(
    action: str,
    *,
    actor: Actor | None,
    about: tuple[str, object] | None = None,
    on_behalf_of: Actor | None = None,
    reason: str = "",
    **detail: Any,
) -> Iterator[dict[str, Any]]:
    """Do one privileged act in a transaction: leaves one row, of the deed or of the refusal and its code.

    What becomes known on the way is put into the detail that is yielded.
    """
    whom: dict[str, Any] = {"actor": actor, "about": about, "on_behalf_of": on_behalf_of}
    try:
        with transaction.atomic():
            yield detail
            record(action, **whom, reason=reason, **detail)
    except (PortalError, ValidationError) as error:
        code = error.code if isinstance(error, PortalError) else "not-valid"
        record(action, **whom, result=AuditEvent.Result.REFUSED, reason=str(code), **detail)
        raise


def set_origin(request: HttpRequest, request_id: str) -> contextvars.Token[Origin]:
    """Bind the running request to the acts recorded while it lasts."""
    return origin.set(Origin(address=request.META.get("REMOTE_ADDR", "") or "", request_id=request_id))
