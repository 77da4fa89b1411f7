"""A model provider that answers at once: twelve tokens of the OpenAI chat protocol, the connection kept open.

`python benchmarks/router_provider.py` prints its port and serves until its stdin closes. Nothing but the standard
library: it costs little, and any interpreter runs it.
"""

from __future__ import annotations

import asyncio
import json
import sys

TOKENS = 12


def _event(delta: dict[str, str], finish: str | None, usage: dict[str, int] | None = None) -> bytes:
    chunk = {
        "id": "chatcmpl-Benchmark",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "bench",
        "choices": [] if usage else [{"index": 0, "delta": delta, "finish_reason": finish}],
        "usage": usage,
    }
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


_USAGE = {"prompt_tokens": 9, "completion_tokens": TOKENS, "total_tokens": 9 + TOKENS}
_BODY = b"".join(
    [
        *(_event({"role": "assistant", "content": " token"}, None) for _ in range(TOKENS)),
        _event({}, "stop"),
        _event({}, None, _USAGE),
        b"data: [DONE]\n\n",
    ]
)
_ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"%x\r\n%s\r\n0\r\n\r\n" % (len(_BODY), _BODY)
)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
            )
            await reader.readexactly(length)
            writer.write(_ANSWER)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main() -> None:
    server = await asyncio.start_server(_serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
