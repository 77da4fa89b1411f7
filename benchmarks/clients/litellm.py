"""What an OpenAI client asks of LiteLLM's proxy, with the proxy's master key."""

from __future__ import annotations

from contextlib import aclosing

from benchmarks.clients.client import Frames, ServerError
from benchmarks.clients.sse import events
from benchmarks.peers.litellm import MASTER_KEY


class LiteLLM:
    def __init__(self, url: str) -> None:
        self._url = f"{url}/chat/completions"

    async def stream(self, number: int) -> Frames:
        body = {"model": "bench", "stream": True, "messages": [{"role": "user", "content": "Write on and on."}]}
        async with aclosing(events(self._url, body, {"Authorization": f"Bearer {MASTER_KEY}"})) as reads:
            async for found in reads:
                if wrong := [event for event in found if "error" in event]:
                    raise ServerError(f"the server said {wrong[0]}")
                if texts := [event["choices"][0]["delta"]["content"] for event in found]:
                    yield texts
