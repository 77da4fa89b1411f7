"""Requests that wait: their order, their positions, and who is next when one ends in any way."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.client import CallError, Client, connected
from tests.support.provider import ControlledProvider, Do, Gate, Script
from tests.support.server import token
from tests.support.stack import running_stack


async def _busy(client: Client, provider: ControlledProvider, waiting: int, *first: Any) -> Gate:
    """`r0` runs in `c1` until the gate opens, `r1`… wait."""
    gate = Gate()
    provider.script(Script.text("one ", gate, *(first or ("two",))))
    for number in range(waiting + 1):
        await client.create(f"r{number}", "c1", f"U{number}")
    await client.event("output_text.delta", "r0")
    if waiting:
        await client.event("request.queued", f"r{waiting}")
    return gate


def _positions(client: Client, request_id: str) -> list[tuple[int, str | None]]:
    return [(m["position"], m.get("behind")) for m in client.events("request.queued", request_id)]


def _order_of_starts(client: Client) -> list[str]:
    return [message["request_id"] for message in client.events("message.started")]


async def test_what_waits_runs_in_its_order_one_at_a_time() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        gate = await _busy(client, provider, 4)
        gate.open()
        await client.terminal("r4")
        assert _order_of_starts(client) == ["r0", "r1", "r2", "r3", "r4"]
        assert provider.most_open == 1
        kinds = [
            (m["type"], m["request_id"])
            for m in client.messages
            if m["type"] in ("message.started",) or m.get("terminal")
        ]
        assert [kind for kind, _ in kinds] == ["message.started", "message.completed"] * 5


async def test_positions_count_from_one_and_move_up() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        second = Gate()
        gate = await _busy(client, provider, 3)
        provider.script(Script.text("A", second))
        assert [_positions(client, f"r{n}") for n in (1, 2, 3)] == [[(1, "r0")], [(2, "r0")], [(3, "r0")]]
        assert (await client.status("r3"))["position"] == 3
        gate.open()
        await client.until(lambda: len(_positions(client, "r3")) == 2)
        assert _positions(client, "r2")[-1] == (1, "r1")
        assert _positions(client, "r3")[-1] == (2, "r1")
        status = await client.status("r3")
        assert (status["state"], status["position"]) == ("queued", 2)
        second.open()
        await client.terminal("r3")
        assert "position" not in await client.status("r3")


async def test_cancelling_one_in_the_middle_moves_the_others_up_and_disturbs_nobody() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        gate = await _busy(client, provider, 3)
        await client.cancel("r2")
        assert (await client.terminal("r2"))["type"] == "message.cancelled"
        await client.until(lambda: len(_positions(client, "r3")) == 2)
        assert _positions(client, "r3")[-1][0] == 2
        assert (await client.status("r0"))["state"] == "streaming"
        gate.open()
        await client.terminal("r3")
        assert _order_of_starts(client) == ["r0", "r1", "r3"]
        asked = [message["content"] for message in provider.requests[-1].messages if message["role"] == "user"]
        assert asked == ["U0", "U1", "U3"]


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled", "incomplete"])
async def test_the_next_starts_however_the_one_before_ends(end: str) -> None:
    first: tuple[Any, ...] = (Do.CUT,) if end == "failed" else ("two",)
    async with running_stack() as (provider, app), connected(app.url) as client:
        gate = Gate()
        provider.script(Script.text("one ", gate, *first, finish="length" if end == "incomplete" else "stop"))
        await client.create("r0", "c1", "U0")
        await client.create("r1", "c1", "U1")
        await client.event("output_text.delta", "r0")
        if end == "cancelled":
            await client.cancel("r0")
        gate.open()
        assert (await client.terminal("r0"))["type"] == f"message.{end}"
        assert (await client.terminal("r1"))["type"] == "message.completed"
        prompt = provider.requests[1].messages
        assert [message["role"] for message in prompt] == ["user", "assistant", "user"]
        assert prompt[1]["content"].startswith("one ")


async def test_reject_is_busy_while_one_runs_and_says_behind_whom() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        gate = await _busy(client, provider, 0)
        with pytest.raises(CallError) as refused:
            await client.create("r1", "c1", "hello", on_busy="reject")
        assert (refused.value.code, refused.value.error["retryable"]) == ("busy", True)
        assert refused.value.error["details"] == {"behind": "r0"}
        assert refused.value.error["request_id"] == "r1"
        await client.create("r1", "c2", "another conversation is not busy", on_busy="reject")
        gate.open()
        await client.terminal("r0")
        await client.create("r2", "c1", "now it is free", on_busy="reject")
        assert (await client.terminal("r2"))["type"] == "message.completed"


async def test_a_cancelled_queue_frees_its_places() -> None:
    async with running_stack(limits={"queued_per_conversation": 1}) as (provider, app), connected(app.url) as client:
        gate = await _busy(client, provider, 1)
        with pytest.raises(CallError) as refused:
            await client.create("r2", "c1", "hello")
        assert refused.value.code == "busy"
        await client.cancel("r1")
        await client.terminal("r1")
        assert (await client.create("r2", "c1", "hello"))["state"] == "queued"
        gate.open()
        assert (await client.terminal("r2"))["type"] == "message.completed"


async def test_conversations_do_not_wait_for_each_other() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        gates = [Gate() for _ in range(4)]
        provider.script(*(Script.text("one ", gate, "two") for gate in gates))
        for number in range(4):
            await client.create(f"r{number}", f"c{number}", "hello")
        for number in range(4):
            await client.event("output_text.delta", f"r{number}")
        assert provider.most_open == 4
        for number in (3, 1, 2, 0):
            gates[number].open()
            await client.terminal(f"r{number}")


async def test_cancelling_all_at_once_ends_each_once_and_in_any_order() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client, connected(app.url) as watcher:
        for round_ in range(5):
            conversation = f"c{round_}"
            provider.script(Script.stalled_after("one "))
            requests = [f"r{round_}.{number}" for number in range(5)]
            await watcher.open(conversation)
            for request in requests:
                await client.create(request, conversation, "hello")
            await client.send(*({"type": "request.cancel", "request_id": request} for request in reversed(requests)))
            for request in requests:
                assert (await watcher.terminal(request))["type"] == "message.cancelled"
                assert len([m for m in watcher.messages if m.get("terminal") and m["request_id"] == request]) == 1
            await watcher.until(lambda c=conversation: not watcher.folds[c].active)  # type: ignore[misc]
        assert len(provider.requests) <= 5


async def test_the_queue_is_one_for_all_members() -> None:
    async with (
        running_stack(jwt=True) as (provider, app),
        connected(app.url, token=token("alice")) as alice,
        connected(app.url, token=token("bob")) as bob,
    ):
        gate = await _busy(alice, provider, 1)
        share = {"type": "conversation.share", "conversation_id": "c1", "user_id": "bob", "role": "editor"}
        await alice.call(share)
        ack = await bob.create("r-bob", "c1", "from bob")
        assert ack["state"] == "queued"
        await bob.event("request.queued", "r-bob")
        assert _positions(bob, "r-bob") == [(2, "r0")]
        gate.open()
        await alice.terminal("r-bob")
        assert _order_of_starts(alice) == ["r0", "r1", "r-bob"]
        assert alice.events("message.created", "r-bob")[0]["message"]["author"] == "bob"
