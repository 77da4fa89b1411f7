"""A TCP proxy that cuts a connection after an exact number of bytes from the server: at any byte of any frame.

    async with running_cutter(app.port) as cutter:
        async with connected(app.url, port=await cutter.port(1234), host="127.0.0.1") as client:
            ...                                                 # dies after 1234 bytes

What the client has of a frame that was cut in the middle it throws away, as every WebSocket client does. Unrealistic
in that nothing is ever delayed or lost on the way to the server.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Cutter:
    """Made by `running_cutter`. Each port is for one connection; `Host` stays the server's own."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._servers: list[asyncio.Server] = []
        self._pipes: set[asyncio.Task[None]] = set()

    async def port(self, budget: int) -> int:
        """A port on which a connection ends once `budget` bytes have come from the server."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            pipe = asyncio.create_task(self._pipe(reader, writer, budget))
            self._pipes.add(pipe)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self._servers.append(server)
        port: int = server.sockets[0].getsockname()[1]
        return port

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: int) -> None:
        sides = [writer]
        try:
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
        for server in self._servers:
            server.close()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: int | None) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65_536 if budget is None else min(budget, 65_536)):
            writer.write(data)
            await writer.drain()
            if budget is not None:
                budget -= len(data)
                if budget <= 0:
                    return


@asynccontextmanager
async def running_cutter(port: int) -> AsyncIterator[Cutter]:
    cutter = Cutter(port)
    try:
        yield cutter
    finally:
        await cutter.aclose()
