"""The floor: aiohttp reads the provider's stream, orjson decodes it, `websockets` sends each delta. No log, no state.

This is the least that any server between a provider and a browser has to do; it loses everything at every hiccup. It
understands the one command the load sends. `python -m benchmarks.bare_pipe PROVIDER_PORT` prints its port.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import aiohttp
import orjson
import uvloop
from websockets.asyncio.server import ServerConnection, serve


async def _main(provider_port: int) -> None:
    url = f"http://127.0.0.1:{provider_port}/v1/chat/completions"
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:

        async def handler(socket: ServerConnection) -> None:
            async for data in socket:
                command = orjson.loads(data)
                if command["type"] == "request.create":
                    await _pipe(http, url, socket, command)
                else:
                    await socket.send(orjson.dumps({"type": "welcome", "ref": command.get("id")}), text=True)

        async with serve(handler, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
            print(next(iter(server.sockets)).getsockname()[1], flush=True)
            await asyncio.get_running_loop().create_future()


async def _pipe(http: aiohttp.ClientSession, url: str, socket: ServerConnection, command: dict[str, Any]) -> None:
    body = {"model": "bench", "stream": True, "messages": [{"role": "user", "content": command["input"]}]}
    request_id = command["request_id"]
    async with http.post(url, json=body) as response:
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            choices = orjson.loads(line[6:])["choices"]
            text = choices[0]["delta"].get("content") if choices else None
            if text:
                delta = {"type": "output_text.delta", "request_id": request_id, "text": text}
                await socket.send(orjson.dumps(delta), text=True)
    await socket.send(
        orjson.dumps({"type": "message.completed", "request_id": request_id, "terminal": True}), text=True
    )


if __name__ == "__main__":
    logging.getLogger("websockets").setLevel(logging.CRITICAL)  # clients that are killed are part of the plan
    uvloop.run(_main(int(sys.argv[1])))
