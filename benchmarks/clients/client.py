"""What the load asks of a client. It counts and times itself; a client only knows its server's wire.

A client should cost little, as all streams share one process: frames are taken apart by hand, without a rival's own
client library.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol, runtime_checkable

import orjson
from websockets.asyncio.client import ClientConnection, connect

Frames = AsyncGenerator[list[str], None]
"""For each frame the texts of its deltas, one an event: a frame is a WebSocket message, or what one read of an answer
over HTTP gave. Frames without a delta are left out."""


class ServerError(Exception):
    """The server refused, or ended an answer that has no end."""


class Client(Protocol):
    def stream(self, number: int) -> Frames:
        """Connect as the client with this number, start an answer, and yield what comes until it is closed.

        Raises `ServerError` when the server says that something is wrong. Ends when the server ends the answer, which
        the caller takes for an error.
        """
        ...


@runtime_checkable
class IdleClient(Client, Protocol):
    """One that can also be connected and silent."""

    async def prepare(self, count: int) -> None:
        """Make what `count` idle connections will follow, so that making it is not counted."""
        ...

    async def idle(self, number: int) -> ClientConnection:
        """A connection that follows number's conversation and says nothing."""
        ...


def websocket(url: str) -> connect:
    """A connection with the settings that all clients share."""
    return connect(url, compression=None, ping_interval=None, max_size=None, close_timeout=1)


async def send(socket: ClientConnection, message: object) -> None:
    await socket.send(orjson.dumps(message), text=True)
