"""Turnwire's client: each stream is a user of its own, with a token and a conversation."""

from __future__ import annotations

from typing import Any

import orjson
from websockets.asyncio.client import ClientConnection

from benchmarks.clients.client import Frames, ServerError, send, websocket
from benchmarks.turnwire_target import SECRET
from turnwire_server.auth import make_token


class Turnwire:
    def __init__(self, url: str) -> None:
        self._url = url

    async def stream(self, number: int) -> Frames:
        async with websocket(self._url) as socket:
            await _hello(socket, number)
            create = {"type": "request.create", "request_id": f"r-{number}", "conversation_id": f"c-{number}"}
            await _call(socket, "ack", {**create, "input": "Write on and on."})
            async for data in socket:
                if texts := _texts(data):
                    yield texts

    async def prepare(self, count: int) -> None:
        async with websocket(self._url) as socket:
            await _hello(socket, 0)
            for number in range(count):
                await _call(socket, "conversation.opened", _open(number))
                await _call(socket, "ack", {"type": "conversation.leave", "conversation_id": f"idle-{number}"})

    async def idle(self, number: int) -> ClientConnection:
        socket = await websocket(self._url)
        await _hello(socket, 0)
        await _call(socket, "conversation.opened", _open(number))
        return socket


def _texts(data: str | bytes) -> list[str]:
    frame = orjson.loads(data)
    texts: list[str] = []
    for message in frame if isinstance(frame, list) else (frame,):
        if message["type"] == "output_text.delta":
            texts.append(message["text"])
        elif message["type"] == "error" or message.get("terminal"):
            raise ServerError(f"the server said {message}")
    return texts


def _open(number: int) -> dict[str, Any]:
    return {"type": "conversation.open", "conversation_id": f"idle-{number}"}


async def _hello(socket: ClientConnection, user: int) -> None:
    token = make_token(SECRET, f"user-{user}", "bench")
    await _call(socket, "welcome", {"type": "hello", "token": token})


async def _call(socket: ClientConnection, answer: str, command: dict[str, Any]) -> None:
    await send(socket, command)
    while True:
        frame = orjson.loads(await socket.recv())
        for message in frame if isinstance(frame, list) else (frame,):
            if message["type"] == answer:
                return
            if message["type"] == "error":
                raise ServerError(f"the server said {message}")
