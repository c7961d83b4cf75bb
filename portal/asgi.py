"""What uvicorn serves on the web socket: Django for HTTP, one consumer for events."""

from __future__ import annotations

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
django.setup()  # the imports below need that

from asgiref.sync import sync_to_async  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.core.handlers.asgi import ASGIHandler  # noqa: E402
from django.core.handlers.base import BaseHandler  # noqa: E402
from django.http import HttpRequest  # noqa: E402
from django.http.response import HttpResponseBase  # noqa: E402
from django.urls import path  # noqa: E402

from instances.consumers import EventsConsumer  # noqa: E402
from portal.bodies import bounded  # noqa: E402


class OneHop(ASGIHandler):
    """Django with the middleware and the view in one thread. Both are synchronous here, and Django's own handler goes
    back to the loop between the two, at the price of half of a small answer."""

    def __init__(self) -> None:
        BaseHandler.__init__(self)
        self.load_middleware(is_async=False)

    async def get_response_async(self, request: HttpRequest) -> HttpResponseBase:
        return await sync_to_async(self.get_response, thread_sensitive=True)(request)


application = ProtocolTypeRouter(
    {
        "http": bounded(OneHop()),
        "websocket": URLRouter([path("ws/events", EventsConsumer.as_asgi())]),
    }
)
