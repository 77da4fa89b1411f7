"""An executor and calls for tests: short limits, and a call that needs only its tool and arguments."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from turnwire_server.settings import Limits
from turnwire_server.tools.declare import declared
from turnwire_server.tools.executor import ToolCall, ToolExecutor, ToolResult
from turnwire_server.tools.registry import Tool, ToolRegistry


class NoJitter:
    """In place of a random number: no time at all."""

    def uniform(self, low: float, high: float) -> float:
        return low


@asynccontextmanager
async def an_executor(**limits: Any) -> AsyncIterator[ToolExecutor]:
    settings = Limits(**{"tool_cancel_grace_s": 0.05, "tool_queue_s": 0.05, **limits})
    executor = ToolExecutor(ToolRegistry(), settings, rng=NoJitter())  # type: ignore[arg-type]
    try:
        yield executor
    finally:
        await executor.aclose()


def made(function: Callable[..., Any]) -> Tool:
    """The tool that `@tool` made of the function."""
    found = declared(function)
    assert found is not None
    return found


def a_call(function: Callable[..., Any] | Tool, arguments: dict[str, Any] | None = None, **more: Any) -> ToolCall:
    ids = {
        "tenant_id": "acme",
        "user_id": "alice",
        "conversation_id": "talk",
        "request_id": "req-1",
        "call_id": "call-1",
    }
    chosen = function if isinstance(function, Tool) else made(function)
    return ToolCall(tool=chosen, arguments=arguments or {}, **{**ids, **more})


async def run(function: Callable[..., Any], arguments: dict[str, Any] | None = None, **limits: Any) -> ToolResult:
    async with an_executor(**limits) as executor:
        return await executor.run(a_call(function, arguments))


async def until(holds: Callable[[], bool], wait: Callable[[float], Awaitable[None]]) -> None:
    """Poll, for what no event tells of; inside a `fail_after`."""
    while not holds():
        await wait(0.005)
