"""The least that can be done for many who watch one answer: `websockets.broadcast`. The yardstick of the fan-out.

Whoever connects watches; whoever sends a message starts an answer that all get. A message has Turnwire's fields, so
that both send as many bytes; nothing is kept, and nobody can come back for what was missed.
"""

from __future__ import annotations

import argparse
import time

import aiohttp
import orjson
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

from benchmarks.processes import obey, run, say


class Room:
    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self._url = url
        self._here: set[ServerConnection] = set()

    async def enter(self, connection: ServerConnection) -> None:
        """The life of one connection."""
        self._here.add(connection)
        try:
            async for command in connection:
                asked = orjson.loads(command)
                await self._answer(asked["request_id"], asked["input"])
        except (ConnectionClosed, aiohttp.ClientError):
            pass
        finally:
            self._here.discard(connection)

    async def _answer(self, request_id: str, text: str) -> None:
        body = {"model": "bench", "stream": True, "messages": [{"role": "user", "content": text}]}
        seq = offset = 0
        async with self._http.post(self._url, json=body) as response:
            rest = b""
            async for data in response.content.iter_any():
                *events, rest = (rest + data).split(b"\n\n")
                for event in events:
                    text = orjson.loads(event.removeprefix(b"data: "))["choices"][0]["delta"]["content"]
                    seq += 1
                    message = {
                        "type": "output_text.delta",
                        "conversation_id": "c-0",
                        "seq": seq,
                        "ts": int(time.time() * 1000),
                        "request_id": request_id,
                        "part": 0,
                        "offset": offset,
                        "text": text,
                    }
                    offset += len(text)
                    broadcast(self._here, orjson.dumps(message).decode())


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--provider", required=True)
    url = f"{parser.parse_args().provider}/chat/completions"
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        options = {"compression": None, "ping_interval": None, "close_timeout": 1, "max_queue": 8}
        async with serve(Room(http, url).enter, "127.0.0.1", 0, **options) as server:  # type: ignore[arg-type]
            say({"url": f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"})
            await obey({})


if __name__ == "__main__":
    run(main())
