"""Leaving is not cancelling (DESIGN, guarantee 6), unless the request asked for it."""

from __future__ import annotations

import asyncio

from tests.support.client import connected
from tests.support.provider import Gate, Script
from tests.support.server import token
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


async def test_a_connection_that_broke_counts_as_gone() -> None:
    async with running_stack(limits={"disconnect_grace_s": 0.05}) as (provider, app):
        provider.script(Script.stalled_after("one "))
        async with connected(app.url) as client:
            await client.create("r1", "c1", "hello", on_disconnect="cancel")
            await client.event("output_text.delta")
            client.socket.transport.abort()
            await provider.client_gone(0)
        async with connected(app.url) as client:
            await client.open("c1")
            await client.until(lambda: "c1" in client.folds and not client.folds["c1"].active)
            assert (await client.status("r1"))["state"] == "cancelled"


async def test_leaving_the_conversation_counts_as_gone_though_the_connection_stays() -> None:
    async with running_stack(limits={"disconnect_grace_s": 0.05}) as (provider, app), connected(app.url) as client:
        provider.script(Script.stalled_after("one "))
        await client.create("r1", "c1", "hello", on_disconnect="cancel")
        await client.event("output_text.delta")
        await client.call({"type": "conversation.leave", "conversation_id": "c1"})
        await provider.client_gone(0)


async def test_a_queued_request_is_cancelled_with_its_author_gone_and_those_of_others_are_not() -> None:
    gate = Gate()
    async with (
        running_stack(jwt=True, limits={"disconnect_grace_s": 0.05}) as (provider, app),
        connected(app.url, token=token("bob")) as bob,
    ):
        provider.script(Script.text("one ", gate, "two"))
        await bob.create("r-bob", "c1", "hello", on_disconnect="cancel")
        await bob.event("output_text.delta")
        share = {"type": "conversation.share", "conversation_id": "c1", "user_id": "alice", "role": "editor"}
        await bob.call(share)
        async with connected(app.url, token=token("alice")) as alice:
            await alice.create("r-alice", "c1", "hello", on_disconnect="cancel")
            await alice.event("request.queued", "r-alice")
            await alice.create("r-stays", "c1", "hello")
            await alice.event("request.queued", "r-stays")
        ending = await bob.terminal("r-alice")
        assert (ending["type"], ending["by"]) == ("message.cancelled", "alice")
        gate.open()
        assert (await bob.terminal("r-bob"))["type"] == "message.completed"
        assert (await bob.terminal("r-stays"))["type"] == "message.completed"


async def test_a_close_by_the_server_does_not_count() -> None:
    """Silence was the reason here; a person on a bad line must not lose the answer for it."""
    gate = Gate()
    limits = {"disconnect_grace_s": 0.05, "heartbeat_s": 0.1}
    async with running_stack(jwt=True, limits=limits) as (provider, app):
        provider.script(Script.text("one ", gate, "two"))
        async with (
            connected(app.url, token=token("op", scopes=("conversations:read",))) as other,
            connected(app.url, token=token("alice")) as alice,
        ):
            await alice.create("r1", "c1", "hello", on_disconnect="cancel")
            await alice.event("output_text.delta")
            loop = asyncio.get_running_loop()
            gone_at: float | None = None
            async with asyncio.timeout(60):
                while gone_at is None or loop.time() < gone_at + 0.2:
                    await other.call({"type": "ping"})
                    if gone_at is None and len(app.front.sessions) == 1:
                        gone_at = loop.time()
            assert alice.socket.close_code == 4003
        gate.open()
        await provider.until(lambda: provider.requests[0].is_over())
        assert provider.requests[0].gone_at is None
        async with connected(app.url, token=token("alice")) as back:
            await back.open("c1")
            await back.until(lambda: "c1" in back.folds and not back.folds["c1"].active)
            assert (await back.status("r1"))["state"] == "completed"


async def test_the_provider_sees_the_same_traffic_whether_followers_leave_or_stay() -> None:
    seen = []
    for leave in (False, True):
        gates = [Gate() for _ in range(5)]
        async with running_stack() as (provider, app):
            provider.script(Script.text(*(step for n, gate in enumerate(gates) for step in (f"w{n} ", gate))))
            async with connected(app.url) as watcher:
                await watcher.open("c1")
                async with connected(app.url) as client:
                    await client.create("r1", "c1", "hello")
                    await client.event("output_text.delta")
                    if leave:
                        await client.socket.close()
                        await watcher.socket.close()
                    for gate in gates:
                        gate.open()
                    await provider.until(lambda provider=provider: provider.requests[0].is_over())  # type: ignore[misc]
            (request,) = provider.requests
            assert request.gone_at is None
            seen.append((request.body, request.sent))
    assert seen[0] == seen[1]
