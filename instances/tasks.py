"""Celery tasks. They make things fast and nothing else: what is lost here, the ticker does a moment later."""

from __future__ import annotations

from django.db import transaction

from instances import reconcile
from portal.celery import app
from portal.lib import bus


@app.task(name="instances.reconcile", ignore_result=True)
def reconcile_instance(pk: int) -> None:
    """Take the steps of one instance until it must wait."""
    reconcile.run(pk)


def _send(pk: int) -> None:
    reconcile_instance.apply_async((pk,), retry=False, expires=60)


def wake(instance_pk: int) -> None:
    """Have a worker look at an instance soon after the running transaction has committed; never raises or blocks."""
    transaction.on_commit(lambda: bus.defer(lambda: _send(instance_pk)))
