"""The tools of the demonstration model, which is offered them and nothing else of the server's."""

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


@tool(name="demo_postcard", approval="always", approval_timeout_s=600)
async def _postcard(
    to: Annotated[str, Field(min_length=1, max_length=80)], text: Annotated[str, Field(max_length=500)]
) -> dict[str, Any]:
    """Sends a postcard, or would: it only says so. A person has to approve it."""
    return {"sent_to": to, "words": len(text.split())}


def _all() -> tuple[Tool, ...]:
    found = (declared(_clock), declared(_countdown), declared(_postcard))
    assert all(found), "declared above"
    return tuple(each for each in found if each is not None)


DEMO_TOOLS = _all()
