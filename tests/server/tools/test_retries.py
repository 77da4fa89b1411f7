"""Runs that are tried again: which, how often, and after how long."""

from __future__ import annotations

import random
from typing import Any

import anyio
import pytest
from tests.server.tools.kit import a_call, an_executor, made, run

from turnwire_server.tools import RetryableToolError, ToolContext, ToolError, tool
from turnwire_server.tools.errors import ToolEffectUnknown
from turnwire_server.tools.executor import ToolResult
from turnwire_server.tools.retries import delay_s


async def after(errors: list[BaseException], **options: Any) -> tuple[ToolResult, list[int]]:
    """A tool that raises one after the other, then succeeds; its result and the number of each run."""
    attempts: list[int] = []

    @tool(**{"side_effect": False, "retries": 3, **options})
    async def flaky(context: ToolContext) -> str:
        """Fails a few times."""
        attempts.append(context.attempt)
        if errors:
            raise errors.pop(0)
        return context.idempotency_key

    return await run(flaky), attempts


@pytest.mark.parametrize("error", [RetryableToolError("busy"), TimeoutError(), ConnectionResetError()])
async def test_a_failure_that_may_pass_is_tried_again(error: BaseException) -> None:
    result, attempts = await after([error, error])
    assert result.outcome == "completed"
    assert attempts == [1, 2, 3]


async def test_no_more_often_than_declared_and_the_last_failure_is_told() -> None:
    result, attempts = await after([RetryableToolError(f"busy {n}") for n in range(9)])
    assert (result.outcome, result.error) == ("failed", "busy 3")
    assert attempts == [1, 2, 3, 4]


@pytest.mark.parametrize("error", [ToolError("no"), ValueError(), SystemExit()])
async def test_other_failures_are_not(error: BaseException) -> None:
    assert (await after([error]))[1] == [1]


async def test_a_tool_that_declares_no_retries_is_run_once() -> None:
    assert (await after([RetryableToolError("busy")], retries=0))[1] == [1]


async def test_it_is_begun_once() -> None:
    begun: list[int] = []

    async def begin() -> None:
        begun.append(1)

    errors: list[Exception] = [RetryableToolError("busy")]

    @tool(idempotent=True, retries=1)
    async def flaky() -> str:
        """Fails once."""
        if errors:
            raise errors.pop()
        return "ok"

    async with an_executor() as executor:
        assert (await executor.run(a_call(flaky, begin=begin))).output == "ok"
    assert begun == [1]


async def test_a_run_that_was_stopped_in_time_is_tried_again() -> None:
    runs: list[int] = []

    @tool(side_effect=False, retries=1, timeout_s=0.02)
    async def slow_once() -> str:
        """Hangs once."""
        runs.append(1)
        if len(runs) == 1:
            await anyio.sleep_forever()
        return "ok"

    assert (await run(slow_once)).output == "ok"


async def test_waiting_for_the_next_run_can_be_cancelled() -> None:
    failed = anyio.Event()

    @tool(side_effect=False, retries=1)
    async def busy() -> None:
        """Is busy."""
        failed.set()
        raise RetryableToolError("busy", retry_after_s=9)

    async with an_executor() as executor:
        call = a_call(busy)
        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                group.start_soon(executor.run, call)
                await failed.wait()
                await anyio.wait_all_tasks_blocked()
                call.cancel()
    assert call.result is not None
    assert (call.result.outcome, call.result.error) == ("failed", "busy"), "which is what happened"


@pytest.mark.parametrize(("side_effect", "outcome"), [(True, "unknown"), (False, "failed")])
async def test_lost_contact_leaves_the_effect_unknown_where_there_is_one(side_effect: bool, outcome: str) -> None:
    @tool(side_effect=side_effect)
    async def far() -> None:
        """Runs elsewhere."""
        raise ToolEffectUnknown("lost")

    result = await run(far)
    assert (result.outcome, result.error) == (outcome, "lost")


def test_the_delay_grows_with_jitter_up_to_a_bound() -> None:
    rng = random.Random(1)
    for attempt, longest in ((1, 0.25), (2, 0.5), (3, 1.0), (10, 10.0), (10_000, 10.0)):
        delays = [delay_s(attempt, rng) for _ in range(200)]
        assert 0 <= min(delays) < longest / 5
        assert longest * 0.8 < max(delays) <= longest


def test_the_delay_is_at_least_what_the_tool_asked_for_within_the_bound() -> None:
    assert delay_s(1, random.Random(1), 3) == 3
    assert delay_s(1, random.Random(1), 3600) == 10


def test_retries_are_part_of_the_declaration() -> None:
    @tool(idempotent=True, retries=2)
    async def twice() -> None:
        """May run twice."""

    assert made(twice).retries == 2
