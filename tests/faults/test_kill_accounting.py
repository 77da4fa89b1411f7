"""What an attempt cost that was lost with its node: one row, by whoever takes the turn over (guarantee 12)."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.support.client import Client, connected
from tests.support.process import server_process
from tests.support.provider import ControlledProvider, Do, Gate, Script, running_provider

from turnwire_server.gateway.usage import TokenCounter

COUNTER = TokenCounter.load()


def two_deployments(provider: ControlledProvider, **route: Any) -> dict[str, Any]:
    """Both at one provider, so that its scripts are taken in the order of the calls."""
    deployments = [
        {"name": name, "model": "m", "base_url": provider.base_url, "output_usd_per_mtok": "2"} for name in ("d0", "d1")
    ]
    return {"deployments": deployments, "routes": [{"name": "default", "deployments": ["d0", "d1"], **route}]}


async def after_restart(data_dir: Path, provider: ControlledProvider, before: Client, settings: Any) -> dict[str, Any]:
    """What `usage.completed` says of the turn that was taken over; it completes. The archive has the same rows."""
    async with server_process(data_dir, provider.base_url, **settings) as server:
        async with connected(server.url, before=before) as client:
            await client.call({"type": "request.resume", "request_id": "r1", "since": before.cursor("c1")})
            assert (await client.terminal("r1"))["type"] == "message.completed"
            usage = await client.event("usage.completed", "r1")
        assert await server.terminate() == 0
    with closing(sqlite3.connect(data_dir / "turnwire.db")) as db:
        query = "SELECT step, attempt, deployment, outcome, output_tokens, cost_usd, source, user, route FROM usage"
        stored = db.execute(f"{query} ORDER BY step, attempt").fetchall()
    rows = usage["attempts"]
    names = ("step", "attempt", "deployment", "outcome", "output_tokens", "cost_usd", "source")
    assert stored == [(*(row[name] for name in names), "dev", "default") for row in rows]
    assert len(rows) == len(provider.requests)
    assert Decimal(usage["cost_usd"]) == sum(Decimal(row["cost_usd"]) for row in rows)
    assert usage["output_tokens"] == sum(row["output_tokens"] for row in rows)
    return usage


def outcomes(usage: dict[str, Any]) -> list[tuple[str, str, int]]:
    return [(row["deployment"], row["outcome"], row["output_tokens"]) for row in usage["attempts"]]


async def test_what_was_lost_in_mid_stream_is_estimated_from_the_log(tmp_path: Path) -> None:
    async with running_provider() as provider:
        settings = two_deployments(provider)
        provider.script(Script.stalled_after("half ", "an answer"), Script.text("whole", usage=(9, 1)))
        async with server_process(tmp_path, provider.base_url, **settings) as server, connected(server.url) as client:
            await client.create("r1", "c1", "hello")
            await client.until(lambda: client.text("r1") == "half an answer")
            await server.kill()
        usage = await after_restart(tmp_path, provider, client, settings)
        assert outcomes(usage) == [("d0", "node_lost", COUNTER.count("half an answer")), ("d0", "completed", 1)]
        assert usage["source"] == "mixed"


async def test_what_was_lost_before_the_first_token_is_its_input(tmp_path: Path) -> None:
    async with running_provider() as provider:
        settings = two_deployments(provider)
        provider.script(Script.never_answers(), Script.text("whole", usage=(9, 1)))
        async with server_process(tmp_path, provider.base_url, **settings) as server, connected(server.url) as client:
            await client.create("r1", "c1", "hello")
            await client.event("step.started", "r1")
            await provider.request_received(0)
            await server.kill()
        usage = await after_restart(tmp_path, provider, client, settings)
        assert outcomes(usage) == [("d0", "node_lost", 0), ("d0", "completed", 1)]
        assert usage["attempts"][0]["input_tokens"] > 0


async def test_an_attempt_that_went_on_with_the_text_of_another_is_not_charged_for_it(tmp_path: Path) -> None:
    """The text of the step was taken whole for the attempt that was lost, and so counted twice."""
    async with running_provider() as provider:
        settings = two_deployments(provider, midstream="continue")
        begun, more = "A beginning that is rather long, and ", "a little more"
        provider.script(
            Script.cut_after(begun), Script.stalled_after(more), Script.text("The whole of it.", usage=(9, 5))
        )
        async with server_process(tmp_path, provider.base_url, **settings) as server, connected(server.url) as client:
            await client.create("r1", "c1", "hello")
            await client.until(lambda: client.text("r1") == begun + more)
            await server.kill()
        usage = await after_restart(tmp_path, provider, client, settings)
        assert outcomes(usage) == [
            ("d0", "failed", COUNTER.count(begun)),
            ("d1", "node_lost", COUNTER.count(more)),
            ("d0", "completed", 5),
        ]


async def test_both_legs_of_a_race_are_lost_with_their_node(tmp_path: Path) -> None:
    async with running_provider() as provider:
        settings = two_deployments(provider, hedge_after_ms=500)
        provider.script(Script.text(Gate(), Do.STALL), Script.text(Gate(), Do.STALL), Script.text("x", usage=(9, 1)))
        async with server_process(tmp_path, provider.base_url, **settings) as server, connected(server.url) as client:
            await client.create("r1", "c1", "hello")
            await client.until(lambda: len(client.events("step.started", "r1")) == 2)
            await provider.request_received(1)
            await server.kill()
        usage = await after_restart(tmp_path, provider, client, settings)
        assert outcomes(usage) == [("d0", "node_lost", 0), ("d1", "node_lost", 0), ("d0", "completed", 1)]
