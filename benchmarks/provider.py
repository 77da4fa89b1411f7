"""A model provider that costs little: paced streams of the OpenAI chat protocol, straight from the event loop.

Each stream gives one token every `1/rate` seconds from a phase of its own until the other side hangs up. Tokens have a
fixed length, so that whoever counts characters has counted tokens; every tenth carries the time at which it was sent.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from typing import cast

from benchmarks.processes import obey, run, say

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


def _chunk(text: bytes) -> bytes:
    body = _BEFORE + text + _AFTER
    return b"%x\r\n%s\r\n" % (len(body), body)


_PLAIN = _chunk(b" token")


def stamp() -> bytes:
    """` <seconds>` of the machine's monotonic clock, in 18 characters."""
    return b" <%015.6f>" % time.monotonic()


class Stream(asyncio.Protocol):
    """One connection: a request, then tokens until it is closed."""

    def __init__(self, rate: float) -> None:
        self._interval = 1 / rate
        self._buffer = b""
        self._count = 0
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
        self._transport.write(_HEAD)
        loop = asyncio.get_running_loop()
        self._at = loop.time() + random.random() * self._interval
        self._timer = loop.call_at(self._at, self._token)

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _token(self) -> None:
        self._count += 1
        self._transport.write(_chunk(stamp()) if self._count % STAMP_EVERY == 0 else _PLAIN)
        # From the planned time, not from now: a late token does not slow the stream down.
        self._at += self._interval
        self._timer = asyncio.get_running_loop().call_at(self._at, self._token)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float, required=True, help="tokens per second and stream")
    rate: float = parser.parse_args().rate
    server = await asyncio.get_running_loop().create_server(lambda: Stream(rate), "127.0.0.1", 0)
    say({"port": server.sockets[0].getsockname()[1]})
    await obey({})
    server.close()


if __name__ == "__main__":
    assert len(stamp()) == STAMP_CHARS
    run(main())
