"""A small honest client: one WebSocket, what it was sent, and the fold of each conversation it follows.

It checks while it reads: every frame leaves no seq out, answers come once, offsets fit, nothing follows the terminal
event of a request. `await client.call({...})` sends a command and returns its answer; `await client.until(...)` reads
on until a condition holds. All waits are bounded.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import websockets

from turnwire_protocol import JSON, Codec, ConversationFold, codec_for, event_from_wire

WAIT_S = 30.0
Message = dict[str, Any]


class CallError(Exception):
    """The answer to a command was an `error`."""

    def __init__(self, error: Message) -> None:
        super().__init__(f"{error['code']}: {error['message']}")
        self.error = error
        self.code = error["code"]


class Client:
    """Use `connected`. `messages` is everything received, in order, as plain dicts; `frames` the same by frame."""

    def __init__(self, socket: websockets.ClientConnection, codec: Codec) -> None:
        self.socket = socket
        self.codec = codec
        self.welcome: Message = {}
        self.messages: list[Message] = []
        self.frames: list[list[Message]] = []
        self.folds: dict[str, ConversationFold] = {}
        self._answers: dict[str, Message] = {}
        self._marks = itertools.count(1)
        self._ended: set[tuple[str, str]] = set()

    # --- sending -----------------------------------------------------------------------------------------

    async def send(self, *commands: Message) -> None:
        """Send one frame with these commands."""
        await self.send_raw(self.codec.join([self.codec.encode(command) for command in commands]))

    async def send_raw(self, frame: bytes | str) -> None:
        text = isinstance(frame, bytes) and not self.codec.binary
        await self.socket.send(frame.decode() if text and isinstance(frame, bytes) else frame)

    async def call(self, command: Message) -> Message:
        """Send a command and return its answer; raises `CallError` for an error."""
        mark = command.get("id") or f"c{next(self._marks)}"
        await self.send({**command, "id": mark})
        return await self.answer(mark)

    async def answer(self, mark: str) -> Message:
        """The answer that carries this `ref`."""
        await self.until(lambda: mark in self._answers)
        answer = self._answers.pop(mark)
        if answer["type"] == "error":
            raise CallError(answer)
        return answer

    async def create(self, request_id: str, conversation_id: str, text: str, **fields: Any) -> Message:
        return await self.call(
            {
                "type": "request.create",
                "request_id": request_id,
                "conversation_id": conversation_id,
                "input": text,
                **fields,
            }
        )

    async def open(self, conversation_id: str, **fields: Any) -> Message:
        return await self.call({"type": "conversation.open", "conversation_id": conversation_id, **fields})

    async def cancel(self, request_id: str, **fields: Any) -> Message:
        return await self.call({"type": "request.cancel", "request_id": request_id, **fields})

    async def status(self, request_id: str) -> Message:
        return await self.call({"type": "request.status", "request_id": request_id})

    # --- receiving ---------------------------------------------------------------------------------------

    async def read_frame(self, wait_s: float = WAIT_S) -> list[Message]:
        """The next frame, checked and folded."""
        async with asyncio.timeout(wait_s):
            data = await self.socket.recv()
        frame: list[Message] = []
        for message in self.codec.decode(data):
            assert isinstance(message, dict), f"the server sent what cannot be read: {message!r}"
            frame.append(message)
        self.frames.append(frame)
        self.messages.extend(frame)
        for message in frame:
            if "ref" in message:
                assert message["ref"] not in self._answers, f"two answers to {message['ref']}"
                self._answers[message["ref"]] = message
        self._fold(frame)
        return frame

    async def until(self, condition: Callable[[], Any], wait_s: float = WAIT_S) -> None:
        """Read on until `condition()` is true."""
        async with asyncio.timeout(wait_s):
            while not condition():
                await self.read_frame(wait_s)

    async def event(self, kind: str, request_id: str | None = None, wait_s: float = WAIT_S) -> Message:
        """The first message of this type (and request) ever received, reading on until it comes."""

        def found() -> Message | None:
            return next(iter(self.events(kind, request_id)), None)

        await self.until(found, wait_s)
        message = found()
        assert message is not None
        return message

    async def terminal(self, request_id: str, wait_s: float = WAIT_S) -> Message:
        """The terminal event of a request."""

        def found() -> Message | None:
            return next((m for m in self.messages if m.get("terminal") and m["request_id"] == request_id), None)

        await self.until(found, wait_s)
        message = found()
        assert message is not None
        return message

    def events(self, kind: str | None = None, request_id: str | None = None) -> list[Message]:
        """What was received, by type and request."""
        return [
            message
            for message in self.messages
            if (kind is None or message["type"] == kind)
            and (request_id is None or message.get("request_id") == request_id)
        ]

    def text(self, request_id: str) -> str:
        """The text deltas of a request put together, as received (snapshots not counted)."""
        return "".join(message["text"] for message in self.events("output_text.delta", request_id))

    def cursor(self, conversation_id: str) -> Message:
        fold = self.folds[conversation_id]
        return {"epoch": fold.epoch, "seq": fold.seq}

    def _fold(self, frame: list[Message]) -> None:
        by_conversation: dict[str, list[Any]] = {}
        for message in frame:
            conversation_id = message.get("conversation_id")
            if message["type"] in ("conversation.opened", "request.resumed", "ack") and "verdict" in message:
                self._place(message)
            elif message["type"] == "conversation.snapshot" or "seq" in message:
                assert conversation_id is not None
                by_conversation.setdefault(conversation_id, []).append(event_from_wire(message))
                if message.get("terminal"):
                    self._ended.add((conversation_id, message["request_id"]))
        for conversation_id, events in by_conversation.items():
            self.folds.setdefault(conversation_id, ConversationFold()).apply_frame(events)

    def _place(self, answer: Message) -> None:
        """An answer with a verdict: where the fold of its conversation stands now."""
        fold = self.folds.get(answer["conversation_id"])
        if answer["verdict"] == "live" and (fold is None or fold.epoch != answer["epoch"]):
            self.folds[answer["conversation_id"]] = ConversationFold(answer["epoch"], answer["seq"])


AnyClient = TypeVar("AnyClient", bound=Client)


@asynccontextmanager
async def connected(
    url: str,
    *,
    token: str | None = None,
    codec: str | None = JSON.name,
    resume: list[Message] | None = None,
    hello: bool = True,
    before: Client | None = None,
    kind: Callable[[websockets.ClientConnection, Codec], AnyClient] = Client,  # type: ignore[assignment]
    **options: Any,
) -> AsyncIterator[AnyClient]:
    """A client that has said hello and got its welcome.

    With `before` it goes on from what that client had folded, as a reconnecting client does. `kind` makes it.
    """
    subprotocols = None if codec is None else [websockets.Subprotocol(codec)]
    async with websockets.connect(
        url, subprotocols=subprotocols, max_size=None, compression=None, ping_interval=None, close_timeout=1, **options
    ) as socket:
        client = kind(socket, codec_for(socket.subprotocol))
        if before is not None:
            client.folds = before.folds
        if hello:
            command: Message = {"type": "hello", "id": "hello"}
            if token is not None:
                command["token"] = token
            if resume is not None:
                command["resume"] = resume
            await client.send(command)
            client.welcome = await client.answer("hello")
        yield client
