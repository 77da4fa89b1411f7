"""Tools that run on the server: what a model may call, and what may be assumed of each. Pure but for the tools.

A tool is an async function of its arguments and a `Progress`. Whether it changes the world decides what happens
after a crash: one without side effects, or that is idempotent, runs again; any other does not, and the model is
told that its effect is unknown. This version ships the two tools of the demonstration model.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

Progress = Callable[[float | None, str | None], None]
"""Reports how far a tool is: a fraction from 0 to 1, a message for people, or both."""


class ToolError(Exception):
    """The tool could not do it; the text is told to the model and shown to the user."""


@dataclass(frozen=True, slots=True)
class Tool:
    """``parameters`` is the JSON Schema of ``run``'s arguments."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    run: Callable[[dict[str, Any], Progress], Awaitable[Any]]
    side_effect: bool = True
    idempotent: bool = False
    interruptible: bool = False

    @property
    def may_run_again(self) -> bool:
        """Whether a run that was lost with its node may be repeated."""
        return self.idempotent or not self.side_effect

    def offer(self) -> dict[str, Any]:
        """The tool in the format of OpenAI."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


async def _clock(arguments: dict[str, Any], progress: Progress) -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC)
    return {"utc": now.isoformat(timespec="seconds")}


async def _countdown(arguments: dict[str, Any], progress: Progress) -> dict[str, Any]:
    seconds = arguments.get("seconds", 3)
    if not isinstance(seconds, int) or not 1 <= seconds <= 10:
        raise ToolError("'seconds' must be a whole number from 1 to 10")
    for left in range(seconds, 0, -1):
        progress((seconds - left) / seconds, f"{left} …")
        await asyncio.sleep(1)
    return {"counted": seconds}


DEMO_TOOLS = (
    Tool(
        "demo_clock",
        "Tells the time in UTC.",
        {"type": "object", "properties": {}, "additionalProperties": False},
        _clock,
        side_effect=False,
        interruptible=True,
    ),
    Tool(
        "demo_countdown",
        "Counts some seconds down and reports its progress.",
        {"type": "object", "properties": {"seconds": {"type": "integer", "minimum": 1, "maximum": 10}}},
        _countdown,
        side_effect=False,
        interruptible=True,
    ),
)
"""Offered to the demonstration model only."""
