"""Tools for tests, as a user would declare them. What they do to the world are lines in the file that
`TURNWIRE_TEST_EFFECTS` names; a gate stops them where a test wants it (in the test's own process)."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

from turnwire_server.tools import RetryableToolError, ToolContext, ToolError, tool

GATES: dict[str, asyncio.Event] = {}
REACHED: dict[str, int] = {}


def effects() -> list[str]:
    path = Path(os.environ["TURNWIRE_TEST_EFFECTS"])
    return path.read_text().splitlines() if path.exists() else []


def _effect(line: str) -> None:
    with Path(os.environ["TURNWIRE_TEST_EFFECTS"]).open("a") as file:
        file.write(line + "\n")


async def _pass(name: str) -> None:
    """Wait at the gate of this name, if a test has put one up; for ever in another process, when it is asked for."""
    REACHED[name] = REACHED.get(name, 0) + 1
    if name in GATES:
        await GATES[name].wait()


@tool(side_effect=False, interruptible=True)
async def look(item: str) -> dict[str, str]:
    """Looks at an item."""
    await _pass(f"look {item}")
    return {"item": item}


@tool(side_effect=False, interruptible=True)
async def count(context: ToolContext, seconds: int = 30) -> int:
    """Counts seconds."""
    for passed in range(seconds):
        context.progress(passed / seconds, f"{passed} of {seconds}")
        await asyncio.sleep(1)
    return seconds


@tool()
async def charge(context: ToolContext, amount: int) -> dict[str, Any]:
    """Charges the customer."""
    _effect(f"charge {amount}")
    await _pass("charge")
    return {"charged": amount}


@tool()
async def charge_for_ever(amount: int) -> None:
    """Charges, and does not come back."""
    _effect(f"charge {amount}")
    await asyncio.sleep(3600)


@tool(idempotent=True)
async def save(context: ToolContext, text: str) -> str:
    """Saves a text; the first try of each call takes for ever."""
    is_first = not any(context.idempotency_key in line for line in effects())
    _effect(f"save {text} {context.idempotency_key}")
    if is_first:
        await asyncio.sleep(3600)
    return "saved"


@tool(approval="always")
async def refund(amount: int) -> dict[str, int]:
    """Gives money back."""
    _effect(f"refund {amount}")
    return {"refunded": amount}


@tool(approval="always", approval_timeout_s=1)
async def refund_soon(amount: int) -> dict[str, int]:
    """Gives money back, if somebody agrees at once."""
    _effect(f"refund {amount}")
    return {"refunded": amount}


@tool(side_effect=False, interruptible=True, timeout_s=0.2)
async def hang() -> None:
    """Does not come back in time."""
    await asyncio.sleep(3600)


@tool(side_effect=False, interruptible=True)
async def ignore_cancel() -> None:
    """Does not stop when it is told to."""
    for _ in range(3600):
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            await _pass("ignored")


@tool(side_effect=False)
async def flood(context: ToolContext) -> str:
    """Reports far too much."""
    for number in range(100_000):
        context.progress(number / 100_000, f"number {number}")
        if number % 1000 == 0:
            await asyncio.sleep(0)
    return "done"


@tool(side_effect=False)
async def big() -> dict[str, str]:
    """Returns far too much."""
    return {"much": "x" * 50_000_000}


@tool(side_effect=False)
async def leave() -> None:
    """Wants to end the process."""
    sys.exit(3)


@tool(side_effect=False, retries=2)
async def shaky() -> str:
    """Succeeds at the third try."""
    REACHED["shaky"] = REACHED.get("shaky", 0) + 1
    if REACHED["shaky"] % 3:
        raise RetryableToolError("not yet")
    return "at last"


@tool(side_effect=False)
def refuse(reason: str) -> None:
    """Cannot do it."""
    time.sleep(0.01)  # in a thread
    raise ToolError(reason)
