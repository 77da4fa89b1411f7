"""Providers without a network, for a router on a virtual clock: they answer, fail or hang by a schedule."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from turnwire_server.gateway.errors import Blame, ProviderError
from turnwire_server.gateway.errors import ProviderErrorKind as Kind
from turnwire_server.gateway.provider import Chunk, ChunkStream, Finish, ModelRequest, Text
from turnwire_server.settings import Deployment, Route

ASKED = ModelRequest([{"role": "user", "content": "hello"}])


def deployment(name: str, **fields: Any) -> Deployment:
    return Deployment.model_validate({"name": name, "model": "m", "kind": "openai", **fields})


def route(*names: str, **fields: Any) -> Route:
    return Route.model_validate({"name": "r", "deployments": list(names), **fields})


@dataclass(frozen=True, slots=True)
class Answers:
    """The first token comes after so long, the end after so long again."""

    after_s: float = 0.2
    for_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Fails:
    """An error after so long; with `midway`, after a token."""

    kind: Kind = Kind.ERROR
    after_s: float = 0.05
    retry_after_s: float | None = None
    blame: Blame = Blame.DEPLOYMENT
    retryable: bool = True
    midway: bool = False


@dataclass(frozen=True, slots=True)
class Hangs:
    """Nothing comes; the deployment's own limit ends it."""


Behaviour = Answers | Fails | Hangs


@dataclass(slots=True)
class Asked:
    """One call, as the provider saw it."""

    at: float
    outcome: str = "open"
    ended_at: float = 0.0


class FakeProvider:
    """Asks `behave(now)` what to do, for each call."""

    def __init__(self, deployment: Deployment, behave: Callable[[float], Behaviour]) -> None:
        self.deployment = deployment
        self.behave = behave
        self.asked: list[Asked] = []
        self.most_open = 0

    def stream(self, request: ModelRequest) -> ChunkStream:
        return self._stream()

    async def aclose(self) -> None:
        """Nothing to close."""

    @property
    def open(self) -> int:
        return sum(asked.outcome == "open" for asked in self.asked)

    @asynccontextmanager
    async def _stream(self) -> AsyncIterator[AsyncIterator[list[Chunk]]]:
        loop = asyncio.get_running_loop()
        asked = Asked(loop.time())
        self.asked.append(asked)
        self.most_open = max(self.most_open, self.open)
        try:
            yield self._play(self.behave(loop.time()), asked)
        finally:
            if asked.outcome == "open":
                asked.outcome = "left"
            asked.ended_at = loop.time()

    async def _play(self, how: Behaviour, asked: Asked) -> AsyncIterator[list[Chunk]]:
        match how:
            case Answers():
                await asyncio.sleep(how.after_s)
                yield [Text("answer")]
                await asyncio.sleep(how.for_s)
                asked.outcome = "answered"
                yield [Finish("stop")]
                return
            case Fails():
                if how.midway:
                    yield [Text("ans")]
                await asyncio.sleep(how.after_s)
                asked.outcome = "failed"
                raise ProviderError(
                    how.kind,
                    "it failed",
                    retryable=how.retryable,
                    retry_after_s=how.retry_after_s,
                    blame=how.blame,
                )
            case Hangs():
                await asyncio.sleep(self.deployment.first_token_timeout_s)
                asked.outcome = "failed"
                raise ProviderError(Kind.TIMEOUT, "too late", retryable=True)
