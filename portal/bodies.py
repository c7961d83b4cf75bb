"""Bodies end somewhere: Django's ASGI handler keeps all of one, on disk if need be, before it looks at the request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

#: bytes; above what Django itself takes into memory (settings.DATA_UPLOAD_MAX_MEMORY_SIZE) and answers with 413
MOST = 2**20

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Application = Callable[[Any, Receive, Any], Awaitable[None]]


def bounded(application: Application) -> Application:
    """Have an application read no more of a body than that; for it, the rest is as if the client had gone."""

    async def serve(scope: Any, receive: Receive, send: Any) -> None:
        seen = 0

        async def receive_bounded() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            return {"type": "http.disconnect"} if seen > MOST else message

        await application(scope, receive_bounded, send)

    return serve
