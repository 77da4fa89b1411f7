"""Time-outs, cancels, tools that ignore both, and the places that they keep."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from tests.server.tools.kit import a_call, an_executor, until

from turnwire_server.tools import ToolContext, tool
from turnwire_server.tools.executor import ToolCall, ToolExecutor, ToolResult


class Stubborn:
    """A tool that ignores every cancel until it is let go."""

    def __init__(self, **options: Any) -> None:
        self.began = anyio.Event()
        self.let_go = anyio.Event()
        self.ended = False

        @tool(**options)
        async def stubborn() -> str:
            """Does not stop."""
            self.began.set()
            while not self.let_go.is_set():
                try:
                    await self.let_go.wait()
                except asyncio.CancelledError:
                    continue
            self.ended = True
            return "late"

        self.tool = stubborn


class StubbornThread:
    """The same in a thread."""

    def __init__(self, **options: Any) -> None:
        self.let_go = threading.Event()
        self.contexts: list[ToolContext] = []

        @tool(**options)
        def stubborn(context: ToolContext) -> str:
            """Does not stop."""
            self.contexts.append(context)
            self.let_go.wait(10)
            return "late"

        self.tool = stubborn


@tool
async def forever() -> None:
    """Never ends by itself."""
    await anyio.sleep_forever()


async def test_a_tool_that_takes_too_long_is_stopped() -> None:
    async with an_executor(tool_timeout_s=0.02) as executor:
        result = await executor.run(a_call(forever))
        assert result.outcome == "timed_out"
        assert "did not finish within 0.02 s" in result.error
        assert len(executor.runs) == 0


async def test_a_tool_has_a_time_of_its_own() -> None:
    @tool(timeout_s=0.02)
    async def quick() -> None:
        """Is given little time."""
        await anyio.sleep_forever()

    async with an_executor(tool_timeout_s=60) as executor:
        assert (await executor.run(a_call(quick))).outcome == "timed_out"


async def test_what_a_tool_returns_while_it_is_stopped_is_not_believed() -> None:
    @tool
    async def cleans_up() -> str | None:
        """Swallows the cancel."""
        try:
            await anyio.sleep_forever()
        except asyncio.CancelledError:
            return None
        return "done"

    async with an_executor(tool_timeout_s=0.02) as executor:
        assert (await executor.run(a_call(cleans_up))).outcome == "timed_out"


@pytest.mark.parametrize("kind", [Stubborn, StubbornThread])
async def test_a_tool_that_does_not_stop_is_left_to_itself(kind: Callable[..., Any]) -> None:
    stubborn = kind()
    async with an_executor(tool_timeout_s=0.02) as executor:
        with anyio.fail_after(5):
            result = await executor.run(a_call(stubborn.tool))
        assert result.outcome == "unknown"
        assert "may still do its work" in result.error
        assert len(executor.runs) == 1
        stubborn.let_go.set()
        with anyio.fail_after(5):
            await until(lambda: len(executor.runs) == 0, anyio.sleep)


@pytest.mark.parametrize("kind", [Stubborn, StubbornThread])
async def test_a_tool_that_was_left_keeps_its_place_until_it_ends(kind: Callable[..., Any]) -> None:
    stubborn = kind(max_concurrency=1)
    async with an_executor(tool_timeout_s=0.02) as executor:
        with anyio.fail_after(5):
            assert (await executor.run(a_call(stubborn.tool))).outcome == "unknown"
            busy = await executor.run(a_call(stubborn.tool))
            assert busy.outcome == "never_started"
            assert "too many calls" in busy.error
            stubborn.let_go.set()
            await until(lambda: len(executor.runs) == 0, anyio.sleep)
            assert (await executor.run(a_call(stubborn.tool))).output == "late"


async def test_a_thread_can_see_that_nobody_waits() -> None:
    stubborn = StubbornThread()
    async with an_executor(tool_timeout_s=0.02) as executor:
        await executor.run(a_call(stubborn.tool))
        assert stubborn.contexts[0].is_cancelled
        stubborn.let_go.set()


async def test_only_so_many_run_at_once_and_in_their_order() -> None:
    running: list[int] = []
    order: list[int] = []
    most = 0

    @tool(max_concurrency=2)
    async def counted(number: int) -> None:
        """Counts who runs."""
        nonlocal most
        running.append(number)
        order.append(number)
        most = max(most, len(running))
        await anyio.sleep(0.005)
        running.remove(number)

    async with an_executor(tool_queue_s=5) as executor:
        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(executor.run, a_call(counted, {"number": number}))
    assert most == 2
    assert order == list(range(10))


async def test_threads_are_limited_for_all_tools_together() -> None:
    stubborn = StubbornThread()
    async with an_executor(tool_threads=1, tool_timeout_s=0.02) as executor:
        await executor.run(a_call(stubborn.tool))
        other = StubbornThread()
        assert (await executor.run(a_call(other.tool))).outcome == "never_started"
        assert not other.contexts
        stubborn.let_go.set()


# --- cancels --------------------------------------------------------------------------------------------------------


async def run_and_cancel(executor: ToolExecutor, call: ToolCall, when: Callable[[], Any]) -> ToolResult:
    async with anyio.create_task_group() as group:

        async def cancel() -> None:
            await when()
            call.cancel()

        group.start_soon(cancel)
        return await executor.run(call)


async def test_a_call_can_be_cancelled_while_it_runs() -> None:
    began = anyio.Event()

    @tool
    async def begins() -> None:
        """Begins and never ends."""
        began.set()
        await anyio.sleep_forever()

    async with an_executor() as executor:
        with anyio.fail_after(5):
            result = await run_and_cancel(executor, a_call(begins), began.wait)
    assert result.outcome == "cancelled"


async def test_a_call_that_is_cancelled_and_does_not_stop_is_unknown() -> None:
    stubborn = Stubborn()
    async with an_executor() as executor:
        with anyio.fail_after(5):
            result = await run_and_cancel(executor, a_call(stubborn.tool), stubborn.began.wait)
            assert result.outcome == "unknown"
        stubborn.let_go.set()


async def test_a_call_that_is_cancelled_before_it_runs_never_started() -> None:
    async with an_executor() as executor:
        call = a_call(forever)
        call.cancel()
        assert (await executor.run(call)).outcome == "never_started"


async def test_a_call_that_waits_for_a_place_can_be_cancelled() -> None:
    stubborn = Stubborn(max_concurrency=1)
    async with an_executor(tool_queue_s=60) as executor:
        async with anyio.create_task_group() as group:
            group.start_soon(executor.run, a_call(stubborn.tool))
            await stubborn.began.wait()
            with anyio.fail_after(5):
                result = await run_and_cancel(executor, a_call(stubborn.tool), anyio.lowlevel.checkpoint)
            assert result.outcome == "never_started"
            stubborn.let_go.set()
        assert (await executor.run(a_call(stubborn.tool))).output == "late", "the place was not lost"


async def test_a_cancel_of_the_caller_stops_the_tool_and_passes_through() -> None:
    stopped = False

    @tool
    async def tidy() -> None:
        """Sees that it is stopped."""
        nonlocal stopped
        try:
            await anyio.sleep_forever()
        finally:
            stopped = True

    async with an_executor() as executor:
        call = a_call(tidy)
        with anyio.move_on_after(0.02) as scope:
            await executor.run(call)
        assert scope.cancelled_caught
        assert stopped
        assert call.result is not None
        assert call.result.outcome == "cancelled"


async def test_a_caller_that_is_cancelled_waits_no_longer_than_the_grace() -> None:
    stubborn = Stubborn()
    async with an_executor(tool_cancel_grace_s=0.05) as executor:
        call = a_call(stubborn.tool)
        began = time.monotonic()
        with anyio.move_on_after(0.02):
            await executor.run(call)
        assert time.monotonic() - began < 2
        assert call.result is not None
        assert call.result.outcome == "unknown"
        stubborn.let_go.set()


async def test_a_tool_that_has_ended_when_its_caller_is_cancelled_has_completed() -> None:
    async with anyio.create_task_group() as group:

        @tool
        async def last_act() -> str:
            """Ends in the moment of the cancel."""
            group.cancel_scope.cancel()
            return "done"

        async with an_executor() as executor:
            call = a_call(last_act)
            group.start_soon(executor.run, call)
            with anyio.CancelScope(shield=True):
                with anyio.fail_after(5):
                    await until(lambda: call.result is not None, anyio.sleep)
    assert call.result is not None
    assert (call.result.outcome, call.result.output) == ("completed", "done")


async def test_the_node_ends_though_tools_do_not(caplog: pytest.LogCaptureFixture) -> None:
    stubborn = Stubborn()
    async with an_executor(tool_timeout_s=0.02) as executor:
        await executor.run(a_call(stubborn.tool))
        with anyio.fail_after(5):
            await executor.aclose()
        assert "did not end with the server" in caplog.text
        stubborn.let_go.set()


PROGRAM = '''
import asyncio, time
import anyio
from tests.server.tools.kit import a_call, an_executor
from turnwire_server.tools import tool

@tool
async def loop() -> None:
    """Never stops."""
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

@tool
def thread() -> None:
    """Never stops."""
    time.sleep(3600)

async def main() -> None:
    async with an_executor(tool_timeout_s=0.02) as executor:
        for function in (loop, thread):
            print((await executor.run(a_call(function))).outcome)

anyio.run(main)
print("ended")
'''


def test_a_process_ends_though_tools_do_not() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=30, check=False)
    assert ran.stdout.split() == ["unknown", "unknown", "ended"], ran.stderr
    assert ran.returncode == 0
