"""Recovery says what it did (DESIGN, guarantee 7): never a silent gap, never doubled text.

The property: whatever a client missed, wherever its connection was cut, coming back with its cursor it folds to the
same state as one that never left. Cuts, queues, cancels and forced snapshots come from a seed.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from tests.support.client import CallError, Client, connected
from tests.support.provider import ControlledProvider, Gate, Script
from tests.support.server import forward
from tests.support.stack import running_stack

from turnwire_protocol import SUBPROTOCOLS
from turnwire_server.app import App


async def _disturbed(app: App, steady: Client, gates: list[Gate], rng: random.Random) -> Client:
    """A client that is cut after random numbers of frames and comes back by a random way, until all has ended."""
    last: Client | None = None
    while True:
        codec = rng.choice(SUBPROTOCOLS)
        async with connected(app.url, codec=codec, before=last) as client:
            await _come_back(client, last, rng)
            for _ in range(rng.randrange(1, 8)):
                if gates and rng.random() < 0.7:
                    gates.pop(0).open()
                if "c1" in client.folds and not gates and client.folds["c1"].seq >= await _end(steady):
                    return client
                try:
                    await client.read_frame(0.05)
                except TimeoutError:
                    break
            last = client


async def _end(steady: Client) -> int:
    """The log's end once everything has ended."""
    for request in ("r1", "r2", "r3"):
        await steady.terminal(request)
    return steady.folds["c1"].seq


async def _come_back(client: Client, last: Client | None, rng: random.Random) -> None:
    cursor = None if last is None or "c1" not in last.folds else last.cursor("c1")
    way = rng.randrange(5)
    fields: dict[str, Any] = {} if cursor is None else {"since": cursor}
    if way == 0:
        fields = {"since": {"epoch": "another", "seq": 3}}  # a snapshot is forced
    elif way == 1:
        fields = {}  # and so it is without a cursor
    elif way == 2 and cursor is not None:
        fields = {"since": {**cursor, "seq": cursor["seq"] + 1_000}}  # beyond the end
    if way == 3:
        await client.call({"type": "request.resume", "request_id": "r1", **fields})
    else:
        await client.open("c1", **fields)


@pytest.mark.parametrize("seed", range(12))
async def test_a_client_that_is_cut_anywhere_folds_to_the_same_as_one_that_never_was(seed: int) -> None:
    rng = random.Random(seed)
    gates = [Gate() for _ in range(24)]
    async with running_stack(limits={"checkpoint_events": rng.choice([1, 3, 200])}) as (provider, app):
        _scripts(provider, gates)
        async with connected(app.url) as steady:
            await steady.create("r1", "c1", "first 😀")
            await steady.create("r2", "c1", "second")
            await steady.create("r3", "c1", "third")
            if rng.random() < 0.5:
                await steady.cancel("r2")
            disturbed = await _disturbed(app, steady, list(gates), rng)
            for gate in gates:
                gate.open()
            await _end(steady)
            await disturbed_catches_up(app, disturbed, steady)


async def disturbed_catches_up(app: App, disturbed: Client, steady: Client) -> None:
    async with connected(app.url, before=disturbed) as client, connected(app.url) as fresh:
        await client.open("c1", since=disturbed.cursor("c1"))
        await client.until(lambda: client.folds["c1"].seq >= steady.folds["c1"].seq)
        await fresh.open("c1")
        await fresh.event("conversation.snapshot")
        assert client.folds["c1"].view() == steady.folds["c1"].view()
        assert fresh.folds["c1"].view() == steady.folds["c1"].view()


def _scripts(provider: ControlledProvider, gates: list[Gate]) -> None:
    thirds = [gates[at::3] for at in range(3)]
    for number, own in enumerate(thirds):
        steps: list[Any] = []
        for at, gate in enumerate(own):
            steps += [f"{number}.{at} ", "漢😀 ", gate]
        provider.script(Script.text(*steps, "end"))


async def test_a_cursor_gets_exactly_what_it_missed() -> None:
    async with running_stack() as (_provider, app):
        async with connected(app.url) as client:
            await client.create("r1", "c1", "hello there you")
            await client.terminal("r1")
            events = [m for m in client.messages if "seq" in m and "ref" not in m]
            epoch = client.folds["c1"].epoch
        for event in events:
            cursor = {"epoch": epoch, "seq": event["seq"]}
            async with connected(app.url) as client:
                opened = await client.open("c1", since=cursor)
                missed = len(events) - event["seq"]
                assert opened["verdict"] == ("replayed" if missed else "live")
                assert opened.get("missed", 0) == missed


async def test_what_lies_before_the_log_is_answered_with_a_snapshot(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as (_provider, app):
        async with connected(app.url) as client:
            await client.create("r1", "c1", "hello")
            await client.terminal("r1")
            cursor, view = {**client.cursor("c1"), "seq": 2}, client.folds["c1"].view()
        forward(app, 1800)
        await app.front.services.log.trim()
        async with connected(app.url) as client:
            assert (await client.open("c1", since=cursor))["verdict"] == "snapshot"
            await client.event("conversation.snapshot")
            assert client.folds["c1"].view() == view


async def test_hello_resumes_several_at_once_and_creates_nothing() -> None:
    async with running_stack() as (_provider, app):
        async with connected(app.url) as client:
            await client.create("r1", "c1", "hello")
            await client.terminal("r1")
            cursor = client.cursor("c1")
        entries = [
            {"conversation_id": "c1", "since": cursor},
            {"request_id": "r1"},
            {"conversation_id": "c-unknown"},
            {"request_id": "r-unknown"},
        ]
        async with connected(app.url, resume=entries) as client:
            assert (await client.answer("resume.0"))["verdict"] == "live"
            assert (await client.answer("resume.1"))["state"] == "completed"
            for mark in ("resume.2", "resume.3"):
                with pytest.raises(CallError) as refused:
                    await client.answer(mark)
                assert refused.value.code == "not_found"
            page = await client.call({"type": "conversation.list"})
            assert [item["conversation_id"] for item in page["items"]] == ["c1"]


async def test_following_again_without_a_cursor_keeps_the_position() -> None:
    async with running_stack() as (_provider, app), connected(app.url) as client:
        await client.create("r1", "c1", "hello")
        await client.terminal("r1")
        opened = await client.open("c1")
        assert opened["verdict"] == "live"
        assert opened["seq"] == client.folds["c1"].seq
        await client.call({"type": "conversation.leave", "conversation_id": "c1"})
        assert (await client.open("c1"))["verdict"] == "snapshot"


async def test_a_snapshot_in_mid_turn_holds_the_answer_so_far_in_exactly_one_place() -> None:
    gate = Gate()
    async with running_stack() as (provider, app), connected(app.url) as client:
        provider.script(Script.text("one ", "two ", gate, "three"))
        await client.create("r1", "c1", "hello")
        await client.until(lambda: client.text("r1").endswith("two "))
        async with connected(app.url) as fresh:
            await fresh.open("c1")
            snapshot = await fresh.event("conversation.snapshot")
            (active,) = snapshot["active"]
            assert snapshot["messages"] == []
            assert active["input"]["parts"][0]["text"] == "hello"
            assert active["state"] == "streaming"
            gate.open()
            await fresh.terminal("r1")
            await client.terminal("r1")
            assert fresh.folds["c1"].view() == client.folds["c1"].view()
