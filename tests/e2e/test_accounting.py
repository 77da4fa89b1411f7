"""Every attempt that was begun has one row in the ledger, whatever became of it (guarantee 12).

A table: what two providers do and what the client says, and the rows that must stand for it. For each story the rows
of `usage.completed`, those of the archive, the calls that the providers got and the attempts that clients were shown
are the same; the sums are theirs, and the money is exact. Nodes that die are in `tests/faults/test_kill_accounting.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import orjson
import pytest
from tests.support.client import Client, connected
from tests.support.provider import ControlledProvider, Do, Gate, Script, running_provider, tool_call_steps
from tests.support.server import running_server

from turnwire_server.app import App
from turnwire_server.gateway.usage import TokenCounter

COUNTER = TokenCounter.load()
PRICES = {"input_usd_per_mtok": "1.1", "output_usd_per_mtok": "3.3", "cached_usd_per_mtok": "0.07"}

Row = tuple[int, int, str, str, str, int, int]
"""Step, attempt, deployment, outcome, source, output and cached tokens."""
Act = Callable[[Client, ControlledProvider, ControlledProvider], Awaitable[None]]


async def nothing(client: Client, first: ControlledProvider, second: ControlledProvider) -> None:
    """The client only waits."""


async def cancel_unanswered(client: Client, first: ControlledProvider, second: ControlledProvider) -> None:
    await first.request_received()
    await client.cancel("r1")


async def cancel_race(client: Client, first: ControlledProvider, second: ControlledProvider) -> None:
    await first.request_received()
    await second.request_received()
    await client.cancel("r1")


def when_said(text: str, command: str) -> Act:
    """The client says this once it has seen the text."""

    async def act(client: Client, first: ControlledProvider, second: ControlledProvider) -> None:
        await client.until(lambda: client.text("r1") == text)
        await client.call({"type": command, "request_id": "r1"})

    return act


@dataclass(frozen=True)
class Story:
    first: Sequence[Script]
    rows: Sequence[Row]
    second: Sequence[Script] = ()
    route: dict[str, Any] = field(default_factory=dict)
    act: Act = nothing
    ends: str = "message.completed"


def estimated(step: int, attempt: int, deployment: str, outcome: str, text: str = "") -> Row:
    """The row of an attempt of which the provider said nothing."""
    return (step, attempt, deployment, outcome, "estimated", COUNTER.count(text), 0)


def told(step: int, attempt: int, deployment: str, outcome: str, output: int, cached: int = 0) -> Row:
    """The row of an attempt whose figures came from the provider."""
    return (step, attempt, deployment, outcome, "provider", output, cached)


BROKEN, WELL = Script.cut_after("half a ", "sen"), Script.text("tence.", usage=(20, 3, 8))
ERROR = Script.http_error(500, "broken")
CONTINUE, HEDGE = {"midstream": "continue"}, {"hedge_after_ms": 50}
LOOK = Script([*tool_call_steps("look", '{"item": "hat"}')], finish="tool_calls", usage=(30, 12, 0))

STORIES: dict[str, Story] = {
    "completed": Story([WELL], [told(1, 1, "d0", "completed", 3, 8)]),
    "zero is zero": Story([Script.text("free", usage=(0, 0))], [told(1, 1, "d0", "completed", 0)]),
    "the provider says nothing": Story(
        [Script.text("one ", "two", usage=None)], [estimated(1, 1, "d0", "completed", "one two")]
    ),
    "cut short by its length": Story(
        [Script.text("one", finish="length", usage=(9, 1))],
        [told(1, 1, "d0", "completed", 1)],
        ends="message.incomplete",
    ),
    "fallback before the first token": Story(
        [ERROR], [estimated(1, 1, "d0", "failed"), told(1, 2, "d1", "completed", 3, 8)], second=[WELL]
    ),
    "failed for good before the first token": Story(
        [ERROR],
        [estimated(1, 1, "d0", "failed"), estimated(1, 2, "d1", "failed")],
        second=[ERROR],
        route={"max_attempts": 2},
        ends="message.failed",
    ),
    "fallback after the first token": Story(
        [BROKEN],
        [estimated(1, 1, "d0", "failed", "half a sen"), told(1, 2, "d1", "completed", 3, 8)],
        second=[WELL],
    ),
    "continued": Story(
        [BROKEN],
        [estimated(1, 1, "d0", "failed", "half a sen"), told(1, 2, "d1", "completed", 3, 8)],
        second=[WELL],
        route=CONTINUE,
    ),
    "continued and cancelled": Story(
        [BROKEN],
        [estimated(1, 1, "d0", "failed", "half a sen"), estimated(1, 2, "d1", "cancelled", "tence")],
        second=[Script.stalled_after("tence")],
        route=CONTINUE,
        act=when_said("half a sentence", "request.cancel"),
        ends="message.cancelled",
    ),
    "not continued": Story(
        [BROKEN], [estimated(1, 1, "d0", "failed", "half a sen")], route={"midstream": "fail"}, ends="message.failed"
    ),
    "a race": Story(
        [Script.text(Gate(), "too late")],
        [estimated(1, 1, "d0", "hedge_lost"), told(1, 2, "d1", "completed", 3, 8)],
        second=[WELL],
        route=HEDGE,
    ),
    "a race whose winner breaks": Story(
        [Script.text(Gate(), "never"), WELL],
        [
            estimated(1, 1, "d0", "hedge_lost"),
            estimated(1, 2, "d1", "failed", "half a sen"),
            told(1, 3, "d0", "completed", 3, 8),
        ],
        second=[BROKEN],
        route=HEDGE,
    ),
    "a race that is cancelled": Story(
        [Script.never_answers()],
        [estimated(1, 1, "d0", "cancelled"), estimated(1, 2, "d1", "cancelled")],
        second=[Script.never_answers()],
        route=HEDGE,
        act=cancel_race,
        ends="message.cancelled",
    ),
    "cancelled before the first token": Story(
        [Script.never_answers()],
        [estimated(1, 1, "d0", "cancelled")],
        act=cancel_unanswered,
        ends="message.cancelled",
    ),
    "cancelled in mid-step": Story(
        [Script.stalled_after("one ", "two ")],
        [estimated(1, 1, "d0", "cancelled", "one two ")],
        act=when_said("one two ", "request.cancel"),
        ends="message.cancelled",
    ),
    "interrupted in mid-step": Story(
        [Script.stalled_after("one ", "two ")],
        [estimated(1, 1, "d0", "cancelled", "one two ")],
        act=when_said("one two ", "request.interrupt"),
        ends="message.interrupted",
    ),
    "two steps": Story([LOOK, WELL], [told(1, 1, "d0", "completed", 12), told(2, 1, "d0", "completed", 3, 8)]),
    "cancelled in the second step": Story(
        [LOOK, Script.stalled_after("It is ")],
        [told(1, 1, "d0", "completed", 12), estimated(2, 1, "d0", "cancelled", "It is ")],
        act=when_said("It is ", "request.cancel"),
        ends="message.cancelled",
    ),
    "a broken second step": Story(
        [LOOK, BROKEN],
        [
            told(1, 1, "d0", "completed", 12),
            estimated(2, 1, "d0", "failed", "half a sen"),
            told(2, 2, "d1", "completed", 3, 8),
        ],
        second=[WELL],
    ),
    "broken in a tool call": Story(
        [Script([*tool_call_steps("look", '{"item": '), Do.CUT])],
        [estimated(1, 1, "d0", "failed", 'look{"item": '), told(1, 2, "d1", "completed", 3, 8)],
        second=[WELL],
        route=CONTINUE,
    ),
}


@pytest.mark.parametrize("name", STORIES)
async def test_every_attempt_has_one_row_and_the_sums_are_theirs(name: str) -> None:
    story = STORIES[name]
    async with running_provider() as first, running_provider() as second:
        first.script(*story.first)
        second.script(*story.second)
        deployments = [
            {"name": f"d{number}", "model": "m", "base_url": provider.base_url, **PRICES}
            for number, provider in enumerate((first, second))
        ]
        routes = [{"name": "default", "deployments": ["d0", "d1"], "backoff_s": 0.01, **story.route}]
        tools = {"modules": ["tests.support.shop_tools"]}
        async with (
            running_server(deployments=deployments, routes=routes, tools=tools) as app,
            connected(app.url) as client,
        ):
            await client.create("r1", "c1", "hello", metadata={"feature": "story"})
            await story.act(client, first, second)
            ending = await client.terminal("r1")
            assert ending["type"] == story.ends, ending
            usage = await client.event("usage.completed", "r1")
            rows = usage["attempts"]
            assert [as_row(row) for row in rows] == list(story.rows)
            assert len(rows) == len(first.requests) + len(second.requests)
            shown = [(m["step"], m["attempt"], m["deployment"]) for m in client.events("step.started", "r1")]
            assert shown == [row[:3] for row in story.rows]
            check_sums(usage)
            await check_archive(app, usage)


def as_row(row: dict[str, Any]) -> Row:
    names = ("step", "attempt", "deployment", "outcome", "source", "output_tokens", "cached_tokens")
    values: Any = tuple(row[name] for name in names)
    return values  # type: ignore[no-any-return]


def check_sums(usage: dict[str, Any]) -> None:
    """The event's sums are those of its rows, and each row costs what the prices say."""
    for name in ("input_tokens", "output_tokens", "cached_tokens"):
        assert usage[name] == sum(row[name] for row in usage["attempts"])
    assert Decimal(usage["cost_usd"]) == sum(Decimal(row["cost_usd"]) for row in usage["attempts"])
    for row in usage["attempts"]:
        uncached = row["input_tokens"] - row["cached_tokens"]
        micro = (
            uncached * Decimal("1.1") + row["output_tokens"] * Decimal("3.3") + row["cached_tokens"] * Decimal("0.07")
        )
        assert Decimal(row["cost_usd"]) == micro / 1_000_000
        assert row["source"] == "provider" or row["input_tokens"] > 0, "a prompt is never nothing"


async def check_archive(app: App, usage: dict[str, Any]) -> None:
    """The ledger has the same rows, and adds up to the same."""
    archive = app.front.services.archive
    stored = [{name: getattr(row, name) for name in row.__slots__} for row in await archive.usage("default", "r1")]
    assert stored == usage["attempts"]
    (whole,) = await archive.usage_sums(["user", "route", "feature"], tenant_id="default")
    assert whole.key == ("dev", "default", "story")
    assert (whole.attempts, whole.cost_usd) == (len(stored), Decimal(usage["cost_usd"]))
    assert whole.output_tokens == usage["output_tokens"]
    assert await archive.spent("default", 0) == Decimal(usage["cost_usd"])


async def test_what_never_started_has_no_row() -> None:
    async with running_provider() as provider:
        provider.script(Script.stalled_after("one"))
        async with running_server(provider_url=provider.base_url) as app, connected(app.url) as client:
            await client.create("r1", "c1", "hello")
            await client.create("r2", "c1", "queued")
            await client.cancel("r2")
            assert (await client.terminal("r2"))["type"] == "message.cancelled"
            assert client.events("usage.completed", "r2") == []
            assert list(await app.front.services.archive.usage("default", "r2")) == []
            await client.cancel("r1")
            await client.terminal("r1")


async def test_tools_that_are_offered_are_part_of_the_input_that_is_estimated() -> None:
    async with running_provider() as provider:
        inputs = []
        for tools in ({}, {"tools": {"modules": ["tests.support.shop_tools"]}}):
            async with running_server(provider_url=provider.base_url, **tools) as app, connected(app.url) as client:
                provider.script(Script.text("one", usage=None))
                await client.create("r1", "c1", "hello")
                inputs.append((await client.event("usage.completed", "r1"))["input_tokens"])
        offered = provider.requests[-1].body["tools"]
        assert inputs[1] - inputs[0] == COUNTER.count(orjson.dumps(offered).decode())
