"""The clients, in a process of their own.

`python -m benchmarks.load streams PORT TOKEN COUNT SECONDS` keeps COUNT streams running and prints, each second, how
many deltas it has received so far. `python -m benchmarks.load idle PORT TOKEN COUNT` opens COUNT connections, each
following a conversation of its own, says `ready`, and holds them until its standard input ends. TOKEN `-` means none,
and then no conversation is opened either.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid

import uvloop
import websockets


def _hello(token: str) -> str:
    return json.dumps({"type": "hello", "id": "h", **({"token": token} if token != "-" else {})})


class Streams:
    """Counts deltas, merged ones as what they stand for."""

    def __init__(self, port: int, token: str) -> None:
        self._url = f"ws://127.0.0.1:{port}/v1"
        self._token = token
        self.deltas = 0

    async def one(self, until: float) -> None:
        """One connection that asks again and again."""
        async with websockets.connect(self._url, max_size=None, compression=None, ping_interval=None) as socket:
            await socket.send(_hello(self._token))
            while time.monotonic() < until:
                request = uuid.uuid4().hex
                command = {"type": "request.create", "request_id": request, "conversation_id": request}
                await socket.send(json.dumps({**command, "input": "go on"}))
                if not await self._read(socket, until):
                    return

    async def _read(self, socket: websockets.ClientConnection, until: float) -> bool:
        async for data in socket:
            # Counting substrings costs the client little; the server's messages hold the word once each.
            text = data if isinstance(data, str) else data.decode()
            if '"output_text.delta"' in text:
                self.deltas += text.count('"output_text.delta"')
            elif '"terminal":true' in text:
                return True
            if time.monotonic() > until:
                return False
        return False


async def _streams(port: int, token: str, count: int, seconds: float) -> None:
    until = time.monotonic() + seconds
    streams = Streams(port, token)
    tasks = [asyncio.create_task(streams.one(until)) for _ in range(count)]
    while time.monotonic() < until:
        await asyncio.sleep(1)
        print(streams.deltas, flush=True)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _idle(port: int, token: str, count: int) -> None:
    url = f"ws://127.0.0.1:{port}/v1"
    sockets = []
    for number in range(count):
        socket = await websockets.connect(url, compression=None, ping_interval=None)
        sockets.append(socket)
        await socket.send(_hello(token))
        await socket.recv()
        if token != "-":
            await socket.send(json.dumps({"type": "conversation.open", "conversation_id": f"idle-{number}"}))
            await socket.recv()  # the answer
            await socket.recv()  # the snapshot
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    kind, where, secret, number = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    if kind == "streams":
        uvloop.run(_streams(where, secret, number, float(sys.argv[5])))
    else:
        uvloop.run(_idle(where, secret, number))
