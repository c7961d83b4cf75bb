"""A WebSocket relay as one writes it with Django Channels: a consumer that passes messages on. Run by uvicorn."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import django
import websockets
from django.conf import settings

settings.configure(SECRET_KEY="bench", ALLOWED_HOSTS=["*"], INSTALLED_APPS=["channels"])
django.setup()

from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter  # noqa: E402


class Relay(AsyncWebsocketConsumer):  # type: ignore[misc]
    async def connect(self) -> None:
        plain: dict[str, Any] = {"max_size": None, "compression": None, "ping_interval": None}
        self.back = await websockets.connect(f"ws://{os.environ['BACKEND']}{self.scope['path']}", **plain)
        await self.accept()
        self.answers = asyncio.create_task(self._answers())

    async def _answers(self) -> None:
        async for message in self.back:
            await self.send(bytes_data=message)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.back.send(bytes_data)

    async def disconnect(self, code: int) -> None:
        self.answers.cancel()
        await self.back.close()


app = ProtocolTypeRouter({"websocket": Relay.as_asgi()})
