"""The right to reconcile one instance: taken by a conditional UPDATE, short, and renewed while its holder lives."""

from __future__ import annotations

import threading
import time
import uuid
from datetime import timedelta

from django.db.models import Case, F, Q, Value, When
from django.db.models.functions import Coalesce

from instances.lifecycle import Call
from instances.models import Instance, InstanceQuerySet
from instances.transitions import lease_free
from portal.lib.clock import Now

#: a killed worker's instance is free again after this
LEASE = timedelta(seconds=15)
#: a worker that hangs in one step for longer is renewed no more
LONGEST = 180.0

#: what a step and the machine's Spec need besides, read once with the row
_KEPT = ("provider", "plan__image", "plan__flavour", "home", "owner")

_held: dict[uuid.UUID, float] = {}
_lock = threading.Lock()


def due() -> InstanceQuerySet:
    """Return the instances to take up now, the longest due first: their time has come, or a lease has run out.

    The second is of a process that died, and took the time of the next look with it.
    """
    come = Q(due_at__lte=Now()) | Q(leased_until__lt=Now())
    return Instance.objects.filter(lease_free(), come).alive().order_by(Coalesce("due_at", "leased_until"))


def take(pk: int) -> Instance | None:
    """Take the lease and return the row; None when another holds it or there is nothing left to do.

    `due_at` is emptied: what stands in it when the lease is given back was wished for meanwhile.
    A lease that was never given back means that its holder died in a step, perhaps before the call that it had
    written down: a start that nobody may have heard is forgotten, or a stopped machine would look as if it had ended.
    """
    token = uuid.uuid4()
    unheard = When(lease_token__isnull=False, last_call=Call.START, then=Value(""))
    last_call = Case(unheard, default=F("last_call"))
    free = Instance.objects.filter(lease_free(), pk=pk).alive()
    if not free.update(lease_token=token, leased_until=Now() + LEASE, due_at=None, last_call=last_call):
        return None
    taken = Instance.objects.select_related(*_KEPT).get(pk=pk)
    with _lock:  # not before: were that read to fail, nobody would give back what is renewed
        _held[token] = time.monotonic()
    return taken


def release(pk: int, token: uuid.UUID, wait: timedelta | None) -> None:
    """Give the lease back and say when the next look is due, unless somebody has wished for one since it was taken."""
    with _lock:
        _held.pop(token, None)
    later = {} if wait is None else {"due_at": Coalesce("due_at", Now() + wait)}
    Instance.objects.filter(pk=pk, lease_token=token).update(lease_token=None, leased_until=None, **later)


def renew() -> None:
    """Renew what this process holds; the ticker calls it each second."""
    with _lock:
        oldest = time.monotonic() - LONGEST
        tokens = [token for token, since in _held.items() if since > oldest]
    if tokens:
        Instance.objects.filter(lease_token__in=tokens).update(leased_until=Now() + LEASE)
