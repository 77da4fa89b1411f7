"""Cancel is a fact (DESIGN, guarantee 5): in every state, from everywhere, and the provider's socket goes at once."""

from __future__ import annotations

import asyncio
import statistics
import time
from contextlib import AsyncExitStack

import pytest
from tests.support.client import CallError, Client, connected
from tests.support.provider import Gate, Script
from tests.support.server import forward, token
from tests.support.stack import running_stack


async def test_cancel_before_the_request_exists_ends_it_at_once_and_asks_no_provider() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        assert (await client.cancel("r1", reason="changed my mind"))["outcome"] == "recorded"
        ack = await client.create("r1", "c1", "never to be answered")
        assert ack["duplicate"] is False
        ending = await client.terminal("r1")
        assert ending["type"] == "message.cancelled"
        assert ending["by"] == "dev"
        assert ending["reason"] == "changed my mind"
        assert client.events("message.started") == []
        assert client.events("usage.completed") == []
        assert provider.requests == []


async def test_a_recorded_cancel_of_another_user_changes_nothing() -> None:
    async with running_stack(jwt=True) as (_provider, app):
        async with connected(app.url, token=token("mallory")) as mallory:
            assert (await mallory.cancel("r1"))["outcome"] == "recorded"
        async with connected(app.url, token=token("alice")) as alice:
            await alice.create("r1", "c1", "hello")
            assert (await alice.terminal("r1"))["type"] == "message.completed"


async def test_cancel_while_queued_ends_it_and_the_provider_never_hears_of_it() -> None:
    gate = Gate()
    async with running_stack() as (provider, app), connected(app.url) as client:
        provider.script(Script.text("one ", gate, "two"))
        await client.create("r1", "c1", "first")
        ack = await client.create("r2", "c1", "second")
        assert ack["state"] == "queued"
        await client.event("request.queued", "r2")
        assert (await client.cancel("r2"))["outcome"] == "cancelling"
        ending = await client.terminal("r2")
        assert ending["type"] == "message.cancelled"
        gate.open()
        assert (await client.terminal("r1"))["type"] == "message.completed"
        await client.create("r3", "c1", "third")
        await client.terminal("r3")
        assert len(provider.requests) == 2
        assert "second" not in str(provider.requests[1].messages)


async def test_cancel_before_the_first_token_closes_the_provider() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        provider.script(Script.never_answers())
        await client.create("r1", "c1", "hello")
        await provider.request_received()
        await client.cancel("r1")
        await provider.client_gone(0)
        ending = await client.terminal("r1")
        assert ending["type"] == "message.cancelled"
        usage = await client.event("usage.completed", "r1")
        assert usage["source"] == "estimated"
        assert [attempt["outcome"] for attempt in usage["attempts"]] == ["cancelled"]


async def test_cancel_in_mid_stream_keeps_what_was_sent_and_nothing_follows_the_end() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client, connected(app.url) as other:
        provider.script(Script.stalled_after("one ", "two "))
        await other.open("c1")
        await client.create("r1", "c1", "hello")
        await client.until(lambda: client.text("r1") == "one two ")
        await client.cancel("r1")
        ending = await client.terminal("r1")
        assert ending["message"]["parts"] == [{"kind": "text", "text": "one two "}]
        assert ending["message"]["status"] == "cancelled"
        assert [m["type"] for m in client.events(request_id="r1") if "seq" in m and "ref" not in m][-2:] == [
            "usage.completed",
            "message.cancelled",
        ]
        await other.terminal("r1")
        assert (await client.call({"type": "ping"}))["type"] == "pong"
        assert client.events(request_id="r1")[-1]["type"] == "message.cancelled"
        await provider.client_gone(0)
        await client.create("r2", "c1", "and now")
        await client.terminal("r2")
        sent = provider.requests[1].messages
        assert [m["role"] for m in sent] == ["user", "assistant", "user"]
        assert sent[1]["content"] == "one two "


async def test_cancel_twice_is_answered_twice_and_after_the_end_says_how_it_ended() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        provider.script(Script.stalled_after("one "))
        await client.create("r1", "c1", "hello")
        await client.event("output_text.delta")
        await client.send(*({"type": "request.cancel", "request_id": "r1", "id": mark} for mark in ("x1", "x2")))
        first, second = await client.answer("x1"), await client.answer("x2")
        assert first["outcome"] == "cancelling"
        assert second["outcome"] in ("cancelling", "already_terminal")
        await client.terminal("r1")
        late = await client.cancel("r1")
        assert (late["outcome"], late["state"]) == ("already_terminal", "cancelled")
        await client.create("r2", "c1", "again")
        await client.terminal("r2")
        late = await client.cancel("r2")
        assert (late["outcome"], late["state"]) == ("already_terminal", "completed")


async def test_cancel_from_another_connection_of_the_user() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client, connected(app.url) as other:
        provider.script(Script.stalled_after("one "))
        await client.create("r1", "c1", "hello")
        await client.event("output_text.delta")
        assert (await other.cancel("r1"))["outcome"] == "cancelling"
        assert (await client.terminal("r1"))["type"] == "message.cancelled"


async def test_another_users_cancel_is_recorded_and_nothing_comes_of_it() -> None:
    gate = Gate()
    async with running_stack(jwt=True) as (provider, app):
        provider.script(Script.text("one ", gate, "two"))
        async with connected(app.url, token=token("alice")) as alice, connected(app.url, token=token("bob")) as bob:
            await alice.create("r1", "c1", "hello")
            await alice.event("output_text.delta")
            assert (await bob.cancel("r1"))["outcome"] == "recorded"
            gate.open()
            assert (await alice.terminal("r1"))["type"] == "message.completed"


async def test_an_owner_cancels_anybodys_request_and_an_editor_only_its_own() -> None:
    async with running_stack(jwt=True) as (provider, app):
        provider.script(Script.stalled_after("one "), Script.stalled_after("two "))
        async with connected(app.url, token=token("alice")) as alice, connected(app.url, token=token("bob")) as bob:
            await alice.open("c1")
            await alice.call(
                {"type": "conversation.share", "conversation_id": "c1", "user_id": "bob", "role": "editor"}
            )
            await bob.create("r1", "c1", "from bob")
            await bob.event("output_text.delta", "r1")
            await alice.cancel("r1")
            ending = await bob.terminal("r1")
            assert ending["by"] == "alice"
            await alice.create("r2", "c1", "from alice")
            await bob.event("output_text.delta", "r2")
            with pytest.raises(CallError) as refused:
                await bob.cancel("r2")
            assert refused.value.code == "forbidden"


async def test_after_the_ack_this_connection_gets_no_more_deltas_but_every_seq() -> None:
    """The deltas in between are covered by the `from_seq` of what follows; the client's own checks find no gap."""
    gates = [Gate() for _ in range(3)]
    async with running_stack() as (provider, app), connected(app.url) as client, connected(app.url) as other:
        steps = [step for gate in gates for step in ("word ", gate)]
        provider.script(Script.text(*steps, "end"))
        await other.open("c1")
        await client.create("r1", "c1", "hello")
        await client.event("output_text.delta")
        for gate in gates:
            gate.open()
        await client.cancel("r1")
        mark = len(client.messages)
        await client.terminal("r1")
        assert [m["type"] for m in client.messages[mark:] if m["type"].endswith(".delta")] == []
        await other.terminal("r1")
        await other.until(lambda: other.folds["c1"].seq >= client.folds["c1"].seq)
        assert client.folds["c1"].view() == other.folds["c1"].view()


async def test_a_cancel_that_races_the_end_is_never_acknowledged_and_then_completed() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        for number in range(25):
            gate = Gate()
            provider.script(Script.text("answer ", gate))
            request = f"r{number}"
            await client.create(request, f"c{number}", "hello")
            await client.event("output_text.delta", request)
            gate.open()
            for _ in range(number % 5):
                await asyncio.sleep(0)
            answer = await client.cancel(request)
            ending = await client.terminal(request)
            if answer["outcome"] == "cancelling":
                assert ending["type"] == "message.cancelled"
            else:
                assert answer["outcome"] == "already_terminal"
                assert ending["type"] == "message.completed"


async def test_the_provider_sees_its_socket_closed_within_50_ms_of_the_cancel_frame() -> None:
    waits: list[float] = []
    async with running_stack() as (provider, app), connected(app.url) as client:
        for number in range(20):
            waits.append(await _cancel_wait(provider, client, number))
    assert statistics.median(waits) <= 0.050, waits


async def _cancel_wait(provider: object, client: Client, number: int) -> float:
    provider.script(Script.stalled_after("one ", "two "))  # type: ignore[attr-defined]
    request = f"r{number}"
    await client.create(request, f"c{number}", "hello")
    await client.until(lambda: client.text(request) == "one two ")
    began = time.monotonic()
    await client.send({"type": "request.cancel", "request_id": request})
    gone = await provider.client_gone(number)  # type: ignore[attr-defined]
    await client.terminal(request)
    return float(gone - began)


async def test_cancel_while_a_tool_runs_stops_the_tool_and_tells_the_truth_of_it() -> None:
    tools = {"modules": ["tests.support.shop_tools"]}
    async with running_stack(tools=tools) as (provider, app), connected(app.url) as client:
        provider.script(Script.tool_call("count", '{"seconds": 10}'))
        await client.create("r1", "c1", "count")
        await client.event("tool.progress")
        began = time.monotonic()
        await client.cancel("r1")
        ending = await client.terminal("r1")
        assert time.monotonic() - began < 0.5, "the countdown takes a second"
        assert ending["type"] == "message.cancelled"
        (call,) = ending["message"]["parts"]
        assert call["state"] == "failed"
        (failed,) = client.events("tool.failed", "r1")
        assert failed["outcome"] == "cancelled"
        assert len(provider.requests) == 1
        await client.create("r2", "c1", "go on")
        await client.terminal("r2")
        prompt = provider.requests[1].messages
        assert [message["role"] for message in prompt] == ["user", "assistant", "tool", "user"]
        assert prompt[2]["content"].startswith("Error: ")


async def test_a_recorded_cancel_is_forgotten_after_its_time() -> None:
    async with running_stack(limits={"recorded_cancel_s": 600}) as (provider, app), connected(app.url) as client:
        await client.cancel("r1")
        await client.cancel("r2")
        forward(app, 590)
        await client.create("r1", "c1", "still too early")
        assert (await client.terminal("r1"))["type"] == "message.cancelled"
        forward(app, 610)
        await client.create("r2", "c1", "late enough")
        assert (await client.terminal("r2"))["type"] == "message.completed"
        assert len(provider.requests) == 1


async def test_cancel_of_a_request_that_ended_long_ago_says_how_it_ended() -> None:
    async with running_stack() as (_provider, app), connected(app.url) as client:
        await client.create("r1", "c1", "hello")
        await client.terminal("r1")
        forward(app, 90 * 24 * 3600)
        await app.front.services.log.trim()
        answer = await client.cancel("r1")
        assert (answer["outcome"], answer["state"]) == ("already_terminal", "completed")


async def test_cancel_during_a_fallback_ends_it_and_asks_no_further_deployment() -> None:
    routes = [{"name": "default", "deployments": ["test"], "max_attempts": 3}]
    async with running_stack(routes=routes) as (provider, app), connected(app.url) as client:
        provider.script(Script.cut_after("half "), Script.never_answers())
        await client.create("r1", "c1", "hello")
        await client.event("part.reset")
        await provider.request_received(1)
        assert (await client.cancel("r1"))["outcome"] == "cancelling"
        ending = await client.terminal("r1")
        assert ending["type"] == "message.cancelled"
        assert ending["message"]["parts"] == []  # what was sent has been taken back
        await provider.client_gone(1)
        usage = await client.event("usage.completed", "r1")
        assert [attempt["outcome"] for attempt in usage["attempts"]] == ["failed", "cancelled"]
        assert len(provider.requests) == 2


async def test_every_connection_may_cancel_at_once_and_all_are_told_the_truth() -> None:
    async with running_stack() as (provider, app), AsyncExitStack() as stack:
        provider.script(Script.stalled_after("one "))
        clients = [await stack.enter_async_context(connected(app.url)) for _ in range(5)]
        await clients[0].create("r1", "c1", "hello")
        await clients[0].event("output_text.delta")
        answers = await asyncio.gather(*(client.cancel("r1") for client in clients))
        for answer in answers:
            assert answer["outcome"] == "cancelling" or answer["state"] == "cancelled"
        assert (await clients[0].terminal("r1"))["type"] == "message.cancelled"
        rows = await app.front.services.archive.usage("default", "r1")
        assert [row.outcome for row in rows] == ["cancelled"]
