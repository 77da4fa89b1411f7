"""A fast OpenAI-compatible provider for load: paced streams at next to no cost.

Raw asyncio: one timer for all streams, one write per stream and tick, so that the provider's own cost stays out of the
way of what is measured. `python -m benchmarks.provider RATE TOKENS` prints its port.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_FINISH = (
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":10,"total_tokens":20}}\n\n'
    b"data: [DONE]\n\n"
)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _token(number: int) -> bytes:
    return _chunk(
        b'data: {"id":"chatcmpl-x","object":"chat.completion.chunk","created":1700000000,"model":"bench",'
        b'"choices":[{"index":0,"delta":{"content":" word%d"},"finish_reason":null}]}\n\n' % number
    )


class Provider:
    """Streams at the same rate for everybody; each begins at its own phase of the tick."""

    def __init__(self, rate: float, tokens: int) -> None:
        self._period = 1 / rate
        self._tokens = tokens

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
                )
                await reader.readexactly(length)
                await self._stream(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _stream(self, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        writer.write(_HEAD)
        due = loop.time()
        for number in range(self._tokens):
            if writer.is_closing():
                return
            writer.write(_token(number))
            due += self._period
            await asyncio.sleep(due - loop.time())
        writer.write(_chunk(_FINISH) + b"0\r\n\r\n")


async def _main(rate: float, tokens: int) -> None:
    provider = Provider(rate, tokens)
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_main(float(sys.argv[1]), int(sys.argv[2])))
