"""What the rest of the server asks of a language model: one request in, a stream of chunks out.

A provider serves one deployment (a model at an address, with limits and prices). It knows how to
speak to it and nothing of conversations, turns or the wire: whoever calls it turns chunks into events.
Chunks come in lists, one list for what one socket read gave, so that a reader that fell behind handles
many chunks in one step.

Above: the turn, through `gateway.router`. Below: `gateway.providers`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from turnwire_server.settings import Deployment


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One model call."""

    messages: list[dict[str, Any]]
    """The prompt, in the chat format of OpenAI."""

    tools: list[dict[str, Any]] = field(default_factory=list)
    """The tools on offer, in the tool format of OpenAI."""

    max_output_tokens: int | None = None

    output_schema: Mapping[str, Any] | None = None
    """The JSON Schema that the provider is to hold the answer to."""

    user: str | None = None
    """An opaque id of the end user, for the provider's own abuse detection."""


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the answer. It may end in half a surrogate pair: the other half begins the next piece."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of what the model thinks before it answers. It may end in half a surrogate pair, as `Text`."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallBegin:
    """The model has begun a tool call. `index` counts the calls of this stream from 0, without gaps."""

    index: int
    call_id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallArguments:
    """A piece of the JSON text of a call's arguments; always after the `ToolCallBegin` of the same index."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class Finish:
    """Why the model stopped, in the provider's word: `stop`, `length`, `tool_calls`, `content_filter`, …"""

    reason: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of this call so far. May come more than once: a later one replaces an earlier one."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    """Part of the input tokens."""


@dataclass(frozen=True, slots=True)
class RetrievalStarted:
    query: str | None = None


@dataclass(frozen=True, slots=True)
class RetrievalCompleted:
    documents: int
    sources: list[dict[str, Any]] = field(default_factory=list)
    """Each `{"id", "title", "score"}`."""


@dataclass(frozen=True, slots=True)
class RetrievalFailed:
    reason: str


Chunk = (
    Text
    | Reasoning
    | ToolCallBegin
    | ToolCallArguments
    | Finish
    | Usage
    | RetrievalStarted
    | RetrievalCompleted
    | RetrievalFailed
)

ChunkStream = AbstractAsyncContextManager[AsyncIterator[list[Chunk]]]

Take = Callable[[list[Chunk]], bool]
"""Takes what has come, at once; False: no more for now."""


@runtime_checkable
class Pushing(Protocol):
    """A stream that can hand over chunks without waking whoever waits for them."""

    async def pump(self, take: Take) -> bool:
        """As `pump`."""


async def pump(stream: AsyncIterator[list[Chunk]], take: Take) -> bool:
    """Hand over the chunks of an entered stream as they come. True: that was all; False: ``take`` said so.

    Call it again to go on. Raises as iterating does, and what ``take`` raises.
    """
    return await (stream.pump(take) if isinstance(stream, Pushing) else pull(stream, take))


async def pull(stream: AsyncIterator[list[Chunk]], take: Take) -> bool:
    """`pump` for a stream that can only be iterated."""
    async for chunks in stream:
        if not take(chunks):
            return False
    return True


class Provider(Protocol):
    """A deployment that can be asked."""

    @property
    def deployment(self) -> Deployment:
        """Name, model, prices and time limits of what is asked."""

    def stream(self, request: ModelRequest) -> ChunkStream:
        """Asks the model. Nothing is sent before the context manager is entered.

        Entering and iterating raise `ProviderError`, and no other exception for anything the provider
        does. An iteration that ends without an exception has given a `Finish`; a stream that ends without
        one raises `ProviderError` of kind `CUT`. Leaving the context manager, for whatever reason, closes
        the connection to the provider at once unless the answer has ended; the caller must always leave it.
        Only the waits for the provider are timed, not what the caller does between two chunks.
        """

    async def aclose(self) -> None:
        """Closes what is shared between the calls. Streams must have been left before. Safe to repeat."""
