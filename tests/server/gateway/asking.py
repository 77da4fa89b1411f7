"""Asking a provider in tests: a deployment with short limits, and a whole answer as one value."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from turnwire_server.gateway.credentials import Credential, FromEnvironment
from turnwire_server.gateway.errors import ProviderError
from turnwire_server.gateway.provider import Chunk, Finish, ModelRequest, Provider, Reasoning, Text, Usage
from turnwire_server.gateway.providers.openai import OpenAIProvider
from turnwire_server.settings import Deployment

HELLO = ModelRequest([{"role": "user", "content": "hello there"}])


def deployment(base_url: str | None = None, **fields: Any) -> Deployment:
    return Deployment.model_validate({"name": "main", "model": "test-model", "base_url": base_url, **fields})


@asynccontextmanager
async def provider_at(base_url: str, *, api_key: str | None = None, **fields: Any) -> AsyncIterator[OpenAIProvider]:
    made = deployment(base_url, **fields)
    # Under a name of its own, so that a test may name a variable that does not hold it.
    source = FromEnvironment(
        made.api_key_env or ("KEY" if api_key else None), {made.api_key_env or "KEY": api_key or ""}
    )
    provider = OpenAIProvider(made, Credential(made.name, source))
    try:
        yield provider
    finally:
        await provider.aclose()


@dataclass
class Answer:
    chunks: list[Chunk] = field(default_factory=list)
    error: ProviderError | None = None

    @property
    def text(self) -> str:
        return "".join(chunk.text for chunk in self.chunks if isinstance(chunk, Text))

    @property
    def reasoning(self) -> str:
        return "".join(chunk.text for chunk in self.chunks if isinstance(chunk, Reasoning))

    @property
    def finish(self) -> str | None:
        return next((chunk.reason for chunk in self.chunks if isinstance(chunk, Finish)), None)

    @property
    def usage(self) -> Usage | None:
        return next((chunk for chunk in reversed(self.chunks) if isinstance(chunk, Usage)), None)


async def ask(provider: Provider, request: ModelRequest = HELLO) -> Answer:
    """The whole answer, with the error that ended it."""
    answer = Answer()
    try:
        async with provider.stream(request) as stream:
            async for chunks in stream:
                answer.chunks += chunks
    except ProviderError as error:
        answer.error = error
    return answer


async def failure_of(provider: Provider, request: ModelRequest = HELLO) -> ProviderError:
    """The error that ended the answer."""
    answer = await ask(provider, request)
    assert answer.error is not None, f"the answer ended well: {answer.chunks}"
    return answer.error
