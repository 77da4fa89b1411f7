"""Many connections in one process that cost next to nothing: for what `load.py` would be too dear.

Once a connection is open and has asked, the WebSocket library is taken off it: the bytes that come are only searched
for the provider's stamps. So many stamps are so many tokens, and each says how late it is; frames are not taken apart.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import time
from collections.abc import Mapping
from typing import Any, Protocol

from websockets.asyncio.client import ClientConnection

from benchmarks.clients import ServerError
from benchmarks.clients.client import send, websocket
from benchmarks.clients.turnwire import call, hello, messages
from benchmarks.load import quantile
from benchmarks.processes import Answer, obey, run, say
from benchmarks.provider import STAMP_EVERY

_STAMP = re.compile(rb"<(\d{8}\.\d{6})>")
_STAMP_BYTES = 17
_TERMINAL = b'"terminal":true'
_WORDS_BYTES = 200
_AT_ONCE = 20
"""Connections opened at the same time."""


class Asks(Protocol):
    """How to open a connection on one kind of server."""

    async def stream(self, number: int, text: str) -> ClientConnection:
        """One with an answer of its own."""
        ...

    async def follow(self) -> ClientConnection:
        """One that gets what stream 0 gets."""
        ...


class Turnwire:
    def __init__(self, url: str) -> None:
        self._url = url

    async def stream(self, number: int, text: str) -> ClientConnection:
        socket = await self._connected(number)
        await call(socket, "ack", _create(f"r-{number}", f"c-{number}", text))
        return socket

    async def follow(self) -> ClientConnection:
        socket = await self._connected(0)
        await call(socket, "conversation.opened", {"type": "conversation.open", "conversation_id": "c-0"})
        return socket

    async def branches(self, conversation: str, count: int, text: str) -> ClientConnection:
        """One with so many answers side by side, all of them after the conversation's newest message.

        One begins after the other, since each reads the history first.
        """
        socket = await self._connected(0)
        ask = {"type": "conversation.history", "conversation_id": conversation, "limit": 1}
        parent = (await call(socket, "conversation.messages", ask))["items"][-1]["message_id"]
        for number in range(count):
            request = f"{conversation}-{number}"
            await send(socket, {**_create(request, conversation, text), "parent_id": parent, "on_busy": "parallel"})
            await _begun(socket, request)
        return socket

    async def _connected(self, user: int) -> ClientConnection:
        socket = await websocket(self._url)
        await hello(socket, user)
        return socket


class Bare:
    """The bare pipe, and the server that broadcasts."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def stream(self, number: int, text: str) -> ClientConnection:
        socket = await websocket(self._url)
        await send(socket, {"request_id": f"r-{number}", "input": text})
        return socket

    async def follow(self) -> ClientConnection:
        return await websocket(self._url)


ASKS: Mapping[str, type[Turnwire | Bare]] = {"turnwire": Turnwire, "bare": Bare}


class Tally:
    """What all connections were sent since the last mark."""

    def __init__(self) -> None:
        self.bytes = 0
        self.delays: list[float] = []
        self.ended = 0
        """Answers that ended, though they have no end, and connections that were closed."""
        self.last_words = ""
        """The event that the last of them ended with."""


class Reader(asyncio.Protocol):
    """Reads one connection on, in the place of the library."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        self._tally.bytes += len(data)
        # A stamp may lie across reads, and what is kept is too short to hold a whole one.
        seen = self._rest + data
        self._tally.delays += [now - float(sent) for sent in _STAMP.findall(seen)]
        self._rest = seen[1 - _STAMP_BYTES :]
        if (found := data.find(_TERMINAL)) >= 0:
            self._tally.ended += 1
            self._tally.last_words = data[max(0, found - _WORDS_BYTES) : found + _WORDS_BYTES].decode(errors="replace")

    def connection_lost(self, error: Exception | None) -> None:
        self._tally.ended += 1


class Crowd:
    """All connections of a run."""

    def __init__(self, asks: Turnwire | Bare) -> None:
        self._asks = asks
        self._tally = Tally()
        self._sockets: list[ClientConnection] = []
        self._stamp_every = STAMP_EVERY
        self._streams = 0

    # --- orders ------------------------------------------------------------------------------------------

    async def streams(self, order: Answer) -> Answer:
        """Start `count` more answers, with `text` as the message, that have a stamp on every `stamp_every`-th token."""
        self._stamp_every = order.get("stamp_every", STAMP_EVERY)
        first, self._streams = self._streams, self._streams + order["count"]
        await self._open(self._asks.stream(number, order["text"]) for number in range(first, self._streams))
        return {}

    async def follow(self, order: Answer) -> Answer:
        """Open `count` connections that get what stream 0 will get."""
        await self._open(self._asks.follow() for _ in range(order["count"]))
        return {}

    async def branches(self, order: Answer) -> Answer:
        """Start `count` answers in one conversation, on one connection."""
        assert isinstance(self._asks, Turnwire), "the yardsticks have no conversations"
        await self._open([self._asks.branches(order["conversation"], order["count"], order["text"])])
        return {}

    async def mark(self, order: Answer) -> Answer:
        """What came since the last mark; delays in milliseconds."""
        tally = self._tally
        delays = sorted(tally.delays)
        answer = {
            "at": time.monotonic(),
            "tokens": len(delays) * self._stamp_every,
            "bytes": tally.bytes,
            "ended": tally.ended,
            "last_words": tally.last_words,
            "delay_ms": {name: quantile(delays, part) * 1000 for name, part in (("p50", 0.5), ("p99", 0.99))},
        }
        tally.bytes, tally.delays = 0, []
        return answer

    # --- connections -------------------------------------------------------------------------------------

    async def _open(self, opening: Any) -> None:
        waiting = list(opening)
        for start in range(0, len(waiting), _AT_ONCE):
            for socket in await asyncio.gather(*waiting[start : start + _AT_ONCE]):
                self._sockets.append(socket)  # the library's object keeps its transport
                socket.transport.set_protocol(Reader(self._tally))
                socket.transport.resume_reading()


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--client", choices=tuple(ASKS), required=True)
    arguments = parser.parse_args()
    crowd = Crowd(ASKS[arguments.client](arguments.url))
    say({})
    await obey({"streams": crowd.streams, "follow": crowd.follow, "branches": crowd.branches, "mark": crowd.mark})


async def _begun(socket: ClientConnection, request: str) -> None:
    """Wait for the first token of this request."""
    while True:
        for message in messages(await socket.recv()):
            if message["type"] == "error":
                raise ServerError(f"the server said {message}")
            if message["type"] == "output_text.delta" and message["request_id"] == request:
                return


def _create(request: str, conversation: str, text: str) -> dict[str, Any]:
    return {"type": "request.create", "request_id": request, "conversation_id": conversation, "input": text}


if __name__ == "__main__":
    run(main())
