"""The load: many clients in one process. Counts what they are sent and how late it comes; `clients/` knows the wires.

`streams` starts one endless answer on each of many connections; `idle` opens connections that follow one conversation
each and stay silent. `mark` says what has come since the last mark.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import time
from contextlib import aclosing

from websockets.asyncio.client import ClientConnection

from benchmarks.clients import CLIENTS, Client, IdleClient, ServerError
from benchmarks.processes import Answer, obey, run, say
from benchmarks.provider import CHARS_PER_TOKEN

_STAMP = re.compile(r" <(\d{8}\.\d{6})>")
_AT_ONCE = 20
"""Connections opened at the same time."""


class Clients:
    """All connections of a run. Close it with `aclose`."""

    def __init__(self, client: Client) -> None:
        self._client = client
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
        await self._idle_client.prepare(order["count"])
        return {}

    async def idle(self, order: Answer) -> Answer:
        """Open `count` more connections."""
        first, self._connected = self._connected, self._connected + order["count"]
        for start in range(first, self._connected, _AT_ONCE):
            numbers = range(start, min(start + _AT_ONCE, self._connected))
            opened = [asyncio.create_task(self._idle_client.idle(number)) for number in numbers]
            self._tasks += [asyncio.create_task(self._read_on(await task)) for task in opened]
        return {"connections": self._connected}

    async def mark(self, order: Answer) -> Answer:
        """What came since the last mark; delays in milliseconds. Raises if a client has ended meanwhile."""
        for task in self._tasks:
            if task.done():
                await task
        delays = sorted(self._delays)
        answer = {
            "at": time.monotonic(),
            "tokens": self._chars / CHARS_PER_TOKEN,
            "events": self._events,
            "frames": self._frames,
            "delay_ms": {name: quantile(delays, part) * 1000 for name, part in (("p50", 0.5), ("p99", 0.99))},
        }
        self._chars = self._events = self._frames = 0
        self._delays = []
        return answer

    # --- one connection ----------------------------------------------------------------------------------

    @property
    def _idle_client(self) -> IdleClient:
        assert isinstance(self._client, IdleClient), "asked only of kinds whose idle connections are measured"
        return self._client

    async def _stream(self, number: int, wanted: int) -> None:
        has_begun = False
        async with aclosing(self._client.stream(number)) as frames:
            async for texts in frames:
                self._count(texts)
                if not has_begun:
                    has_begun = True
                    self._streaming += 1
                    if self._streaming == wanted:
                        self._all_stream.set()
        raise ServerError(f"stream {number} ended")

    def _count(self, texts: list[str]) -> None:
        now = time.monotonic()
        self._frames += 1
        self._events += len(texts)
        for text in texts:
            self._chars += len(text)
            if "<" in text:
                self._delays += [now - float(sent) for sent in _STAMP.findall(text)]

    async def _read_on(self, socket: ClientConnection) -> None:
        async with socket:
            async for _ in socket:
                pass


def quantile(ordered: list[float], part: float) -> float:
    """The value below which this part of the values lies; NaN of none."""
    return ordered[int(part * (len(ordered) - 1))] if ordered else float("nan")


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--client", choices=tuple(CLIENTS), required=True)
    arguments = parser.parse_args()
    clients = Clients(CLIENTS[arguments.client](arguments.url))
    say({})
    await obey({"streams": clients.streams, "prepare": clients.prepare, "idle": clients.idle, "mark": clients.mark})
    await clients.aclose()


if __name__ == "__main__":
    run(main())
