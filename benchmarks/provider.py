"""A model provider that costs little: paced streams of the OpenAI chat protocol, straight from the event loop.

Each stream gives one token every `1/rate` seconds from a phase of its own until the other side hangs up. Tokens have a
fixed length, so that whoever counts characters has counted tokens; every tenth carries the time at which it was sent.

The last message of a request may ask for something else, see `Pace`. The order `hung_up` says when the other side
closed streams that had not ended.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import time
from dataclasses import dataclass
from typing import Self, cast

from benchmarks.processes import Answer, obey, run, say

TOKEN_CHARS = 6
"""About what an English token has, with its space."""
STAMP_EVERY = 10
STAMP_CHARS = 18
CHARS_PER_TOKEN = ((STAMP_EVERY - 1) * TOKEN_CHARS + STAMP_CHARS) / STAMP_EVERY

_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
# What OpenAI's own servers send around a token.
_BEFORE = (
    b'data: {"id":"chatcmpl-BenchmarkBenchmarkBenchmark","object":"chat.completion.chunk","created":1700000000,'
    b'"model":"bench","service_tier":"default","system_fingerprint":"fp_0123456789","choices":[{"index":0,'
    b'"delta":{"content":"'
)
_AFTER = b'"},"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
_STOP = _BEFORE + b'"},"logprobs":null,"finish_reason":"stop"}],"usage":null}\n\n'
_USAGE = (
    b'data: {"id":"chatcmpl-BenchmarkBenchmarkBenchmark","object":"chat.completion.chunk","created":1700000000,'
    b'"model":"bench","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":%d,"total_tokens":%d}}\n\n'
)


def _chunk(text: bytes) -> bytes:
    body = _BEFORE + text + _AFTER
    return b"%x\r\n%s\r\n" % (len(body), body)


_PLAIN = _chunk(b" token")


def stamp() -> bytes:
    """` <seconds>` of the machine's monotonic clock, in 18 characters."""
    return b" <%015.6f>" % time.monotonic()


@dataclass(frozen=True, slots=True)
class Pace:
    """How an answer comes. As text it goes into the last message of the request."""

    rate: float
    tokens: int = 0
    """After so many the answer ends, and the connection is kept; 0: it never ends."""
    stamp_every: int = STAMP_EVERY
    at_once: bool = False
    """The first token comes at once, and not after a part of the interval that is drawn."""

    def __str__(self) -> str:
        return f"pace {self.rate:g} {self.tokens} {self.stamp_every} {int(self.at_once)}"

    @classmethod
    def asked(cls, body: bytes, else_rate: float) -> Self:
        """What the end of the request asks for."""
        found = _PACE.findall(body[-_PACE_WITHIN:])
        if not found:
            return cls(else_rate)
        rate, tokens, stamp_every, at_once = found[-1]
        return cls(float(rate), int(tokens), int(stamp_every), at_once == b"1")


_PACE = re.compile(rb"pace ([\d.]+) (\d+) (\d+) ([01])")
_PACE_WITHIN = 1000


class Stream(asyncio.Protocol):
    """One connection: a request, then tokens until it is closed, or as many as were asked for and the next request."""

    def __init__(self, rate: float, hung_up: list[float]) -> None:
        self._rate = rate
        self._hung_up = hung_up
        self._buffer = b""
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        if lengths and len(body) < int(lengths[0].partition(b":")[2]):
            return
        self._buffer = b""
        self._pace = Pace.asked(body, self._rate)
        self._interval = 1 / self._pace.rate
        self._count = 0
        self._transport.write(_HEAD)
        loop = asyncio.get_running_loop()
        self._at = loop.time() + (0 if self._pace.at_once else random.random() * self._interval)
        self._timer = loop.call_at(self._at, self._token)

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._hung_up.append(time.monotonic())

    def _token(self) -> None:
        self._count += 1
        self._transport.write(_chunk(stamp()) if self._count % self._pace.stamp_every == 0 else _PLAIN)
        if self._count == self._pace.tokens:
            self._end()
            return
        # From the planned time, not from now: a late token does not slow the stream down.
        self._at += self._interval
        self._timer = asyncio.get_running_loop().call_at(self._at, self._token)

    def _end(self) -> None:
        self._timer = None
        body = _STOP + _USAGE % (self._count, 9 + self._count) + b"data: [DONE]\n\n"
        self._transport.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float, required=True, help="tokens per second and stream")
    rate: float = parser.parse_args().rate
    hung_up: list[float] = []

    async def tell(order: Answer) -> Answer:
        """Seconds of the monotonic clock at which streams were cut since the last time."""
        times = hung_up.copy()
        hung_up.clear()
        return {"at": times}

    server = await asyncio.get_running_loop().create_server(lambda: Stream(rate, hung_up), "127.0.0.1", 0)
    say({"port": server.sockets[0].getsockname()[1]})
    await obey({"hung_up": tell})
    server.close()


if __name__ == "__main__":
    assert len(stamp()) == STAMP_CHARS
    run(main())
