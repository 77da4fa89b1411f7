"""The clients: many WebSockets in one process, which count what they are sent and how late it comes.

`streams` starts one endless answer on each of many connections; `idle` opens connections that follow one conversation
each and stay silent. `mark` says what has come since the last mark.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import time
from contextlib import AsyncExitStack
from typing import Any

import orjson
from websockets.asyncio.client import ClientConnection, connect

from benchmarks.processes import Answer, obey, run, say
from benchmarks.provider import CHARS_PER_TOKEN
from benchmarks.turnwire_target import SECRET
from turnwire_server.auth import make_token

_STAMP = re.compile(r" <(\d{8}\.\d{6})>")
_AT_ONCE = 20
"""Connections opened at the same time."""


class Clients:
    """All connections of a run. Close it with `aclose`."""

    def __init__(self, url: str, kind: str) -> None:
        self._url = url
        self._is_bare = kind == "bare"
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._connected = 0
        self._streaming = 0
        self._all_stream = asyncio.Event()
        self._chars = self._events = self._frames = 0
        self._delays: list[float] = []

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- orders ------------------------------------------------------------------------------------------

    async def streams(self, order: Answer) -> Answer:
        """Start `count` answers and wait until all of them stream."""
        wanted = order["count"]
        for number in range(wanted):
            self._tasks.append(asyncio.create_task(self._stream(number, wanted)))
        waiting = asyncio.create_task(self._all_stream.wait())
        done, _ = await asyncio.wait([waiting, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {waiting}:
            await task  # raises what ended it
        return {"streams": self._streaming}

    async def prepare(self, order: Answer) -> Answer:
        """Make the conversations that idle connections will follow, so that making them is not counted."""
        if not self._is_bare:
            async with self._connection() as socket:
                await self._hello(socket, 0)
                for number in range(order["count"]):
                    await self._call(socket, "conversation.opened", _open(number))
                    await self._call(socket, "ack", {"type": "conversation.leave", "conversation_id": f"idle-{number}"})
        return {}

    async def idle(self, order: Answer) -> Answer:
        """Open `count` more connections."""
        first, self._connected = self._connected, self._connected + order["count"]
        for start in range(first, self._connected, _AT_ONCE):
            numbers = range(start, min(start + _AT_ONCE, self._connected))
            opened = [asyncio.create_task(self._idle(number)) for number in numbers]
            self._tasks += [asyncio.create_task(self._read_on(await task)) for task in opened]
        return {"connections": self._connected}

    async def mark(self, order: Answer) -> Answer:
        """What came since the last mark; delays in milliseconds."""
        delays = sorted(self._delays)
        answer = {
            "at": time.monotonic(),
            "tokens": self._chars / CHARS_PER_TOKEN,
            "events": self._events,
            "frames": self._frames,
            "delay_ms": {name: _quantile(delays, part) * 1000 for name, part in (("p50", 0.5), ("p99", 0.99))},
        }
        self._chars = self._events = self._frames = 0
        self._delays = []
        return answer

    # --- one connection ----------------------------------------------------------------------------------

    def _connection(self) -> connect:
        return connect(self._url, compression=None, ping_interval=None, max_size=None, close_timeout=1)

    async def _stream(self, number: int, wanted: int) -> None:
        async with self._connection() as socket:
            request_id = f"r-{number}"
            if self._is_bare:
                await socket.send(orjson.dumps({"request_id": request_id}), text=True)
            else:
                await self._hello(socket, number)
                create = {"type": "request.create", "request_id": request_id, "conversation_id": f"c-{number}"}
                await self._call(socket, "ack", {**create, "input": "Write on and on."})
            has_begun = False
            async for data in socket:
                found = self._count(data)
                if found and not has_begun:
                    has_begun = True
                    self._streaming += 1
                    if self._streaming == wanted:
                        self._all_stream.set()
        raise RuntimeError(f"stream {number} ended")

    def _count(self, data: str | bytes) -> bool:
        now = time.monotonic()
        frame = orjson.loads(data)
        found = False
        for message in frame if isinstance(frame, list) else (frame,):
            if message["type"] == "output_text.delta":
                text: str = message["text"]
                found = True
                self._events += 1
                self._chars += len(text)
                if "<" in text:
                    self._delays += [now - float(sent) for sent in _STAMP.findall(text)]
            elif message["type"] == "error" or message.get("terminal"):
                raise RuntimeError(f"the server said {message}")
        self._frames += found
        return found

    async def _idle(self, number: int) -> ClientConnection:
        socket = await self._connection()
        if not self._is_bare:
            await self._hello(socket, 0)
            await self._call(socket, "conversation.opened", _open(number))
        return socket

    async def _read_on(self, socket: ClientConnection) -> None:
        async with socket:
            async for _ in socket:
                pass

    async def _hello(self, socket: ClientConnection, user: int) -> None:
        token = make_token(SECRET, f"user-{user}", "bench")
        await self._call(socket, "welcome", {"type": "hello", "token": token})

    async def _call(self, socket: ClientConnection, answer: str, command: dict[str, Any]) -> None:
        await socket.send(orjson.dumps(command), text=True)
        while True:
            frame = orjson.loads(await socket.recv())
            for message in frame if isinstance(frame, list) else (frame,):
                if message["type"] == answer:
                    return
                if message["type"] == "error":
                    raise RuntimeError(f"the server said {message}")


def _open(number: int) -> dict[str, Any]:
    return {"type": "conversation.open", "conversation_id": f"idle-{number}"}


def _quantile(ordered: list[float], part: float) -> float:
    return ordered[int(part * (len(ordered) - 1))] if ordered else float("nan")


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--kind", choices=("bare", "turnwire"), required=True)
    arguments = parser.parse_args()
    clients = Clients(arguments.url, arguments.kind)
    say({})
    await obey({"streams": clients.streams, "prepare": clients.prepare, "idle": clients.idle, "mark": clients.mark})
    await clients.aclose()


if __name__ == "__main__":
    run(main())
