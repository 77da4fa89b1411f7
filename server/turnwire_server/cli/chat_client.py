"""The connection behind `turnwire chat`: one socket at a time, taken up again from the cursor when it is lost.

Commands that were not answered are sent again on the next connection; their request ids make that safe. Everything
received goes into the fold, and the view is told after each frame.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from typing import Any, Protocol, Self

import websockets
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from turnwire_protocol import JSON, ConversationFold, FoldError, event_from_wire
from turnwire_server import __version__

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 20.0
_HELLO_S = 10.0
_SUBPROTOCOLS = [websockets.Subprotocol(JSON.name)]
# Closes below this may come back by themselves (SPEC section 8).
_TERMINAL_CODES = 4500
_ENDED = ("completed", "cancelled", "interrupted", "merged", "incomplete", "failed")


class Refused(Exception):
    """The server said no; the text says why."""


class Watcher(Protocol):
    """Told what happens."""

    def frame(self, fold: ConversationFold, messages: list[dict[str, Any]]) -> None: ...

    def connection(self, text: str) -> None: ...

    def ended(self, request_id: str, state: str, message: dict[str, Any] | None) -> None: ...


class ChatClient:
    """Use as a context manager; entering connects."""

    def __init__(self, url: str, token: str | None, watcher: Watcher) -> None:
        self._url = url
        self._token = token
        self._watcher = watcher
        self._socket: websockets.ClientConnection | None = None
        self._waiting: dict[str, tuple[dict[str, Any], asyncio.Future[dict[str, Any]]]] = {}
        self._ends: dict[str, asyncio.Future[bool]] = {}
        self._marks = itertools.count(1)
        self._fold: ConversationFold | None = None
        self._conversation: str | None = None
        self._task: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None]

    async def __aenter__(self) -> Self:
        self._ready = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run())
        await self._ready
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def follow(self, conversation_id: str) -> None:
        """Open the conversation, making it when there is none."""
        if self._conversation != conversation_id:
            self._conversation = conversation_id
            await self._call({"type": "conversation.open", "conversation_id": conversation_id})

    async def resume(self, request_id: str) -> str:
        """Follow the conversation of a request; returns its id. What has ended already is told to the watcher whole."""
        self._end_of(request_id)
        answer = await self._call({"type": "request.resume", "request_id": request_id})
        self._conversation = str(answer["conversation_id"])
        if answer["state"] in _ENDED:
            # The snapshot that follows need not reach back to it.
            message = await self._message(self._conversation, answer.get("message_id"))
            self._watcher.ended(request_id, answer["state"], message)
            self._settle(request_id, answer["state"] == "completed")
        return self._conversation

    async def create(self, request_id: str, conversation_id: str, text: str) -> None:
        """Start a turn."""
        self._end_of(request_id)
        command = {"type": "request.create", "request_id": request_id, "conversation_id": conversation_id}
        await self._call({**command, "input": text})

    async def cancel(self, request_id: str) -> None:
        """Cancel a turn; its end is told by `ended`."""
        with contextlib.suppress(Refused):
            await self._call({"type": "request.cancel", "request_id": request_id})

    async def ended(self, request_id: str) -> bool:
        """Wait for the end of a turn: True when it completed."""
        return await self._end_of(request_id)

    async def _message(self, conversation_id: str, message_id: str | None) -> dict[str, Any] | None:
        if message_id is None:
            return None
        command = {"type": "conversation.history", "conversation_id": conversation_id, "leaf": message_id, "limit": 1}
        items = (await self._call(command))["items"]
        return items[0] if items else None

    # --- inside --------------------------------------------------------------------------------------------

    def _end_of(self, request_id: str) -> asyncio.Future[bool]:
        return self._ends.setdefault(request_id, asyncio.get_running_loop().create_future())

    def _settle(self, request_id: str, well: bool) -> None:
        end = self._end_of(request_id)
        if not end.done():
            end.set_result(well)

    async def _call(self, command: dict[str, Any]) -> dict[str, Any]:
        mark = f"m{next(self._marks)}"
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[mark] = ({**command, "id": mark}, future)
        await self._send(self._waiting[mark][0])
        answer = await future
        if answer["type"] == "error":
            raise Refused(f"{answer['message']} ({answer['code']})")
        return answer

    async def _send(self, command: dict[str, Any]) -> None:
        if self._socket is not None:
            with contextlib.suppress(ConnectionClosed):  # sent again on the next connection
                await self._socket.send(JSON.encode(command).decode())

    async def _run(self) -> None:
        pause = _FIRST_PAUSE_S
        try:
            while True:
                try:
                    async with websockets.connect(self._url, subprotocols=_SUBPROTOCOLS) as socket:
                        heartbeat_s = await self._greet(socket)
                        pause = _FIRST_PAUSE_S
                        pings = asyncio.create_task(self._keep_alive(socket, heartbeat_s))
                        try:
                            async for data in socket:
                                self._received(data)
                        finally:
                            pings.cancel()
                    self._lost(socket.close_code, socket.close_reason)
                except ConnectionClosed as error:
                    closed = error.rcvd
                    self._lost(closed.code if closed else None, closed.reason if closed else None)
                except InvalidURI:
                    raise Refused(f"{self._url} is no WebSocket address; it begins with ws:// or wss://") from None
                except (OSError, InvalidHandshake, TimeoutError) as error:
                    if not self._ready.done():
                        raise Refused(f"no server at {self._url}: {error or 'it does not answer'}") from None
                self._socket = None
                delay = random.uniform(0, pause)  # noqa: S311 - jitter
                self._watcher.connection(f"connection lost; trying again in {delay:.1f} s")
                await asyncio.sleep(delay)
                pause = min(pause * 2, _LONGEST_PAUSE_S)
        except Refused as error:
            self._fail(error)

    async def _keep_alive(self, socket: websockets.ClientConnection, heartbeat_s: float) -> None:
        """People think for longer than a server waits for a sign of life (SPEC section 2)."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                await asyncio.sleep(heartbeat_s)
                await socket.send(JSON.encode({"type": "ping"}).decode())

    async def _greet(self, socket: websockets.ClientConnection) -> float:
        """Say hello, and again what was not answered; returns the server's heartbeat."""
        hello: dict[str, Any] = {"type": "hello", "client": {"name": "turnwire-chat", "version": __version__}}
        if self._token:
            hello["token"] = self._token
        if self._conversation is not None:
            entry: dict[str, Any] = {"conversation_id": self._conversation}
            if self._fold is not None:
                entry["since"] = {"epoch": self._fold.epoch, "seq": self._fold.seq}
            hello["resume"] = [entry]
        await socket.send(JSON.encode(hello).decode())
        async with asyncio.timeout(_HELLO_S):
            welcome = JSON.decode(await socket.recv())[0]
        if not isinstance(welcome, dict) or welcome["type"] != "welcome":
            said = welcome.get("message", "") if isinstance(welcome, dict) else ""
            raise Refused(f"the server refuses: {said}")
        self._socket = socket
        if not self._ready.done():
            self._ready.set_result(None)
        elif self._conversation is not None:
            self._watcher.connection("connected again")
        for command, _ in list(self._waiting.values()):
            await socket.send(JSON.encode(command).decode())
        return float(welcome["heartbeat_s"])

    def _lost(self, code: int | None, reason: str | None) -> None:
        if code is not None and code >= _TERMINAL_CODES:
            raise Refused(f"the server closed the connection: {reason or code}")
        if code == 4401:
            raise Refused("the token has expired; get a new one and come back")

    def _received(self, data: str | bytes) -> None:
        messages = [message for message in JSON.decode(data) if isinstance(message, dict)]
        for message in messages:
            self._placed(message)
            waiting = self._waiting.pop(message.get("ref", ""), None)
            if waiting is not None and not waiting[1].done():
                waiting[1].set_result(message)
        events = [event_from_wire(message) for message in messages if self._is_ours(message)]
        if not events:
            return
        self._fold = self._fold or ConversationFold()
        try:
            self._fold.apply_frame(events)
        except FoldError:
            reopen = {"type": "conversation.leave", "conversation_id": self._conversation}
            again = {"type": "conversation.open", "conversation_id": self._conversation}
            for command in (reopen, again):
                asyncio.ensure_future(self._send(command))  # noqa: RUF006 - nothing waits for these two
            return
        self._watcher.frame(self._fold, messages)
        for message in messages:
            if message.get("terminal"):
                self._settle(message["request_id"], message["type"] == "message.completed")
            elif message["type"] == "conversation.snapshot":
                self._settle_those_gone()

    def _settle_those_gone(self) -> None:
        """After a snapshot: requests that are no longer active have ended while we were away."""
        assert self._fold is not None, "just folded"
        done = {m.request_id: m.status for m in self._fold.messages.values() if m.role == "assistant"}
        for request_id in list(self._ends):
            if request_id in done and request_id not in self._fold.active:
                self._settle(request_id, done[request_id] == "complete")

    def _placed(self, message: dict[str, Any]) -> None:
        """An answer that says where we stand: with `live` the fold begins there."""
        if message.get("verdict") == "live" and (self._fold is None or self._fold.epoch != message["epoch"]):
            self._fold = ConversationFold(message["epoch"], message["seq"])

    def _is_ours(self, message: dict[str, Any]) -> bool:
        is_event = message["type"] == "conversation.snapshot" or ("seq" in message and "ref" not in message)
        return is_event and message.get("conversation_id") == self._conversation

    def _fail(self, error: Refused) -> None:
        futures: list[asyncio.Future[Any]] = [self._ready, *(future for _, future in self._waiting.values())]
        for future in (*futures, *self._ends.values()):
            if not future.done():
                future.set_exception(error)
