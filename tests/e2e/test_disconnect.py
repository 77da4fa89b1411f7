"""Leaving is not cancelling (DESIGN, guarantee 6), unless the request asked for it."""

from __future__ import annotations

from tests.support.client import connected
from tests.support.provider import Gate, Script
from tests.support.stack import running_stack


async def test_a_turn_goes_on_when_everybody_has_left() -> None:
    gate = Gate()
    async with running_stack() as (provider, app):
        provider.script(Script.text("one ", gate, "two"))
        async with connected(app.url) as client:
            await client.create("r1", "c1", "hello")
            await client.event("output_text.delta")
            cursor = client.cursor("c1")
        gate.open()
        await provider.until(lambda: provider.requests[0].is_over())
        async with connected(app.url, resume=[{"conversation_id": "c1", "since": cursor}], before=client) as client:
            ending = await client.terminal("r1")
            assert ending["message"]["parts"] == [{"kind": "text", "text": "one two"}]
        assert provider.requests[0].gone_at is None


async def test_on_disconnect_cancel_ends_the_turn_after_the_grace_time() -> None:
    async with running_stack(limits={"disconnect_grace_s": 0.2}) as (provider, app):
        provider.script(Script.stalled_after("one "))
        async with connected(app.url) as client:
            await client.create("r1", "c1", "hello", on_disconnect="cancel")
            await client.event("output_text.delta")
        await provider.client_gone(0)
        async with connected(app.url) as client:
            await client.open("c1")
            await client.until(lambda: not client.folds["c1"].active if "c1" in client.folds else False)
            assert (await client.status("r1"))["state"] == "cancelled"


async def test_on_disconnect_cancel_waits_for_the_last_connection_of_the_author() -> None:
    gate = Gate()
    async with running_stack(limits={"disconnect_grace_s": 0.05}) as (provider, app):
        provider.script(Script.text("one ", gate, "two"))
        async with connected(app.url) as other:
            await other.open("c1")
            async with connected(app.url) as client:
                await client.create("r1", "c1", "hello", on_disconnect="cancel")
                await client.event("output_text.delta")
            # More than the grace time in which nothing must happen: three ping rounds of 0.05 s each.
            for _ in range(3):
                await other.call({"type": "ping"})
                await other.until(lambda: other.text("r1") == "one ")
            gate.open()
            assert (await other.terminal("r1"))["type"] == "message.completed"


async def test_coming_back_within_the_grace_time_keeps_the_turn() -> None:
    gate = Gate()
    async with running_stack(limits={"disconnect_grace_s": 1}) as (provider, app):
        provider.script(Script.text("one ", gate, "two"))
        async with connected(app.url) as client:
            await client.create("r1", "c1", "hello", on_disconnect="cancel")
            await client.event("output_text.delta")
        async with connected(app.url) as client:
            await client.open("c1")
            gate.open()
            assert (await client.terminal("r1"))["type"] == "message.completed"
