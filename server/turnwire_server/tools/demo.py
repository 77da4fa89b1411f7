"""The two tools of the demonstration model, which is offered them and nothing else."""

from __future__ import annotations

import asyncio
import datetime
from typing import Annotated, Any

from pydantic import Field

from .context import ToolContext
from .declare import declared, tool
from .registry import Tool


@tool(name="demo_clock", side_effect=False, interruptible=True)
async def _clock() -> dict[str, Any]:
    """Tells the time in UTC."""
    return {"utc": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}


@tool(name="demo_countdown", side_effect=False, interruptible=True)
async def _countdown(context: ToolContext, seconds: Annotated[int, Field(ge=1, le=10)] = 3) -> dict[str, Any]:
    """Counts some seconds down and reports its progress."""
    for left in range(seconds, 0, -1):
        context.progress((seconds - left) / seconds, f"{left} …")
        await asyncio.sleep(1)
    return {"counted": seconds}


def _all() -> tuple[Tool, ...]:
    found = (declared(_clock), declared(_countdown))
    assert all(found), "declared above"
    return tuple(each for each in found if each is not None)


DEMO_TOOLS = _all()
