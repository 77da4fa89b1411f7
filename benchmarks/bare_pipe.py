"""The least that can be done: read the provider's stream with aiohttp, decode, send with websockets. The yardstick.

No log, no state, no resume, no authentication, no accounting; one process, one message a token. The settings of the
socket are those of Turnwire's listener. A connection that sends nothing is a bare idle connection.
"""

from __future__ import annotations

import argparse
import asyncio

import aiohttp
import orjson
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from benchmarks.processes import obey, run, say


async def pipe(http: aiohttp.ClientSession, url: str, connection: ServerConnection, command: str | bytes) -> None:
    """One answer from the provider to the client."""
    asked = orjson.loads(command)
    request_id = asked["request_id"]
    body = {"model": "bench", "stream": True, "messages": [{"role": "user", "content": asked.get("input", "go")}]}
    async with http.post(url, json=body) as response:
        rest = b""
        async for data in response.content.iter_any():
            *events, rest = (rest + data).split(b"\n\n")
            for event in events:
                text = orjson.loads(event.removeprefix(b"data: "))["choices"][0]["delta"]["content"]
                message = {"type": "output_text.delta", "request_id": request_id, "text": text}
                await connection.send(orjson.dumps(message), text=True)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--provider", required=True)
    url = f"{parser.parse_args().provider}/chat/completions"
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as http:

        async def handler(connection: ServerConnection) -> None:
            try:
                async for command in connection:
                    await pipe(http, url, connection, command)
            except (ConnectionClosed, aiohttp.ClientError):
                pass

        options = {"compression": None, "ping_interval": None, "close_timeout": 1, "max_queue": 8}
        async with serve(handler, "127.0.0.1", 0, **options) as server:  # type: ignore[arg-type]
            say({"url": f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"})
            await obey({})
            server.close()
            await asyncio.sleep(0)


if __name__ == "__main__":
    run(main())
