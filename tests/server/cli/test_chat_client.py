"""The connection behind `turnwire chat`, without its screen."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.support.server import running_server

from turnwire_protocol import ConversationFold
from turnwire_server.cli.chat_client import ChatClient


class Watcher:
    """Keeps what it is told of the connection."""

    def __init__(self) -> None:
        self.connections: list[str] = []

    def frame(self, fold: ConversationFold, messages: list[dict[str, Any]]) -> None: ...

    def connection(self, text: str) -> None:
        self.connections.append(text)

    def ended(self, request_id: str, state: str, message: dict[str, Any] | None) -> None: ...


async def test_somebody_who_thinks_for_long_stays_connected() -> None:
    async with running_server(limits={"heartbeat_s": 1}) as app:
        watcher = Watcher()
        async with ChatClient(app.url, None, watcher) as client, asyncio.timeout(30):
            await client.follow("c1")
            pings = app.front.services.metrics.commands_total.labels("ping", "ok")._value
            while pings.get() < 3:  # the server's patience is two and a half heartbeats
                await asyncio.sleep(0.02)
            assert len(app.front.sessions) == 1
        assert watcher.connections == []
