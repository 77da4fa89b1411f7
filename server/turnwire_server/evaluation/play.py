"""Plays a case against a running server, over a WebSocket, as a front end would.

A turn is created, watched, disturbed at the moments its case names, and read from the stored history once it has
ended: what is judged is what the server keeps and what the next prompt is made of. Whatever goes wrong is a `fault` of
the turn; only a cancelled evaluation leaves by an exception.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from websockets.exceptions import WebSocketException

from turnwire_protocol import FoldError

from .client import Client, Refused
from .suite import Case, Moment, Turn

_GIVE_UP_S = 5.0
_ENDINGS = ("completed", "cancelled", "interrupted", "merged", "incomplete", "failed")


@dataclass(slots=True)
class Played:
    """What came of a turn."""

    text: str = ""
    """The stored answer."""
    ending: str | None = None
    seconds: float = 0.0
    """From the request to its end."""
    first_token_s: float | None = None
    tokens: int | None = None
    """Output tokens."""
    cost_usd: float | None = None
    tools: list[str] = field(default_factory=list)
    """Names of the tools that were called, in order."""
    reconnects: int = 0
    """Connections that were lost and taken up again in the turn."""
    fault: str | None = None
    """Why the turn was not played to its end."""


async def play_case(url: str, case: Case, limit_s: float) -> list[Played]:
    """Each turn of the case; after one with a fault the rest is not played. At most `limit_s` a turn."""
    conversation_id = f"eval-{uuid.uuid4().hex}"
    played: list[Played] = []
    async with AsyncExitStack() as stack:
        client: Client | None = None
        for turn in case.turns:
            result = Played()
            played.append(result)
            began = time.monotonic()
            try:
                async with asyncio.timeout(limit_s):
                    if client is None:
                        client = await stack.enter_async_context(Client(url, conversation_id))
                    await _Play(client, conversation_id, turn, result).run()
            except TimeoutError:
                result.fault = f"no end within {limit_s:g} s"
            except (Refused, FoldError, WebSocketException, OSError) as error:
                result.fault = str(error) or type(error).__name__
            if result.fault:
                result.seconds = time.monotonic() - began
                if client is not None:
                    await _give_up(client)
                break
    return played


async def _give_up(client: Client) -> None:
    """Cancel what still runs, so that it takes nothing from the next case."""
    with contextlib.suppress(TimeoutError, Refused, FoldError, WebSocketException, OSError):
        async with asyncio.timeout(_GIVE_UP_S):
            for request_id in list(client.fold.active if client.fold else ()):
                await client.call({"type": "request.cancel", "request_id": request_id})


async def ask(url: str, text: str, route: str | None, limit_s: float) -> Played:
    """One question in a conversation of its own, as a judge is asked."""
    (played,) = await play_case(url, Case(name="question", turns=(Turn(say=text, route=route),)), limit_s)
    return played


class _Play:
    """One turn."""

    def __init__(self, client: Client, conversation_id: str, turn: Turn, result: Played) -> None:
        self._client = client
        self._conversation_id = conversation_id
        self._request_id = f"req-{uuid.uuid4().hex}"
        self._turn = turn
        self._result = result
        self._seen = len(client.events)
        self._shown = 0
        self._state: str | None = None
        """The ending, when it was told by an answer and not by an event."""

    async def run(self) -> None:
        began = time.monotonic()
        await self._client.call(self._create())
        ways = {"reconnect_after": self._reconnect, "interrupt_after": self._interrupt, "cancel_after": self._cancel}
        due = {name: way for name, way in ways.items() if getattr(self._turn, name) is not None}
        while True:
            await self._take_in(began)
            if self._result.ending is not None:
                break
            for name in [name for name in due if self._has_come(getattr(self._turn, name))]:
                await due.pop(name)()
                await self._take_in(began)
            if self._result.ending is None and len(self._client.events) == self._seen:
                await self._client.read()
        self._result.seconds = time.monotonic() - began
        if due:
            self._result.fault = f"ended before {', '.join(due)}: {self._shown} characters were shown"
        await self._read_stored()

    def _create(self) -> dict[str, Any]:
        command: dict[str, Any] = {"type": "request.create", "request_id": self._request_id}
        command |= {"conversation_id": self._conversation_id, "input": self._turn.say}
        if self._turn.route is not None:
            command["route"] = self._turn.route
        if self._turn.variables:
            command["variables"] = self._turn.variables
        if self._turn.tools:
            command["tools"] = [
                {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
                for tool in self._turn.tools
            ]
        return command

    def _has_come(self, moment: Moment) -> bool:
        return self._shown >= (1 if moment == "first_token" else moment)

    async def _take_in(self, began: float) -> None:
        """Whatever was told since the last time; tools are answered as they are called."""
        while self._seen < len(self._client.events):
            event = self._client.events[self._seen]
            self._seen += 1
            if event.get("request_id") != self._request_id:
                continue
            kind = event["type"]
            if kind == "output_text.delta":
                self._shown = max(self._shown, event["offset"] + len(event["text"]))
                if self._result.first_token_s is None:
                    self._result.first_token_s = time.monotonic() - began
            elif kind == "tool.started":
                self._result.tools.append(event["name"])
            elif kind == "tool.called" and event["where"] == "client":
                await self._answer_tool(event["call_id"])
            elif kind == "usage.completed":
                self._result.tokens = event["output_tokens"]
                self._result.cost_usd = float(event["cost_usd"])
            elif event.get("terminal"):
                self._result.ending = kind.removeprefix("message.")
        if self._result.ending is None and self._state is not None:
            self._result.ending = self._state

    async def _answer_tool(self, call_id: str) -> None:
        name = next(e["name"] for e in self._client.events if e["type"] == "tool.started" and e["call_id"] == call_id)
        tool = next((tool for tool in self._turn.tools if tool.name == name), None)
        if tool is None:
            raise Refused(f"the model called {name}, for which the case has no result")
        about = {"request_id": self._request_id, "call_id": call_id}
        await self._client.call({"type": "tool.claim", **about})
        said = {"output": tool.output} if tool.error is None else {"error": tool.error}
        await self._client.call({"type": "tool.result", **about, **said})

    async def _cancel(self) -> None:
        await self._client.call({"type": "request.cancel", "request_id": self._request_id})

    async def _interrupt(self) -> None:
        command: dict[str, Any] = {"type": "request.interrupt", "request_id": self._request_id}
        if self._turn.presented is not None:
            written = [e for e in self._client.events if e["type"] == "output_text.delta"]
            part = next(e["part"] for e in reversed(written) if e["request_id"] == self._request_id)
            command["presented"] = {"part": part, "offset": self._turn.presented}
        await self._client.call(command)

    async def _reconnect(self) -> None:
        since, before = self._client.since, self._client.connections
        await self._client.cut()
        self._result.reconnects += self._client.connections - before
        command = {"type": "request.resume", "request_id": self._request_id, "since": since}
        answer = await self._client.call(command)
        if answer["verdict"] == "snapshot" and answer["state"] in _ENDINGS:
            self._state = answer["state"]

    async def _read_stored(self) -> None:
        status = await self._client.call({"type": "request.status", "request_id": self._request_id})
        if (message_id := status.get("message_id")) is None:
            return
        command = {"type": "conversation.history", "conversation_id": self._conversation_id, "limit": 1}
        page = await self._client.call({**command, "leaf": message_id})
        if page["items"]:
            parts = page["items"][-1]["parts"]
            self._result.text = "".join(part["text"] for part in parts if part["kind"] == "text")
