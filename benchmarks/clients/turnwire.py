"""Turnwire's client: each stream is a user of its own, with a token and a conversation."""

from __future__ import annotations

from typing import Any

import orjson
from websockets.asyncio.client import ClientConnection

from benchmarks.clients.client import Frames, ServerError, send, websocket
from benchmarks.secret import SECRET
from turnwire_server.auth import make_token


class Turnwire:
    def __init__(self, url: str) -> None:
        self._url = url

    async def stream(self, number: int) -> Frames:
        async with websocket(self._url) as socket:
            await hello(socket, number)
            create = {"type": "request.create", "request_id": f"r-{number}", "conversation_id": f"c-{number}"}
            await call(socket, "ack", {**create, "input": "Write on and on."})
            async for data in socket:
                if texts := _texts(data):
                    yield texts

    async def prepare(self, count: int) -> None:
        async with websocket(self._url) as socket:
            await hello(socket, 0)
            for number in range(count):
                await call(socket, "conversation.opened", _open(number))
                await call(socket, "ack", {"type": "conversation.leave", "conversation_id": f"idle-{number}"})

    async def idle(self, number: int) -> ClientConnection:
        socket = await websocket(self._url)
        await hello(socket, 0)
        await call(socket, "conversation.opened", _open(number))
        return socket


def messages(data: str | bytes) -> list[dict[str, Any]]:
    """What a frame holds."""
    frame = orjson.loads(data)
    return frame if isinstance(frame, list) else [frame]


def _texts(data: str | bytes) -> list[str]:
    texts: list[str] = []
    for message in messages(data):
        if message["type"] == "output_text.delta":
            texts.append(message["text"])
        elif message["type"] == "error" or message.get("terminal"):
            raise ServerError(f"the server said {message}")
    return texts


def _open(number: int) -> dict[str, Any]:
    return {"type": "conversation.open", "conversation_id": f"idle-{number}"}


async def hello(socket: ClientConnection, user: int) -> None:
    """Say who is there: the user with this number."""
    token = make_token(SECRET, f"user-{user}", "bench")
    await call(socket, "welcome", {"type": "hello", "token": token})


async def call(socket: ClientConnection, answer: str, command: dict[str, Any]) -> dict[str, Any]:
    """Send a command and wait for its answer, of this type; what comes before it is dropped. Raises `ServerError`."""
    await send(socket, command)
    while True:
        for message in messages(await socket.recv()):
            if message["type"] == answer:
                return message
            if message["type"] == "error":
                raise ServerError(f"the server said {message}")
