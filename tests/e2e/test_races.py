"""Moments that are a millisecond long in life, held open here: one step of the log waits until the test lets it go.

Each of these once ended wrongly, or would have; the story is above the test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tests.support.client import CallError, Client, connected
from tests.support.provider import Gate, Script
from tests.support.server import token
from tests.support.stack import running_stack

from turnwire_server.app import App
from turnwire_server.eventlog.base import LogUnavailable


class Held:
    """A step of the server's log that stops before it is carried out, from `Held(...)` until `release`.

    Only calls that `which` picks (by their arguments) are held. Unrealistic in that nothing else is slow.
    """

    def __init__(self, app: App, step: str, which: Callable[..., bool] = lambda *_: True) -> None:
        self._log: Any = app.front.services.log
        self._step, self._which = step, which
        self._original = getattr(self._log, step)
        self._open = asyncio.Event()
        self._reached = asyncio.Event()
        setattr(self._log, step, self._call)

    async def _call(self, *args: Any, **kwargs: Any) -> Any:
        if not self._open.is_set() and self._which(*args):
            self._reached.set()
            await self._open.wait()
        return await self._original(*args, **kwargs)

    async def reached(self) -> None:
        async with asyncio.timeout(60):
            await self._reached.wait()

    def release(self) -> None:
        setattr(self._log, self._step, self._original)
        self._open.set()


async def _until(client: Client, condition: Callable[[], bool]) -> None:
    """Wait for something inside the server, a ping's time at a go."""
    async with asyncio.timeout(60):
        while not condition():
            await client.call({"type": "ping"})


async def test_a_cancel_between_the_last_token_and_the_seal_wins() -> None:
    """The model has finished and the last append is under way: the turn knew that nobody had cancelled, and told
    the seal that it had heard everything, although a cancel had been heard, and acknowledged, meanwhile."""
    gate = Gate()
    async with running_stack() as (provider, app), connected(app.url) as client, connected(app.url) as other:
        provider.script(Script.text("one ", gate, "two"))
        await client.create("r1", "c1", "hello")
        await client.event("output_text.delta")
        append = Held(app, "append")
        gate.open()
        (turn,) = app.front.hub._turns
        await _until(other, lambda: bool(turn._ledger.attempts))  # the answer is whole, and waits for the log
        await append.reached()
        assert (await client.cancel("r1"))["outcome"] == "cancelling"
        append.release()
        ending = await client.terminal("r1")
        assert ending["type"] == "message.cancelled"
        assert ending["message"]["parts"] == [{"kind": "text", "text": "one two"}]
        assert (await client.status("r1"))["state"] == "cancelled"


async def test_a_cancel_stored_while_the_seal_is_repeated_wins() -> None:
    """The seal got no answer; before it is sent again a cancel is stored. The repeat must not claim to know it."""
    async with running_stack() as (provider, app), connected(app.url) as client:
        log: Any = app.front.services.log
        seal, lost, failed = log.seal, asyncio.Event(), asyncio.Event()

        async def seal_without_answer(*args: Any, **kwargs: Any) -> Any:
            if not lost.is_set():
                failed.set()
                raise LogUnavailable("the test")
            return await seal(*args, **kwargs)

        log.seal = seal_without_answer
        provider.script(Script.text("one"))
        await client.create("r1", "c1", "hello")
        async with asyncio.timeout(60):
            await failed.wait()
        assert (await client.cancel("r1"))["outcome"] == "cancelling"
        lost.set()
        assert (await client.terminal("r1"))["type"] == "message.cancelled"


async def _queue_of_three(client: Client, provider: Any) -> list[Gate]:
    gates = [Gate(), Gate(), Gate()]
    provider.script(*(Script.text("one ", gate, "two") for gate in gates))
    for number in (1, 2, 3):
        await client.create(f"r{number}", "c1", "hello")
    await client.event("output_text.delta", "r1")
    await client.event("request.queued", "r3")
    return gates


def _is_position(_op: str, _conversation: Any, events: Sequence[Any]) -> bool:
    return any(event.type == "request.queued" for event in events)


async def test_a_new_position_in_the_queue_never_follows_the_end_of_its_request() -> None:
    """The new positions are told after the request in front has ended; a cancel could come in between."""
    async with running_stack() as (provider, app), connected(app.url) as client:
        gates = await _queue_of_three(client, provider)
        emit = Held(app, "emit", _is_position)
        gates[0].open()
        await client.terminal("r1")
        await emit.reached()
        await client.cancel("r3")
        await client.terminal("r3")
        emit.release()
        gates[1].open()
        await client.terminal("r2")  # the client's fold refuses events of requests that have ended
        assert client.events(request_id="r3")[-1]["type"] == "message.cancelled"


async def test_a_new_position_in_the_queue_never_sends_a_running_request_back() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        gates = await _queue_of_three(client, provider)
        emit = Held(app, "emit", _is_position)
        gates[0].open()
        await client.terminal("r1")
        await emit.reached()
        gates[1].open()
        await client.event("output_text.delta", "r3")
        emit.release()
        gates[2].open()
        await client.terminal("r3")
        kinds = [message["type"] for message in client.events(request_id="r3") if "seq" in message]
        assert "request.queued" not in kinds[kinds.index("message.started") :]


async def test_a_request_that_was_acknowledged_is_known_before_its_first_event() -> None:
    """The ack says that it is owned; asked at once, the server said that it knew of no such request."""
    async with running_stack() as (_provider, app), connected(app.url) as client, connected(app.url) as other:
        append = Held(app, "append")
        await client.create("r1", "c1", "hello")
        await append.reached()
        assert (await client.status("r1"))["state"] == "preparing"
        resumed = await other.call({"type": "request.resume", "request_id": "r1"})
        assert (resumed["state"], resumed["verdict"]) == ("preparing", "snapshot")
        append.release()
        await client.terminal("r1")
        await other.terminal("r1")
        assert other.folds["c1"].view() == client.folds["c1"].view()


async def test_a_branch_that_nobody_has_seen_yet_changes_no_snapshot() -> None:
    """A new first message was claimed, not yet shown: the conversation seemed to end before its beginning."""
    async with running_stack() as (_provider, app), connected(app.url) as client:
        await client.create("r1", "c1", "hello")
        await client.terminal("r1")
        append = Held(app, "append")
        await client.create("r2", "c1", "another beginning", parent_id=None)
        await append.reached()
        async with connected(app.url) as fresh:
            await fresh.open("c1")
            snapshot = await fresh.event("conversation.snapshot")
            assert [message["request_id"] for message in snapshot["messages"]] == ["r1", "r1"]
            append.release()
            await fresh.terminal("r2")
            await client.terminal("r2")
            assert fresh.folds["c1"].view() == client.folds["c1"].view()


async def test_an_answer_in_a_snapshot_says_when_it_began() -> None:
    """The first checkpoint was made with the first events, before the log had said when they were written."""
    gate = Gate()
    async with running_stack() as (provider, app), connected(app.url) as client:
        provider.script(Script.text("one ", gate, "two"))
        await client.create("r1", "c1", "hello")
        await client.event("output_text.delta")
        async with connected(app.url) as fresh:
            await fresh.open("c1")
            (active,) = (await fresh.event("conversation.snapshot"))["active"]
            assert active["message"]["created_at"] == client.events("message.started")[0]["ts"]
            gate.open()
            ending = await fresh.terminal("r1")
            assert ending["message"]["created_at"] == active["message"]["created_at"]


@pytest.mark.parametrize("again", ["open with the cursor", "open without", "resume", "leave and open"])
async def test_after_the_ack_of_a_cancel_no_delta_comes_however_one_opens_again(again: str) -> None:
    gate = Gate()
    async with running_stack() as (provider, app), connected(app.url) as client, connected(app.url) as other:
        provider.script(Script.stalled_after("one ", gate, "two "))
        await other.open("c1")
        await client.create("r1", "c1", "hello")
        await client.event("output_text.delta")
        append = Held(app, "append")
        gate.open()
        await append.reached()  # a delta is under way that nobody has been shown
        await client.cancel("r1")
        mark, since = len(client.messages), client.cursor("c1")
        match again:
            case "open with the cursor":
                await client.open("c1", since=since)
            case "open without":
                await client.open("c1")
            case "resume":
                await client.call({"type": "request.resume", "request_id": "r1", "since": since})
            case "leave and open":
                await client.call({"type": "conversation.leave", "conversation_id": "c1"})
                await client.open("c1")
        append.release()
        ending = await client.terminal("r1")
        await other.terminal("r1")
        assert not [message for message in client.messages[mark:] if message["type"].endswith(".delta")]
        assert ending["message"]["parts"] == [{"kind": "text", "text": other.text("r1")}]
        assert client.folds["c1"].view() == other.folds["c1"].view()


async def test_a_request_whose_author_left_before_its_first_event_is_cancelled_too() -> None:
    """Create and go: the connection was gone before the request had an event, and was not seen to be bound to it."""
    async with running_stack(limits={"disconnect_grace_s": 0.05}) as (provider, app), connected(app.url) as other:
        provider.script(Script.stalled_after("one "))
        append = Held(app, "append")
        async with connected(app.url) as client:
            await client.create("r1", "c1", "hello", on_disconnect="cancel")
            await append.reached()
        loop = asyncio.get_running_loop()
        gone_at = loop.time()
        await _until(other, lambda: len(app.front.sessions) == 1 and loop.time() > gone_at + 0.1)
        append.release()
        await _until(other, lambda: not app.front.hub.running_turns)
        assert (await other.status("r1"))["state"] == "cancelled"


async def test_each_absence_of_the_author_has_its_own_grace_time() -> None:
    """Gone, back, gone again: the first absence's clock ran on, and cancelled the turn early in the second one."""
    async with running_stack(limits={"disconnect_grace_s": 0.4}) as (provider, app):
        provider.script(Script.stalled_after("one "))
        loop = asyncio.get_running_loop()
        async with connected(app.url) as client:
            await client.create("r1", "c1", "hello", on_disconnect="cancel")
            await client.event("output_text.delta")
        left = loop.time()
        async with connected(app.url) as client:
            await client.open("c1")
            async with asyncio.timeout(60):
                while loop.time() < left + 0.3:
                    await client.call({"type": "ping"})
        left = loop.time()
        await provider.client_gone(0)
        assert loop.time() - left >= 0.35


async def test_a_request_in_a_conversation_of_somebody_else_is_forbidden_as_creating_it_is() -> None:
    """`not_found` would be untrue twice: an absent conversation is made, and the id is there."""
    async with (
        running_stack(jwt=True) as (_provider, app),
        connected(app.url, token=token("alice")) as alice,
        connected(app.url, token=token("bob")) as bob,
    ):
        await alice.open("c1")
        with pytest.raises(CallError) as refused:
            await bob.create("r1", "c1", "hello")
        assert refused.value.code == "forbidden"
