"""A TCP proxy that cuts a connection after an exact number of bytes from the server: at any byte of any frame.

    async with running_cutter(app.port) as cutter:
        async with connected(app.url, host="127.0.0.1", port=cutter.port(1234)) as client:
            ...                                                 # dies after 1234 bytes

What the client has of a frame that was cut in the middle it throws away, as every WebSocket client does. Unrealistic
in that nothing is ever delayed or lost on the way to the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial


class Cutter:
    """Made by `running_cutter`. Each port is for one connection; `Host` stays the server's own."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listeners: list[socket.socket] = []
        self._accepted: list[socket.socket] = []
        self._pipes: list[asyncio.Task[None]] = []

    def port(self, budget: int) -> int:
        """A port on which a connection ends once `budget` bytes have come from the server."""
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        self._listeners.append(listener)
        asyncio.get_running_loop().add_reader(listener, partial(self._accept, listener, budget))
        port: int = listener.getsockname()[1]
        return port

    def _accept(self, listener: socket.socket, budget: int) -> None:
        client, _ = listener.accept()
        client.setblocking(False)
        self._accepted.append(client)
        self._pipes.append(asyncio.create_task(self._pipe(client, budget)))

    async def _pipe(self, client: socket.socket, budget: int) -> None:
        sides: list[asyncio.StreamWriter] = []
        try:
            reader, writer = await asyncio.open_connection(sock=client)
            sides.append(writer)
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
            sides.append(up_writer)
            upward = asyncio.create_task(_copy(reader, up_writer, None))
            try:
                await _copy(up_reader, writer, budget)
            finally:
                upward.cancel()
        finally:
            for side in sides:
                side.transport.abort()
            for side in sides:
                with contextlib.suppress(OSError):
                    await side.wait_closed()

    async def aclose(self) -> None:
        for listener in self._listeners:
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)
        for client in self._accepted:
            client.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: int | None) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536 if budget is None else min(budget, 65_536)):
            writer.write(data)
            await writer.drain()
            if budget is not None:
                budget -= len(data)
                if budget <= 0:
                    return


@asynccontextmanager
async def running_cutter(target: int) -> AsyncIterator[Cutter]:
    """Inside the block connections to `target` can be made that will be cut."""
    cutter = Cutter(target)
    try:
        yield cutter
    finally:
        await cutter.aclose()
