"""The model of a plan, at the port of the gateway, and what it was asked."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from turnwire_server.gateway.errors import ProviderError, ProviderErrorKind
from turnwire_server.gateway.provider import (
    Chunk,
    ChunkStream,
    Finish,
    ModelRequest,
    Reasoning,
    Text,
    ToolCallArguments,
    ToolCallBegin,
    Usage,
)
from turnwire_server.settings import Deployment

from .plan import Begin, Fail, Say, Step

_HANG_S = 1000.0
_USUAL: Step = (Say("More. ", 0.01),)


@dataclass
class Asked:
    """One call of the model."""

    request_id: str
    deployment: str
    messages: list[dict[str, Any]]
    at: float
    said: list[tuple[float, str]] = field(default_factory=list)
    """Pieces of the answer's text, and when they were given."""
    failed: bool = False


class Model:
    """What every deployment says: to the story whose name stands in the prompt, its steps one after the other."""

    def __init__(self) -> None:
        self.steps: defaultdict[str, deque[Step]] = defaultdict(deque)
        self.asked: list[Asked] = []
        self.ended: Counter[str] = Counter()
        """How many streams of a story have come to their end."""
        self._ends: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def provider_for(self, deployment: Deployment, environ: Mapping[str, str]) -> Scripted:
        return Scripted(self, deployment)

    async def has_ended(self, story: str) -> None:
        """Until a stream of it comes to its end."""
        await self._ends[story].wait()

    def ends(self, request_id: str) -> None:
        story = request_id.partition(".")[0]
        self.ended[story] += 1
        self._ends.pop(story, asyncio.Event()).set()

    def next_step(self, request_id: str) -> Step:
        steps = self.steps[request_id.partition(".")[0]]
        return steps.popleft() if steps else _USUAL


class Scripted:
    """A `Provider`."""

    def __init__(self, model: Model, deployment: Deployment) -> None:
        self.deployment = deployment
        self._model = model

    async def aclose(self) -> None:
        """Nothing is open."""

    def stream(self, request: ModelRequest) -> ChunkStream:
        task = asyncio.current_task()
        assert task is not None, "asked by a turn"
        request_id = task.get_name().removeprefix("turn ")
        asked = Asked(request_id, self.deployment.name, request.messages, asyncio.get_running_loop().time())
        return self._stream(asked)

    @asynccontextmanager
    async def _stream(self, asked: Asked) -> AsyncIterator[AsyncIterator[list[Chunk]]]:
        self._model.asked.append(asked)
        yield self._say(asked, self._model.next_step(asked.request_id))

    async def _say(self, asked: Asked, step: Step) -> AsyncIterator[list[Chunk]]:
        calls = 0
        for piece in step:
            await asyncio.sleep(piece.after_s)
            match piece:
                case Say(text=text, reasoning=True):
                    yield [Reasoning(text)]
                case Say(text=text):
                    asked.said.append((asyncio.get_running_loop().time(), text))
                    yield [Text(text)]
                case Begin():
                    half = len(piece.arguments) // 2
                    yield [ToolCallBegin(calls, "x", piece.tool), ToolCallArguments(calls, piece.arguments[:half])]
                    yield [ToolCallArguments(calls, piece.arguments[half:])]
                    calls += 1
                case Fail():
                    asked.failed = True
                    await asyncio.sleep(_HANG_S if piece.hang else 0)
                    raise ProviderError(ProviderErrorKind.CUT, "the stream broke off", retryable=True)
        self._model.ends(asked.request_id)
        yield [Usage(10, 1 + len(step)), Finish("tool_calls" if calls else "stop")]
