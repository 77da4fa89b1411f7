"""What the controlled provider does with one request, written as a list of steps.

    Script.text("Hel", "lo")                      two deltas, then finish "stop", usage, [DONE]
    Script.text("a", Gate(), "b")                 waits between them until the test opens the gate
    Script.text("a", Do.CUT)                      the socket is closed in mid-answer
    Script.text("a", b"data: {broken\\n\\n")        raw bytes as they are
    Script.text("a", finish="length", usage=None)
    Script.http_error(429, "slow down", headers={"retry-after": "7"})

A new behaviour is a new step or a new field of `Script`; `provider.py` carries them out.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Self


class Do(Enum):
    """Steps without a value."""

    STALL = auto()
    """Send nothing more and keep the socket open until the client is gone."""
    CUT = auto()
    """Close the socket without ending the body."""
    RESET = auto()
    """Close the socket with a TCP reset."""
    END = auto()
    """End the body properly, without finish reason, usage and [DONE]."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait; for rates and delays that are themselves the subject of a test, never to line things up."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Delta:
    """A chunk with this `delta`."""

    delta: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Event:
    """A server-sent event with this object as its data."""

    data: dict[str, Any]


class Gate:
    """The provider waits here until the test opens it. One gate may be passed by many requests."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._reached = asyncio.Event()

    def open(self) -> None:
        self._open.set()

    async def reached(self, limit_s: float = 30) -> None:
        """Returns once a request stands before the gate: everything before it has been sent."""
        async with asyncio.timeout(limit_s):
            await self._reached.wait()

    async def pass_through(self) -> None:
        self._reached.set()
        await self._open.wait()


Step = str | bytes | Delta | Event | Gate | Pause | Do
COUNTED = "counted"
"""Usage as a real provider gives it: here one token per word of the prompt and one per text delta."""


@dataclass(slots=True)
class Script:
    """The answer to one request."""

    steps: Sequence[Step] = ()
    finish: str | None = "stop"
    """None: the stream ends without a finish reason."""
    usage: tuple[int, int] | tuple[int, int, int] | str | None = COUNTED
    """(input, output) or (input, output, cached); None: the provider says nothing about usage."""
    done: bool = True
    rate: float | None = None
    """Steps per second; None: as fast as they are read."""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """The whole response body, in place of the steps."""
    silent: bool = False
    """Accept the request and never answer."""

    @classmethod
    def text(cls, *steps: Step, **fields: Any) -> Self:
        return cls(steps, **fields)

    @classmethod
    def words(cls, count: int, **fields: Any) -> Self:
        """`count` deltas `w0 w1 w2 …`, all different, so that lost or doubled ones show."""
        return cls([f"w{n} " for n in range(count)], **fields)

    @classmethod
    def reasoning(cls, *pieces: str, answer: Iterable[Step] = (), **fields: Any) -> Self:
        """Reasoning deltas, then the answer."""
        return cls([*(Delta({"reasoning_content": piece}) for piece in pieces), *answer], **fields)

    @classmethod
    def tool_call(cls, name: str, *arguments: str, call_id: str | None = "call_1", **fields: Any) -> Self:
        """One tool call whose arguments come in the given pieces."""
        return cls(tool_call_steps(name, *arguments, call_id=call_id), finish="tool_calls", **fields)

    @classmethod
    def http_error(cls, status: int, said: str = "", *, headers: dict[str, str] | None = None) -> Self:
        """An error in the shape of OpenAI's."""
        body = json.dumps({"error": {"message": said, "type": "test_error", "code": None}}).encode()
        return cls(status=status, body=body, headers={"content-type": "application/json", **(headers or {})})

    @classmethod
    def error_in_stream(cls, *steps: Step, error: dict[str, Any]) -> Self:
        """Some steps, then an error object where a chunk belongs."""
        return cls([*steps, Event({"error": error}), Do.END])

    @classmethod
    def never_answers(cls) -> Self:
        return cls(silent=True)

    @classmethod
    def stalled_after(cls, *steps: Step) -> Self:
        return cls([*steps, Do.STALL])

    @classmethod
    def cut_after(cls, *steps: Step) -> Self:
        return cls([*steps, Do.CUT])

    @classmethod
    def malformed_after(cls, *steps: Step) -> Self:
        return cls([*steps, b'data: {"choices": [{"delta": {"content": \n\n', Do.STALL])

    @classmethod
    def empty(cls) -> Self:
        """Status 200 and nothing else."""
        return cls(body=b"", headers={"content-type": "text/event-stream"})


def tool_call_steps(name: str, *arguments: str, call_id: str | None = "call_1", index: int = 0) -> list[Step]:
    """The deltas of one tool call, for scripts with several of them."""
    first: dict[str, Any] = {"index": index, "type": "function", "function": {"name": name, "arguments": ""}}
    if call_id is not None:
        first["id"] = call_id
    rest = [{"index": index, "function": {"arguments": piece}} for piece in arguments]
    return [Delta({"tool_calls": [part]}) for part in (first, *rest)]


def utf16_units(text: str) -> list[str]:
    """The text as one str per UTF-16 code unit: astral characters become two lone surrogates."""
    units = text.encode("utf-16-le")
    return [units[n : n + 2].decode("utf-16-le", "surrogatepass") for n in range(0, len(units), 2)]


def echo(body: dict[str, Any]) -> Script:
    """The default: deterministic text that says what was asked, a delta per word."""
    asked = str(body["messages"][-1].get("content", "")) if body.get("messages") else ""
    words = f"You said: {asked}".split(" ")
    return Script([word if n == 0 else f" {word}" for n, word in enumerate(words)])
