"""The client of an evaluation: one WebSocket, the fold of what it was told, and a cut that it comes back from.

It shows what a front end would show, so a case judges what users get. A broken reading rule raises; it is never
repaired by opening again.
"""

from __future__ import annotations

import itertools
from typing import Any, Self

import websockets

from turnwire_protocol import JSON, ConversationFold, event_from_wire
from turnwire_server import __version__

_SUBPROTOCOLS = [websockets.Subprotocol(JSON.name)]


class Refused(Exception):
    """The server answered a command with an error."""


class Client:
    """Of one conversation. Use as a context manager; entering connects. Waits are bounded by the caller."""

    def __init__(self, url: str, conversation_id: str) -> None:
        self._url = url
        self._conversation_id = conversation_id
        self._marks = itertools.count(1)
        self._answers: dict[str, dict[str, Any]] = {}
        self._socket: websockets.ClientConnection
        self.connections = 0
        """How many times the server has welcomed it."""
        self.fold: ConversationFold | None = None
        self.events: list[dict[str, Any]] = []
        """Every event of the conversation, as told; after a cut those that were missed follow once."""

    async def __aenter__(self) -> Self:
        await self._connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._socket.close()

    async def cut(self) -> None:
        """Lose the connection without a word, and connect again. The caller resumes from `since`."""
        self._socket.transport.abort()
        await self._socket.wait_closed()
        self._answers.clear()
        await self._connect()

    @property
    def since(self) -> dict[str, Any]:
        """The cursor: how far this client has been told."""
        assert self.fold is not None, "something is followed before it is resumed"
        return {"epoch": self.fold.epoch, "seq": self.fold.seq}

    async def send(self, command: dict[str, Any]) -> str:
        """Returns the mark that `answer` takes."""
        mark = f"e{next(self._marks)}"
        await self._socket.send(JSON.encode({**command, "id": mark}).decode())
        return mark

    async def call(self, command: dict[str, Any]) -> dict[str, Any]:
        """The answer to a command; raises `Refused` for an error."""
        mark = await self.send(command)
        while mark not in self._answers:
            await self.read()
        answer = self._answers.pop(mark)
        if answer["type"] == "error":
            raise Refused(f"{command['type']} is refused: {answer['message']} ({answer['code']})")
        return answer

    async def read(self) -> None:
        """Take the next frame in."""
        messages = [each for each in JSON.decode(await self._socket.recv()) if isinstance(each, dict)]
        for message in messages:
            if "ref" in message:
                self._answers[message["ref"]] = message
            if message.get("verdict") == "live" and (self.fold is None or self.fold.epoch != message["epoch"]):
                self.fold = ConversationFold(message["epoch"], message["seq"])
        events = [message for message in messages if self._is_event(message)]
        if events:
            self.fold = self.fold or ConversationFold()
            self.fold.apply_frame([event_from_wire(event) for event in events])
            self.events += events

    def _is_event(self, message: dict[str, Any]) -> bool:
        is_event = message["type"] == "conversation.snapshot" or ("seq" in message and "ref" not in message)
        return is_event and message.get("conversation_id") == self._conversation_id

    async def _connect(self) -> None:
        self._socket = await websockets.connect(self._url, subprotocols=_SUBPROTOCOLS, max_size=None)
        client = {"name": "turnwire-eval", "version": __version__, "instance_id": self._conversation_id}
        await self._socket.send(JSON.encode({"type": "hello", "client": client}).decode())
        welcome = JSON.decode(await self._socket.recv())[0]
        if not isinstance(welcome, dict) or welcome["type"] != "welcome":
            raise Refused("the server does not welcome the evaluation")
        self.connections += 1
