"""Routes at work, against real HTTP providers: races, continued answers, fallback by the kind of fault, and who may use
what."""

from __future__ import annotations

import time
from typing import Any

import pytest
from tests.support.client import CallError, Client, connected
from tests.support.provider import ControlledProvider, Delta, Do, Gate, Script, running_provider, tool_call_steps
from tests.support.server import running_server

from turnwire_server.orchestration.context import CONTINUE

LIMITS = {"first_token_timeout_s": 5, "idle_timeout_s": 5, "total_timeout_s": 20, "connect_timeout_s": 2}


def over(*providers: ControlledProvider, route: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """Settings with the deployments `d0`, `d1`, … at these providers, and a route over them."""
    names = [f"d{number}" for number in range(len(providers))]
    deployments = [
        {"name": name, "model": "m", "base_url": provider.base_url, **LIMITS, **fields}
        for name, provider in zip(names, providers, strict=True)
    ]
    return {"deployments": deployments, "routes": [{"name": "default", "deployments": names, **(route or {})}]}


async def rows_of(client: Client, request: str) -> list[tuple[int, str, str]]:
    usage = await client.event("usage.completed", request)
    return [(row["attempt"], row["deployment"], row["outcome"]) for row in usage["attempts"]]


# Races.


async def test_a_slow_first_is_raced_and_the_loser_closed_and_accounted() -> None:
    async with running_provider() as slow, running_provider() as quick:
        slow.script(Script.text(Gate(), "too late"))
        quick.script(Script.text("from the ", "second"))
        async with (
            running_server(**over(slow, quick, route={"hedge_after_ms": 100})) as app,
            connected(app.url) as client,
        ):
            await client.create("r1", "c1", "hello")
            ending = await client.terminal("r1")
            assert ending["message"]["parts"] == [{"kind": "text", "text": "from the second"}]
            assert await rows_of(client, "r1") == [(1, "d0", "hedge_lost"), (2, "d1", "completed")]
            started = [(m["attempt"], m["deployment"]) for m in client.events("step.started", "r1")]
            assert started == [(1, "d0"), (2, "d1")]
            (left,) = client.events("step.failed", "r1")
            assert (left["attempt"], left["reason"], left.get("next")) == (1, "hedge_lost", None)
            assert client.events("part.reset") == []
            await slow.client_gone(0)


async def test_who_speaks_in_time_is_not_raced() -> None:
    async with running_provider() as first, running_provider() as second:
        async with (
            running_server(**over(first, second, route={"hedge_after_ms": 5000})) as app,
            connected(app.url) as client,
        ):
            await client.create("r1", "c1", "hello")
            assert (await client.terminal("r1"))["type"] == "message.completed"
            assert await rows_of(client, "r1") == [(1, "d0", "completed")]
            assert second.requests == []


async def test_the_first_wins_when_it_speaks_before_the_second() -> None:
    async with running_provider() as first, running_provider() as second:
        gate = Gate()
        first.script(Script.text(gate, "the first after all"))
        second.script(Script.never_answers())
        async with (
            running_server(**over(first, second, route={"hedge_after_ms": 50})) as app,
            connected(app.url) as client,
        ):
            await client.create("r1", "c1", "hello")
            await second.request_received()
            gate.open()
            assert (await client.terminal("r1"))["message"]["parts"][0]["text"] == "the first after all"
            assert await rows_of(client, "r1") == [(2, "d1", "hedge_lost"), (1, "d0", "completed")]
            await second.client_gone(0)


@pytest.mark.parametrize("who", [0, 1])
async def test_one_that_fails_in_a_race_leaves_it_to_the_other(who: int) -> None:
    async with running_provider() as first, running_provider() as second:
        gate = Gate()
        bad, good = (first, second) if who == 0 else (second, first)
        bad.script(Script.http_error(500, "oops") if who else Script.text(gate, Do.CUT))
        late = Gate()
        good.script(Script.text(late, "well"))
        async with (
            running_server(**over(first, second, route={"hedge_after_ms": 50})) as app,
            connected(app.url) as client,
        ):
            await client.create("r1", "c1", "hello")
            await second.request_received()
            gate.open()
            failed = await client.event("step.failed", "r1")
            assert (failed["deployment"], failed["next"]) == (f"d{who}", f"d{1 - who}")
            late.open()
            assert (await client.terminal("r1"))["type"] == "message.completed"
            assert sorted(await rows_of(client, "r1")) == sorted(
                [(who + 1, f"d{who}", "failed"), (2 - who, f"d{1 - who}", "completed")]
            )


async def test_a_cancel_in_a_race_closes_both() -> None:
    async with running_provider() as first, running_provider() as second:
        first.script(Script.never_answers())
        second.script(Script.never_answers())
        async with (
            running_server(**over(first, second, route={"hedge_after_ms": 50})) as app,
            connected(app.url) as client,
        ):
            await client.create("r1", "c1", "hello")
            await second.request_received()
            await client.cancel("r1")
            assert (await client.terminal("r1"))["type"] == "message.cancelled"
            assert sorted(await rows_of(client, "r1")) == [(1, "d0", "cancelled"), (2, "d1", "cancelled")]
            await first.client_gone(0)
            await second.client_gone(0)


async def test_a_race_that_both_lose_goes_on_with_the_route() -> None:
    async with running_provider() as first, running_provider() as second, running_provider() as third:
        gate = Gate()
        first.script(Script.text(gate, Do.CUT))
        second.script(Script.text(gate, Do.CUT))
        async with (
            running_server(**over(first, second, third, route={"hedge_after_ms": 50})) as app,
            connected(app.url) as client,
        ):
            await client.create("r1", "c1", "hello")
            await second.request_received()
            gate.open()
            assert (await client.terminal("r1"))["type"] == "message.completed"
            rows = await rows_of(client, "r1")
            assert sorted(rows) == [(1, "d0", "failed"), (2, "d1", "failed"), (3, "d2", "completed")]
            reasons = [m["reason"] for m in client.events("step.failed", "r1")]
            assert reasons == ["provider_cut", "provider_cut"]


# In the middle of an answer.


async def test_another_deployment_continues_the_text() -> None:
    async with running_provider() as broken, running_provider() as good:
        broken.script(Script.text("Half a ", "sent", Do.CUT))
        good.script(Script.text("ence, and ", "the rest."))
        async with (
            running_server(**over(broken, good, route={"midstream": "continue"})) as app,
            connected(app.url) as client,
        ):
            await client.create("r1", "c1", "hello")
            ending = await client.terminal("r1")
            assert ending["message"]["parts"] == [{"kind": "text", "text": "Half a sentence, and the rest."}]
            assert client.events("part.reset") == []
            failed = await client.event("step.failed", "r1")
            assert (failed["reason"], failed["next"]) == ("provider_cut", "d1")
            assert good.requests[0].messages == [
                {"role": "user", "content": "hello"},
                {"role": "assistant", "content": "Half a sent"},
                {"role": "user", "content": CONTINUE},
            ]
            assert await rows_of(client, "r1") == [(1, "d0", "failed"), (2, "d1", "completed")]
            assert client.folds["c1"].view()["messages"][1]["parts"] == ending["message"]["parts"]
            await client.create("r2", "c1", "and now")
            await client.terminal("r2")
            assert CONTINUE not in str(broken.requests[-1].messages)


async def test_an_answer_is_continued_more_than_once_and_by_who_began_it() -> None:
    async with running_provider() as only:
        only.script(Script.text("one ", Do.CUT), Script.text("two ", Do.CUT), Script.text("three"))
        settings = over(only, route={"midstream": "continue", "backoff_s": 0.01})
        async with running_server(**settings) as app, connected(app.url) as client:
            await client.create("r1", "c1", "hello")
            ending = await client.terminal("r1")
            assert ending["message"]["parts"] == [{"kind": "text", "text": "one two three"}]


@pytest.mark.parametrize(
    "half",
    [
        ["I ask ", *tool_call_steps("demo_clock", '{"zo')],
        [Delta({"reasoning_content": "hm "})],
    ],
    ids=["tool call", "reasoning"],
)
async def test_what_is_not_text_alone_is_begun_again(half: list[Any]) -> None:
    async with running_provider() as broken, running_provider() as good:
        broken.script(Script.text(*half, Do.CUT))
        good.script(Script.text("the whole sentence"))
        async with (
            running_server(**over(broken, good, route={"midstream": "continue"})) as app,
            connected(app.url) as client,
        ):
            await client.create("r1", "c1", "hello")
            ending = await client.terminal("r1")
            assert ending["message"]["parts"] == [{"kind": "text", "text": "the whole sentence"}]
            assert [(m["part"], m["offset"]) for m in client.events("part.reset")] == [(0, 0)]
            assert good.requests[0].messages == [{"role": "user", "content": "hello"}]


# By the kind of fault.


def refusal(status: int, code: str, message: str) -> Script:
    script = Script.http_error(status, message)
    script.body = b'{"error": {"message": "%s", "code": "%s"}}' % (message.encode(), code.encode())
    return script


async def test_a_prompt_that_is_too_long_goes_to_a_larger_model() -> None:
    async with running_provider() as small, running_provider() as same, running_provider() as large:
        small.script(refusal(400, "context_length_exceeded", "maximum context length is 8 tokens"))
        settings = over(small, same, large)
        for deployment, size in zip(settings["deployments"], (8000, 8000, 64000), strict=True):
            deployment["context_tokens"] = size
        async with running_server(**settings) as app, connected(app.url) as client:
            await client.create("r1", "c1", "hello")
            assert (await client.terminal("r1"))["type"] == "message.completed"
            failed = await client.event("step.failed", "r1")
            assert (failed["reason"], failed["next"]) == ("context_too_long", "d2")
            assert same.requests == []


async def test_refused_content_does_not_hop_around() -> None:
    async with running_provider() as first, running_provider() as second:
        first.script(refusal(400, "content_filter", "The response was filtered"))
        async with running_server(**over(first, second)) as app, connected(app.url) as client:
            await client.create("r1", "c1", "hello")
            ending = await client.terminal("r1")
            assert (ending["error"]["code"], ending["error"]["retryable"]) == ("provider_error", False)
            assert (await client.event("step.failed", "r1"))["reason"] == "content_refused"
            assert second.requests == []


async def test_a_dead_primary_costs_its_limit_a_few_times_and_then_nothing() -> None:
    async with running_provider(0, Script.never_answers()) as dead, running_provider() as good:
        async with (
            running_server(**over(dead, good, first_token_timeout_s=1)) as app,
            connected(app.url) as client,
        ):
            took = []
            for number in range(6):
                began = time.monotonic()
                await client.create(f"r{number}", f"c{number}", "hello")
                assert (await client.terminal(f"r{number}"))["type"] == "message.completed"
                took.append(time.monotonic() - began)
            assert all(1 <= each < 2.5 for each in took[:3]), took
            assert all(each < 1 for each in took[3:]), took
            assert len(dead.requests) == 3


# Who may use what.


async def test_a_request_chooses_among_the_routes_that_its_tenant_may_use() -> None:
    async with running_provider() as plain, running_provider() as beta:
        settings = over(plain, beta)
        settings["routes"] = [
            {"name": "default", "deployments": ["d0"]},
            {"name": "other", "deployments": ["d1"]},
            {"name": "beta", "deployments": ["d1"], "features": ["beta"]},
        ]
        settings["tenants"] = {"default": {"routes": ["other"]}}
        async with running_server(**settings) as app, connected(app.url) as client:
            await client.create("r1", "c1", "hello", route="other")
            await client.terminal("r1")
            assert len(beta.requests) == 1
            for name in ("beta", "nowhere"):
                with pytest.raises(CallError) as refused:
                    await client.create(f"r-{name}", "c1", "hello", route=name)
                assert refused.value.code == "bad_command"
                assert f"there is no route '{name}'" in str(refused.value)
