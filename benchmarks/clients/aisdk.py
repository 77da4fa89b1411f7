"""What useChat does: POST the message, read the UI message stream."""

from __future__ import annotations

from contextlib import aclosing

from benchmarks.clients.client import Frames, ServerError
from benchmarks.clients.sse import events


class AISDK:
    def __init__(self, url: str) -> None:
        self._url = f"{url}/api/chat"

    async def stream(self, number: int) -> Frames:
        message = {"id": f"m-{number}", "role": "user", "parts": [{"type": "text", "text": "Write on and on."}]}
        async with aclosing(events(self._url, {"id": f"c-{number}", "message": message})) as reads:
            async for found in reads:
                if wrong := [event for event in found if event["type"] in ("error", "abort", "finish")]:
                    raise ServerError(f"the server said {wrong[0]}")
                if texts := [event["delta"] for event in found if event["type"] == "text-delta"]:
                    yield texts
