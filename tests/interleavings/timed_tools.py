"""Tools that take time, and what they did; loaded by the server as a user's module is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from turnwire_server.tools import ToolContext, tool


@dataclass
class Run:
    """One run. ``how``: None while it runs, `returned`, or `stopped`."""

    call_id: str
    request_id: str
    name: str
    began: float
    ended: float | None = None
    how: str | None = None


RUNS: list[Run] = []


async def _record(context: ToolContext, name: str, work: Callable[[], Awaitable[Any]]) -> dict[str, str]:
    loop = asyncio.get_running_loop()
    run = Run(context.call_id, context.request_id, name, loop.time())
    RUNS.append(run)
    try:
        await work()
        run.how = "returned"
    except asyncio.CancelledError:
        run.how = "stopped"
        raise
    finally:
        run.ended = loop.time()
    return {"done": context.call_id}


@tool(side_effect=False, interruptible=True)
async def look(context: ToolContext, seconds: float) -> dict[str, str]:
    """Looks."""
    return await _record(context, "look", lambda: asyncio.sleep(seconds))


@tool()
async def charge(context: ToolContext, seconds: float) -> dict[str, str]:
    """Charges the customer."""
    return await _record(context, "charge", lambda: asyncio.sleep(seconds))


@tool(approval="always")
async def refund(context: ToolContext, seconds: float) -> dict[str, str]:
    """Gives money back."""
    return await _record(context, "refund", lambda: asyncio.sleep(seconds))


@tool(side_effect=False, interruptible=True)
async def stubborn(context: ToolContext, seconds: float) -> dict[str, str]:
    """Takes its time, whatever it is told."""

    async def work() -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while loop.time() < until:
            try:
                await asyncio.sleep(until - loop.time())
            except asyncio.CancelledError:
                continue

    return await _record(context, "stubborn", work)
