"""A bare `websockets` server that says welcome and nothing else: the floor for idle connections. Prints its port."""

from __future__ import annotations

import asyncio
import logging

import uvloop
from websockets.asyncio.server import ServerConnection, serve


async def _handler(socket: ServerConnection) -> None:
    async for _ in socket:
        await socket.send(b'{"type":"welcome"}', text=True)


async def _main() -> None:
    async with serve(_handler, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
        print(next(iter(server.sockets)).getsockname()[1], flush=True)
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    logging.getLogger("websockets").setLevel(logging.CRITICAL)  # clients that are killed are part of the plan
    uvloop.run(_main())
