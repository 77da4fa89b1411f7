"""How a call ends, whatever its tool does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from tests.server.tools.kit import a_call, an_executor, made, run

from turnwire_server.tools import ToolContext, ToolError, tool
from turnwire_server.tools.context import idempotency_key
from turnwire_server.tools.executor import ToolResult, parse_arguments
from turnwire_server.tools.registry import Tool


@tool(side_effect=False)
async def double(context: ToolContext, number: int) -> dict[str, Any]:
    """Doubles."""
    context.progress(0.5, "half")
    return {"doubled": 2 * number}


@tool(side_effect=False)
def double_in_thread(context: ToolContext, number: int) -> dict[str, Any]:
    """Doubles."""
    context.progress(0.5, threading.current_thread().name)
    return {"doubled": 2 * number}


@pytest.mark.parametrize("function", [double, double_in_thread])
async def test_a_call_completes_with_what_the_tool_returned(function: Callable[..., Any]) -> None:
    seen: list[Any] = []
    async with an_executor() as executor:
        call = a_call(function, {"number": 2}, progress=lambda *report: seen.append(report))
        result = await executor.run(call)
    assert (result.outcome, result.output) == ("completed", {"doubled": 4})
    assert call.result is result
    assert seen == [(0.5, "half" if function is double else "tool double_in_thread")]


async def test_the_tool_is_begun_only_when_it_can_run() -> None:
    begun: list[int] = []

    async def begin() -> None:
        begun.append(1)

    async with an_executor() as executor:
        result = await executor.run(a_call(double, {"number": "x"}, begin=begin))
        assert (result.outcome, begun) == ("never_started", [])
        assert "number: Input should be a valid integer" in result.error
        await executor.run(a_call(double, {"number": 1}, begin=begin))
    assert begun == [1]


async def test_what_begin_raises_passes_through_and_the_tool_is_not_run() -> None:
    ran: list[int] = []

    @tool
    async def act() -> None:
        """Acts."""
        ran.append(1)

    async def lost() -> None:
        raise LookupError("not ours")

    async with an_executor(tool_threads=1) as executor:
        call = a_call(act, begin=lost)
        with pytest.raises(LookupError):
            await executor.run(call)
    assert not ran
    assert call.result is not None


async def test_the_key_is_the_same_for_every_run_of_a_call_and_for_no_other() -> None:
    keys: list[str] = []

    @tool
    async def remember(context: ToolContext) -> str:
        """Remembers."""
        keys.append(context.idempotency_key)
        return context.idempotency_key

    async with an_executor() as executor:
        await executor.run(a_call(remember))
        await executor.run(a_call(remember))
        for more in ({"call_id": "call-2"}, {"request_id": "req-2"}, {"tenant_id": "other"}):
            await executor.run(a_call(remember, **more))
        await executor.run(a_call(remember, user_id="bob"))
    assert keys[0] == keys[1] == keys[5] == idempotency_key("acme", "req-1", "call-1")
    assert len(set(keys)) == 4
    assert idempotency_key("a", "b:c", "d") != idempotency_key("a:b", "c", "d")


def raising(error: BaseException) -> list[Callable[..., Any]]:
    @tool
    async def in_loop() -> None:
        """Raises."""
        raise error

    @tool
    def in_thread() -> None:
        """Raises."""
        raise error

    return [in_loop, in_thread]


class Unreadable(ToolError):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ToolError("no such customer"), "no such customer"),
        (ToolError(""), "the tool failed"),
        (ToolError("x" * 100_000), "[cut: 100000 characters in all]"),
        (Unreadable(), "details are in the server's log"),
        (ValueError("password=hunter2"), "details are in the server's log"),
        (TimeoutError(), "could not reach what it needs"),
        (ConnectionResetError("host 10.0.0.1"), "could not reach what it needs"),
        (SystemExit(1), "details are in the server's log"),
        (KeyboardInterrupt(), "details are in the server's log"),
        (GeneratorExit(), "details are in the server's log"),
        (BaseException("odd"), "details are in the server's log"),
        (BaseExceptionGroup("some", [SystemExit(1)]), "details are in the server's log"),
        (asyncio.CancelledError(), "details are in the server's log"),
        (StopIteration(1), "details are in the server's log"),
        (RecursionError(), "details are in the server's log"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
async def test_whatever_a_tool_raises_is_a_failure(error: BaseException, told: str) -> None:
    for function in raising(error):
        result = await run(function)
        assert result.outcome == "failed"
        assert told in result.error
        assert "hunter2" not in result.error
        assert len(result.error) < 5000


async def test_a_tool_that_cancels_itself_has_failed() -> None:
    @tool
    async def stray() -> None:
        """Cancels the task it runs in."""
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    assert (await run(stray)).outcome == "failed"


async def test_a_tool_with_cancel_scopes_of_its_own_works() -> None:
    @tool
    async def scoped() -> str:
        """Uses anyio."""
        with anyio.move_on_after(0):
            await anyio.sleep_forever()
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 0)
        return "fine"

    assert (await run(scoped)).output == "fine"


async def test_a_result_that_is_too_large_is_cut_or_refused() -> None:
    @tool
    async def much(as_text: bool) -> Any:
        """Returns much."""
        return "x" * 10_000 if as_text else ["x"] * 10_000

    cut = await run(much, {"as_text": True}, tool_output_bytes=1000)
    assert cut.outcome == "completed"
    assert cut.output.endswith("[cut: 10000 characters in all]")
    refused = await run(much, {"as_text": False}, tool_output_bytes=1000)
    assert refused.outcome == "failed"
    assert "larger than the 1000 bytes" in refused.error


class Hostile(dict[str, Any]):
    def values(self) -> Any:
        raise RuntimeError("do not look")


async def test_a_result_that_cannot_even_be_looked_at_is_a_failure() -> None:
    @tool
    async def odd() -> Any:
        """Returns something odd."""
        return Hostile(a=1)

    result = await run(odd)
    assert result.outcome == "failed"
    assert "no JSON" in result.error


async def test_figures_are_told_of_every_end() -> None:
    ended: list[tuple[Tool, ToolResult]] = []
    async with an_executor() as executor:
        executor._ended = lambda tool, result: ended.append((tool, result))
        await executor.run(a_call(double, {"number": 1}))
        await executor.run(a_call(double))
    assert [(tool.name, result.outcome) for tool, result in ended] == [
        ("double", "completed"),
        ("double", "never_started"),
    ]


@pytest.mark.parametrize(("text", "arguments"), [("", {}), ('{"a":1}', {"a": 1})])
def test_arguments_are_an_object(text: str, arguments: dict[str, Any]) -> None:
    assert parse_arguments(text) == arguments


@pytest.mark.parametrize("text", ["[1]", "{", "nil", "1"])
def test_other_arguments_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="arguments"):
        parse_arguments(text)


def test_a_tool_shows_what_it_is() -> None:
    assert repr(made(double)) == f"<Tool double server {__name__}.double>"
