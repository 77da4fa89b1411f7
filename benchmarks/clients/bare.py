"""The bare pipe's client: one message starts an answer, each message is one token."""

from __future__ import annotations

import orjson
from websockets.asyncio.client import ClientConnection

from benchmarks.clients.client import Frames, send, websocket


class Bare:
    def __init__(self, url: str) -> None:
        self._url = url

    async def stream(self, number: int) -> Frames:
        async with websocket(self._url) as socket:
            await send(socket, {"request_id": f"r-{number}"})
            async for data in socket:
                yield [orjson.loads(data)["text"]]

    async def prepare(self, count: int) -> None:
        """There are no conversations."""

    async def idle(self, number: int) -> ClientConnection:
        return await websocket(self._url)
