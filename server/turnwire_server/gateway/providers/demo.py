"""The built-in demonstration model: streams without a network, and says what it is.

It is there for a first start without any key and shows every kind of chunk on demand. It keeps to the contract
of `Provider`, so nothing above can tell it from a real one. What it says is in `demo_script`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

from turnwire_server.gateway.errors import ProviderError, ProviderErrorKind
from turnwire_server.gateway.provider import (
    Chunk,
    ChunkStream,
    Finish,
    ModelRequest,
    Reasoning,
    Text,
    Usage,
)
from turnwire_server.gateway.providers.demo_script import (
    answer_to,
    asked_in,
    fingerprint,
    keywords_in,
)
from turnwire_server.settings import Deployment

WORDS_PER_SECOND = 25.0
"""About what a hosted model gives; slow enough to see it stream."""

BREAKS_AFTER = 6
"""Pieces that come before the break that `fallback` asks for."""

_REMEMBERED = 1000


class DemoProvider:
    """A deployment of kind `demo`. `words_per_second=None` streams without pauses."""

    def __init__(self, deployment: Deployment, *, words_per_second: float | None = WORDS_PER_SECOND) -> None:
        self._deployment = deployment
        self._pause_s = 1 / words_per_second if words_per_second else 0.0
        self._broken: dict[str, None] = {}  # prompts whose first attempt was broken off, oldest first

    def __repr__(self) -> str:
        return f"DemoProvider({self._deployment.name!r})"

    @property
    def deployment(self) -> Deployment:
        return self._deployment

    def stream(self, request: ModelRequest) -> ChunkStream:
        """As `Provider.stream`."""
        return self._stream(request)

    async def aclose(self) -> None:
        """As `Provider.aclose`."""

    @asynccontextmanager
    async def _stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[list[Chunk]]]:
        async with aclosing(self._play(request)) as chunks:
            yield chunks

    async def _play(self, request: ModelRequest) -> AsyncGenerator[list[Chunk]]:
        words = keywords_in(asked_in(request.messages))
        await asyncio.sleep(self._pause_s)
        if "fail" in words:
            raise ProviderError(
                ProviderErrorKind.ERROR,
                "The demonstration model failed because the message asked it to.",
                retryable=True,
            )
        breaks = "fallback" in words and self._is_first_attempt(request)
        answer = answer_to(request.messages, request.tools)
        limit = request.max_output_tokens
        spoken = 0
        for chunk in answer.chunks:
            if isinstance(chunk, Text | Reasoning):
                if limit is not None and spoken == limit:
                    answer.finish = "length"
                    break
                spoken += 1
            yield [chunk]
            if breaks and spoken == BREAKS_AFTER:
                raise ProviderError(
                    ProviderErrorKind.CUT,
                    "The demonstration model broke off because the message asked it to.",
                    retryable=True,
                )
            await asyncio.sleep(self._pause_s)
        yield [Finish(answer.finish), Usage(_words_in(request), spoken)]

    def _is_first_attempt(self, request: ModelRequest) -> bool:
        """Every second time for the same prompt, so that the same prompt can be tried again later."""
        prompt = fingerprint(request.messages)
        if prompt in self._broken:
            del self._broken[prompt]
            return False
        self._broken[prompt] = None
        if len(self._broken) > _REMEMBERED:
            del self._broken[next(iter(self._broken))]
        return True


def _words_in(request: ModelRequest) -> int:
    """This model's tokens are words."""
    return sum(len(str(message.get("content") or "").split()) for message in request.messages)
