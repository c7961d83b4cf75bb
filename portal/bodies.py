"""Bodies end somewhere: Django's ASGI handler keeps all of one, on disk if need be, before it looks at the request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from django.conf import settings

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Application = Callable[[Any, Receive, Any], Awaitable[None]]


def bounded(application: Application) -> Application:
    """Read the body up to settings.DATA_UPLOAD_MAX_MEMORY_SIZE and hand it on whole.

    One that is longer is handed on as its length alone, so that Django answers 413 by itself, a page or a problem.
    """

    async def serve(scope: Any, receive: Receive, send: Any) -> None:
        most: int = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        body, more = b"", True
        while more and len(body) <= most:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if len(body) > most:
            others = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
            scope = {**scope, "headers": [*others, (b"content-length", str(most + 1).encode())]}
            body = b""
        read = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            if read:
                return read.pop()
            message = await receive()
            while message["type"] == "http.request":  # the rest of what is too long; Django waits for the end only
                message = await receive()
            return message

        await application(scope, replay, send)

    return serve
