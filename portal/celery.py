"""The Celery application; workers find tasks in each app's tasks.py."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from celery.signals import worker_init, worker_shutdown
from kombu.transport.redis import Channel

from portal.lib import postgres

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")

#: seconds for one statement of a worker; a server that hangs for longer is away
PATIENCE = 20.0

app = Celery("beamport")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["instances"])


def _is_connected(channel: Channel) -> bool:
    return channel.connection is not None and channel.connection.client is not None


# Messages go back to Redis while there is a connection to it. kombu (5.7) tries without one, too, when it is closed for
# the second time after a loss, and the worker ends of it. Nothing hangs on them: a lost task costs one sweep.
Channel.do_restore = property(_is_connected)  # type: ignore[assignment]


@worker_init.connect
def start_ticker(**kwargs: Any) -> None:
    """Have the worker do what is due by the database too, so that it needs no broker to be of use."""
    from instances import ticker
    from portal import checks

    postgres.serve(patience=PATIENCE)
    checks.stop_if_unsafe()
    ticker.start()


@worker_shutdown.connect
def stop_ticker(**kwargs: Any) -> None:
    from instances import ticker

    ticker.stop()
