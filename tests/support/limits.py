"""Servers whose tenant has limits, and a look at what they ask of the stores behind those.

async with limited(tenant={"requests_per_minute": 3}) as (provider, app):
    (store,) = watch(app, "_store")      # one for each node
    ...
    assert store.calls == ["reserve", "settle"]
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.client import CallError, Client
from tests.support.provider import ControlledProvider, Script, running_provider
from tests.support.server import Nodes, running_server

from turnwire_server.app import App

USD_PER_TOKEN = "1000"
"""Per million: a token costs a thousandth of a dollar."""


def said(tokens: int, *steps: Any) -> Script:
    """An answer that costs so many tokens, prompt and all."""
    return Script.text(*(steps or ("ok",)), usage=(tokens - 1, 1))


@asynccontextmanager
async def limited(
    data_dir: Path | None = None, *, tenant: dict[str, Any], **sections: Any
) -> AsyncIterator[tuple[ControlledProvider, App]]:
    async with running_provider() as provider:
        deployment = {
            "name": "test",
            "model": "m",
            "base_url": provider.base_url,
            "input_usd_per_mtok": USD_PER_TOKEN,
            "output_usd_per_mtok": USD_PER_TOKEN,
        }
        async with running_server(
            data_dir,
            jwt=True,
            deployments=[deployment],
            routes=[{"name": "default", "deployments": ["test"]}],
            tenants={"acme": {"max_output_tokens": 10, **tenant}, "globex": {}},
            **sections,
        ) as app:
            yield provider, app


async def refused(client: Client, request: str, conversation: str, text: str = "hi") -> dict[str, Any]:
    with pytest.raises(CallError) as caught:
        await client.create(request, conversation, text)
    return caught.value.error


def limits_told(client: Client) -> dict[str, Any]:
    return client.events("rate_limits.updated")[-1]["limits"]


class Watched:
    """Passes calls on to a store and notes which there were."""

    def __init__(self, store: Any) -> None:
        self.calls: list[str] = []
        self.holds: dict[str, asyncio.Event] = {}
        """Calls of these names wait for an event."""
        self._store = store
        self._answers: Counter[str] = Counter()
        self._news = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **named: Any) -> Any:
            self.calls.append(name)
            if name in self.holds:
                await self.holds[name].wait()
            answer = await getattr(self._store, name)(*args, **named)
            self._answers[name] += 1
            self._news.set()
            self._news = asyncio.Event()
            return answer

        return call

    async def until_answered(self, name: str, times: int) -> None:
        async with asyncio.timeout(20):
            while self._answers[name] < times:
                await self._news.wait()


def each_of(app: App) -> tuple[App, ...]:
    return app.apps if isinstance(app, Nodes) else (app,)


def watch(app: App, part: str) -> list[Watched]:
    """The stores behind limits, of each node: `_store` or `_archive`."""
    watched = []
    for node in each_of(app):
        quotas = node.front.services.quotas
        watched.append(Watched(getattr(quotas, part)))
        setattr(quotas, part, watched[-1])
    return watched
