"""Summaries of what prompts have no room for: made beside the turns, used by those that come after."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tests.support.client import Client, connected
from tests.support.provider import ControlledProvider, Gate, Script, running_provider
from tests.support.server import running_server

from turnwire_server.app import App
from turnwire_server.archive.summaries import SummaryRecord

BUDGET = 400


def answer(body: dict[str, Any]) -> Script:
    return Script.text(f"answer to {body['messages'][-1]['content']}: ", "and so on " * 4)


def record(body: dict[str, Any]) -> Script:
    """A record of whose questions it has been told, as a small model would make it."""
    told = json.loads(body["messages"][-1]["content"])
    before = told["record so far"] or "They said"
    said = [line["text"].split()[0] for line in told["said since"] if line["by"] == "user"]
    return Script.text(" ".join([before, *said]))


@asynccontextmanager
async def summarising(
    *, guarded_by: Sequence[str] = (), **sections: Any
) -> AsyncIterator[tuple[ControlledProvider, ControlledProvider, App]]:
    """A server whose turns are answered by the first provider and summarised by the second."""
    async with running_provider() as large, running_provider() as small:
        large.default, small.default = answer, record
        deployments = [
            {"name": "large", "model": "m", "base_url": large.base_url, "context_tokens": BUDGET + 100},
            {"name": "small", "model": "m", "base_url": small.base_url, "input_usd_per_mtok": "1"},
        ]
        routes = [
            {"name": "default", "deployments": ["large"], "max_attempts": 1, "guards": guarded_by},
            {"name": "small", "deployments": ["small"], "max_attempts": 1, "guards": guarded_by},
        ]
        async with running_server(
            deployments=deployments,
            routes=routes,
            tenants={"default": {"max_output_tokens": 100}},
            **{"context": {"summary_route": "small"}, **sections},
        ) as app:
            yield large, small, app


async def say(client: Client, name: str, conversation: str = "c1", **fields: Any) -> dict[str, Any]:
    """A whole turn; what its prompt had in it."""
    await client.create(name, conversation, f"{name} {'word ' * 10}", **fields)
    context: dict[str, Any] = (await client.event("step.started", name))["context"]
    await client.terminal(name)
    return context


async def summaries(app: App, least: int = 1) -> list[SummaryRecord]:
    """Those of `c1`, once there are so many."""
    async with asyncio.timeout(10):
        while True:
            found = await app.front.services.archive.summaries("default", "c1", limit=100)
            if len(found) >= least and not app.front.hub._summaries._making:
                return list(found)
            await asyncio.sleep(0.01)


async def until_quiet(app: App) -> None:
    async with asyncio.timeout(10):
        while app.front.hub._summaries._making:
            await asyncio.sleep(0.01)


async def talk(client: Client, app: App, names: list[str]) -> list[dict[str, Any]]:
    contexts = []
    for name in names:
        contexts.append(await say(client, name))
        await until_quiet(app)
    return contexts


async def test_a_long_conversation_stays_in_its_budget_and_its_beginning_in_the_record() -> None:
    async with summarising() as (large, small, app):
        async with connected(app.url) as alice:
            contexts = await talk(alice, app, [f"q{n}" for n in range(40)])
        newest, *_ = await summaries(app)
        assert newest.text.startswith("They said q0 q1 q2 q3 ")
        assert newest.text.split()[2:] == [f"q{n}" for n in range(newest.up_to)], "each turn is in it once"
        assert max(context["tokens"] for context in contexts) <= BUDGET
        assert sum(context["left_out"] for context in contexts) == 0, "made before anything had no room"
        versions = [context.get("summary", 0) for context in contexts]
        assert versions == sorted(versions)
        assert 3 <= newest.version == len(small.requests) <= 20, "not one for each turn"
        system = large.requests[-1].messages[0]
        assert system["role"] == "system"
        assert '<data of="earlier turns, in short">\n"They said q0 ' in system["content"]
        services = app.front.services
        (used,) = [one for one in await services.archive.usage_sums(["feature", "route"]) if one.key[0] == "summary"]
        assert used.key == ("summary", "small")
        assert used.attempts == len(small.requests)
        assert used.cost_usd > 0


async def test_a_summary_blocks_no_turn() -> None:
    gate = Gate()
    async with summarising() as (_large, small, app):
        small.default = lambda body: Script.text("They said ", gate, "more")
        async with connected(app.url) as alice:
            for number in range(12):
                await say(alice, f"q{number}")
            await gate.reached()
            assert (await say(alice, "while"))["left_out"] > 0
            assert len(small.requests) == 1, "one at a time"
            gate.open()
            await summaries(app)
            assert (await say(alice, "after"))["summary"] == 1


async def test_a_branch_has_only_a_summary_of_what_is_on_it() -> None:
    async with summarising() as (large, _small, app):
        async with connected(app.url) as alice:
            await talk(alice, app, [f"q{n}" for n in range(12)])
            newest, *_ = await summaries(app)
            message_ids = [message.message_id for message in alice.folds["c1"].branch()]
            inside = message_ids[message_ids.index(newest.leaf) - 2]  # the answer before the last one it covers
            context = await say(alice, "beside", parent_id=inside)
            assert context.get("summary", 0) < newest.version
            assert f"q{newest.up_to - 1} " not in json.dumps(large.requests[-1].messages)
            context = await say(alice, "below", parent_id=newest.leaf)
            assert context["summary"] == newest.version
            assert context["messages"] == 0


async def test_a_covered_answer_that_is_amended_is_summarised_anew_and_nothing_outlives_the_conversation() -> None:
    async with summarising() as (_large, _small, app):
        async with connected(app.url) as alice:
            await talk(alice, app, [f"q{n}" for n in range(12)])
            before = await summaries(app)
            await alice.call({"type": "request.interrupt", "request_id": "q0", "presented": {"part": 0, "offset": 6}})
            assert await summaries(app, 0) == []
            contexts = await talk(alice, app, ["more", "again"])
            assert "summary" not in contexts[0]
            assert contexts[1]["summary"] == 1
            assert max(context["tokens"] for context in contexts) <= BUDGET
            assert (await summaries(app))[0].up_to >= before[0].up_to
            await alice.call({"type": "conversation.delete", "conversation_id": "c1"})
            assert await summaries(app, 0) == []


async def test_a_small_model_that_fails_costs_no_turn_and_is_asked_again() -> None:
    async with summarising() as (_large, small, app):
        small.default = lambda body: Script.http_error(400, "no")
        async with connected(app.url) as alice:
            contexts = await talk(alice, app, [f"q{n}" for n in range(10)])
            assert len(small.requests) > 1
            assert contexts[-1]["left_out"] > 0
            assert contexts[-1]["tokens"] <= BUDGET
            small.default = record
            contexts = await talk(alice, app, ["more", "again"])
            assert contexts[-1]["summary"] == 1


async def test_what_guards_blot_out_is_in_no_summary_and_not_found_again() -> None:
    key = "AKIA" + "ABCDEFGHIJKLMNOP"
    guard = {"name": "keys", "kind": "secrets", "on": ["input"], "action": "redact"}
    context = {"summary_route": "small", "memory_tokens": 100}
    async with summarising(guarded_by=["keys"], guards=[guard], context=context) as (large, small, app):
        async with connected(app.url) as alice:
            await alice.create("secret", "c1", f"the spare is {key} {'word ' * 10}")
            await alice.terminal("secret")
            await talk(alice, app, [f"q{n}" for n in range(20)])
            await alice.create("again", "c1", "what is the spare?")
            context_of = (await alice.event("step.started", "again"))["context"]
            await alice.terminal("again")
        assert small.requests
        assert context_of["memories"] > 0
        asked = json.dumps([request.body for request in (*small.requests, *large.requests)])
        assert key not in asked
        assert "the spare is [removed]" in json.dumps(large.requests[-1].body)
