"""At most one turn per request id (DESIGN, guarantee 3), across retries, tabs and a very long time."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.client import CallError, connected
from tests.support.provider import Gate, Script
from tests.support.server import forward, token
from tests.support.stack import running_stack


async def test_five_connections_with_the_same_request_make_one_call_and_see_the_same() -> None:
    gate = Gate()
    async with running_stack() as (provider, app), AsyncExitStack() as stack:
        provider.script(Script.text("one ", gate, "two"))
        clients = [await stack.enter_async_context(connected(app.url)) for _ in range(5)]
        acks = await asyncio.gather(*(client.create("r1", "c1", "the same") for client in clients))
        assert sorted(ack["duplicate"] for ack in acks) == [False, True, True, True, True]
        gate.open()
        for client in clients:
            await client.terminal("r1")
        views = [client.folds["c1"].view() for client in clients]
        assert all(view == views[0] for view in views)
        assert len(provider.requests) == 1


async def test_other_content_under_the_same_id_is_refused() -> None:
    async with running_stack(jwt=True) as (_provider, app):
        async with connected(app.url, token=token("alice")) as alice, connected(app.url, token=token("bob")) as bob:
            await alice.create("r1", "c1", "hello")
            for client, conversation, text in ((alice, "c1", "other"), (alice, "c2", "hello"), (bob, "c3", "hello")):
                with pytest.raises(CallError) as refused:
                    await client.create("r1", conversation, text)
                assert refused.value.code == "idempotency_conflict"
            await alice.terminal("r1")


async def test_the_same_input_as_text_or_as_a_part_is_the_same_content() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        await client.create("r1", "c1", "hello")
        again = await client.call(
            {
                "type": "request.create",
                "request_id": "r1",
                "conversation_id": "c1",
                "input": [{"kind": "text", "text": "hello"}],
            }
        )
        assert again["duplicate"] is True
        await client.terminal("r1")
        assert len(provider.requests) == 1


async def test_a_refused_create_leaves_the_id_free() -> None:
    gate = Gate()
    async with running_stack() as (provider, app), connected(app.url) as client:
        provider.script(Script.text("one ", gate, "two"))
        await client.create("r1", "c1", "hello")
        with pytest.raises(CallError) as refused:
            await client.create("r2", "c1", "busy?", on_busy="reject")
        assert refused.value.code == "busy"
        with pytest.raises(CallError) as unknown:
            await client.status("r2")
        assert unknown.value.code == "not_found"
        with pytest.raises(CallError) as refused:
            await client.create("r2", "c1", "no such route", route="nowhere")
        assert refused.value.code == "bad_command"
        gate.open()
        ack = await client.create("r2", "c2", "something else altogether")
        assert ack["duplicate"] is False
        assert (await client.terminal("r2"))["type"] == "message.completed"


async def test_a_duplicate_is_never_refused_for_being_busy() -> None:
    gate = Gate()
    async with running_stack() as (provider, app), connected(app.url) as client:
        provider.script(Script.text("one ", gate, "two"))
        await client.create("r1", "c1", "hello")
        again = await client.create("r1", "c1", "hello", on_busy="reject")
        assert again["duplicate"] is True
        assert again["verdict"] == "live"
        gate.open()
        await client.terminal("r1")


async def test_a_repeat_with_a_cursor_resumes_from_there() -> None:
    async with running_stack() as (_provider, app):
        async with connected(app.url) as client:
            ack = await client.create("r1", "c1", "hello")
            await client.terminal("r1")
            whole = client.folds["c1"].view()
        async with connected(app.url) as client:
            since = {"epoch": ack["epoch"], "seq": ack["seq"]}
            again = await client.create("r1", "c1", "hello", since=since)
            assert again["verdict"] == "replayed"
            assert again["missed"] == again["seq"] - ack["seq"]
            assert again["state"] == "completed"
            await client.terminal("r1")
            assert client.text("r1") == "".join(
                part["text"] for part in whole["messages"][1]["parts"] if part["kind"] == "text"
            )


async def test_a_repeat_months_later_answers_with_a_snapshot(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as (provider, app):
        async with connected(app.url) as client:
            await client.create("r1", "c1", "hello")
            await client.terminal("r1")
        forward(app, 90 * 24 * 3600)
        assert await app.front.services.log.trim() > 0
        async with connected(app.url) as client:
            again = await client.create("r1", "c1", "hello")
            assert (again["duplicate"], again["state"], again["verdict"]) == (True, "completed", "snapshot")
            snapshot = await client.event("conversation.snapshot")
            assert [m["role"] for m in snapshot["messages"]] == ["user", "assistant"]
            resumed = await client.call({"type": "request.resume", "request_id": "r1"})
            assert resumed["state"] == "completed"
            with pytest.raises(CallError) as refused:
                await client.create("r1", "c1", "something else")
            assert refused.value.code == "idempotency_conflict"
        assert len(provider.requests) == 1


async def test_a_place_that_the_archive_has_given_away_is_not_given_again() -> None:
    """A claim that the log has lost may have reached the archive after the log had counted on from there."""
    async with running_stack() as (provider, app), connected(app.url) as client:
        await client.create("r1", "c1", "hello")
        await client.terminal("r1")
        archive = app.front.services.archive
        first = await archive.request("default", "r1")
        assert first is not None
        asked = replace(first.input, message_id="u-lost", request_id="lost", ordinal=2, parent_id=first.answer_id)
        lost = replace(first, request_id="lost", ordinal=2, input=asked, answer_id="a-lost", answer=None)
        assert (await archive.insert_request("u-lost", lost))[1]
        ack = await client.create("r2", "c1", "again")
        assert ack["duplicate"] is False
        await client.terminal("r2")
        second = await archive.request("default", "r2")
        assert second is not None
        assert (second.state, second.ordinal) == ("completed", 3)
        assert len(provider.requests) == 2
