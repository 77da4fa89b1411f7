"""The client of the endpoint that was written by hand: one message asks, each message is one token."""

from __future__ import annotations

import orjson

from benchmarks.clients.client import Frames, send, websocket


class ByHand:
    def __init__(self, url: str) -> None:
        self._url = url

    async def stream(self, number: int) -> Frames:
        async with websocket(self._url) as socket:
            await send(socket, {"id": f"r-{number}", "input": "Write on and on."})
            async for data in socket:
                yield [orjson.loads(data)["text"]]
