"""What uvicorn serves on the web socket: Django for HTTP, one consumer for events."""

from __future__ import annotations

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
django_application = get_asgi_application()  # sets Django up; the imports below need that

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.urls import path  # noqa: E402

from instances.consumers import EventsConsumer  # noqa: E402
from portal.bodies import bounded  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": bounded(django_application),
        "websocket": URLRouter([path("ws/events", EventsConsumer.as_asgi())]),
    }
)
