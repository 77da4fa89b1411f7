"""`kill -9` of the owning node at each fault point of the steps, and ends in good order (guarantees 2 to 7 and 12).

Whatever the step: the client goes on at the other node with its cursor and sends again what was not answered; nothing
that it saw is lost or doubled, there is one ending each, and the queue keeps its order.
"""

from __future__ import annotations

import asyncio

import pytest
import websockets
from tests.support.client import CallError
from tests.support.provider import Gate, Script
from tests.support.stand import LONG_S, Stand, Traveller, at_each, cancelling, creation, running_stand

# On a node that has done nothing before: the first time for a request that runs, the second for one that waits for it.
STEPS = {
    "reserve": ["after:1", "after:2"],
    "claim": ["before:1", "after:1", "after:2"],
    "archive.insert_request": ["before:1", "after:1", "after:2"],
    "append": ["before:1", "after:1", "before:3", "after:3", "after:5"],
    "seal": ["before:1", "after:1", "after:2"],
    "archive.end_request": ["before:1", "after:1", "after:2"],
    "finish": ["before:1", "after:1", "after:2"],
}


@pytest.mark.parametrize("step", STEPS)
async def test_a_kill_at_any_step_loses_nothing(step: str) -> None:
    await at_each([f"{step}:{when}" for when in STEPS[step]], _killed_at)


async def _killed_at(point: str) -> None:
    # On a busy machine it may take r0 over, and is not to die of that.
    async with running_stand(faults=[{"crash": point, "about": "r1"}]) as stand:
        async with stand.client(stand.b) as before:
            await before.make("r0", "c1")
            await before.until_ended("c1", "r0")
        first = await _one_runs_and_one_waits(stand, before)
        assert await stand.a.gone() == -9
        async with stand.client(stand.b, before=first) as client:
            await client.reopen("c1")
            await client.make("r1", "c1")
            await client.make("r2", "c1")
            await stand.check(client, "c1", {"r0": "completed", "r1": "completed", "r2": "completed"}, spare=1)


async def _one_runs_and_one_waits(stand: Stand, before: Traveller) -> Traveller:
    """Until the node is gone. The first is not answered to its end before the second stands behind it."""
    gate = Gate()
    stand.says("r1", Script.text("one", gate, " two", " three of r1"))
    async with stand.client(stand.a, before=before) as client:
        try:
            await client.reopen("c1")
            await client.send(creation("r1", "c1"), creation("r2", "c1"))
            await client.until(lambda: client.events("request.queued", "r2"), LONG_S)
            gate.open()
            await client.until_lost()
        except websockets.ConnectionClosed:
            pass
    gate.open()
    return client


async def test_a_kill_in_mid_stream_takes_the_broken_step_back() -> None:
    async with running_stand() as stand:
        stand.says("r1", Script.stalled_after("half ", "an "))
        async with stand.client(stand.a) as first:
            await first.make("r1", "c1")
            await first.until_said("r1", "half an ")
            await stand.a.kill()
        async with stand.client(stand.b, before=first) as client:
            resumed = await client.insist({"type": "request.resume", "request_id": "r1", "since": client.cursor("c1")})
            assert resumed["verdict"] in ("live", "replayed")
            await client.terminal("r1", LONG_S)
            assert (await client.event("step.failed"))["reason"] == "node_lost"
            assert (await client.event("part.reset"))["offset"] == 0
            usage = await client.event("usage.completed")
            assert [(a["attempt"], a["outcome"]) for a in usage["attempts"]] == [(1, "node_lost"), (2, "completed")]
            assert (await client.status("r1"))["run"] == 2
            await stand.check(client, "c1", {"r1": "completed"})


async def test_a_cancel_whose_node_is_killed_is_sent_again_and_holds() -> None:
    told = ["post:before:1", "post:after:1", "archive.record_cancel:before:1", "archive.record_cancel:after:1"]
    await at_each([*told, "seal:before:1", "seal:after:1"], _killed_while_cancelling)


async def _killed_while_cancelling(point: str) -> None:
    """The node that runs the request is also the one that is told, and dies of it."""
    async with running_stand(faults=[{"crash": point}]) as stand:
        stand.says("r1", Script.stalled_after("half "), Script.stalled_after("half "))
        async with stand.client(stand.a) as first:
            await first.make("r1", "c1")
            await first.until_said("r1", "half ")
            await first.until_lost(cancelling("r1"))
        async with stand.client(stand.b, before=first) as client:
            await client.insist(cancelling("r1"))
            await client.reopen("c1")
            await client.until_ended("c1", "r1")
            await stand.check(client, "c1", {"r1": "cancelled"}, texts={"r1": client.said("r1")}, spare=1)


async def test_a_cancel_acknowledged_elsewhere_survives_the_owner() -> None:
    async with running_stand() as stand:
        gate = Gate()
        stand.says("r1", Script.text("half ", gate, "whole"))
        async with stand.client(stand.a) as first, stand.client(stand.b) as second:
            await first.make("r1", "c1")
            await first.until_said("r1", "half ")
            stand.a.stop()  # it cannot hear it
            assert (await second.cancel("r1"))["outcome"] == "cancelling"
            await stand.a.kill()
            gate.open()
            await second.insist({"type": "conversation.open", "conversation_id": "c1"})
            await stand.check(second, "c1", {"r1": "cancelled"}, texts={"r1": "half "})
        assert stand.calls("r1") == 1


async def test_a_taker_that_dies_while_it_takes_over_is_taken_over() -> None:
    async with running_stand(faults=[{}, {"crash": "take_over:after:1"}]) as stand:
        stand.says("r1", Script.stalled_after("half "))
        async with stand.client(stand.a) as first:
            await first.make("r1", "c1")
            await first.until_said("r1", "half ")
            await stand.a.kill()
        assert await stand.b.gone() == -9
        await stand.a.start()
        async with stand.client(stand.a, before=first) as client:
            await client.reopen("c1")
            await stand.check(client, "c1", {"r1": "completed"}, spare=1)


async def test_a_queue_of_three_survives_all_its_nodes() -> None:
    async with running_stand() as stand:
        stand.says("r1", Script.stalled_after("half "))
        async with stand.client(stand.a) as first:
            for request_id in ("r1", "r2", "r3", "r4"):
                await first.make(request_id, "c1")
            await first.until_said("r1", "half ")
            await stand.cluster.kill()
        await asyncio.gather(stand.a.start(), stand.b.start())
        async with stand.client(stand.b, before=first) as client:
            await client.reopen("c1")
            await stand.check(client, "c1", dict.fromkeys(["r1", "r2", "r3", "r4"], "completed"), spare=1)
        asked = [request.messages[-1]["content"] for request in stand.provider.requests]
        assert asked == ["r1", "r1", "r2", "r3", "r4"]


async def test_a_drain_hands_what_runs_over_and_counts_no_run() -> None:
    async with running_stand(server={"drain_s": 0.2}) as stand:
        stand.says("r1", Script.stalled_after("half "))
        async with stand.client(stand.a) as first, stand.client(stand.b) as watcher:
            await first.make("r1", "c1")
            await first.until_said("r1", "half ")
            await watcher.open("c1")
            stand.a.drain()
            assert (await first.event("goaway"))["deadline_ms"] <= 200
            with pytest.raises(CallError) as refused:
                await first.create("r2", "c2", "r2")
            assert refused.value.code == "unavailable"
            await first.until_lost()
            assert await stand.a.gone() == 0
            await watcher.terminal("r1", LONG_S)
            failed = await watcher.event("step.failed")
            assert (failed["reason"], failed["attempt"]) == ("drain", 1)
            status = await watcher.status("r1")
            assert (status["state"], status["run"]) == ("completed", 1)
            async with stand.client(stand.b, before=first) as client:
                await client.reopen("c1")
                await stand.check(client, "c1", {"r1": "completed"})


async def test_a_rolling_restart_loses_nothing() -> None:
    async with running_stand(server={"drain_s": 0.2}) as stand:
        conversations = [f"c{n}" for n in range(4)]
        for name in conversations:
            stand.says(f"{name}-long", *[Script.words(4, rate=5) for _ in range(4)])
        client: Traveller | None = None
        for number, node in enumerate((stand.a, stand.b)):
            other = stand.b if node is stand.a else stand.a
            async with stand.client(node, before=client) as client:
                for name in conversations:
                    if number:
                        await client.reopen(name)
                    await client.make(f"{name}-{number}" if number else f"{name}-long", name)
                    await client.make(f"{name}-{number}-next", name)
                assert await node.terminate() == 0
            await node.start()
            async with stand.client(other, before=client) as client:
                for name in conversations:
                    await client.reopen(name)
                    await client.until_ended(name)
        async with stand.client(stand.b, before=client) as client:
            for name in conversations:
                await client.reopen(name)
                whole = {f"{name}-long": "completed", f"{name}-0-next": "completed"}
                whole |= {f"{name}-1": "completed", f"{name}-1-next": "completed"}
                await stand.check(client, name, whole, texts={f"{name}-long": "w0 w1 w2 w3 "})


async def test_a_cancel_from_before_is_heard_when_the_node_dies_that_claimed_the_request() -> None:
    """The one that claims looks for such a cancel afterwards; whoever took over its claim did not."""
    points = ["_with_recorded:before:1", "archive.insert_request:after:1", "_with_recorded:before:2"]
    await at_each(points, _cancelled_before)


async def _cancelled_before(point: str) -> None:
    outcomes = {"r1": "cancelled"} if point.endswith("1") else {"r1": "completed", "r2": "cancelled"}
    cancelled = list(outcomes)[-1]
    gate = Gate()
    async with running_stand(faults=[{"crash": point}]) as stand:
        stand.says("r1", Script.text("one", gate, " two", " three of r1"))
        async with stand.client(stand.b) as client:
            await client.make("r0", "c1")
            await client.until_ended("c1", "r0")
            assert (await client.insist(cancelling(cancelled)))["outcome"] == "recorded"
            async with stand.client(stand.a) as first:
                await first.until_lost(*(creation(request_id, "c1") for request_id in outcomes))
            assert await stand.a.gone() == -9
            gate.open()
            await stand.check(client, "c1", {"r0": "completed", **outcomes}, spare=1)
        assert stand.calls(cancelled) == 0


async def test_a_cancel_from_before_is_heard_when_another_node_gives_the_dead_ones_request_its_turn() -> None:
    """It had waited, and nobody had been shown it; it began without a look for what had been said before."""
    gate = Gate()
    async with running_stand(faults=[{"crash": "_with_recorded:before:1"}], lease_s=LONG_S / 2) as stand:
        stand.says("r1", Script.text("one", gate, " two", " three of r1"))
        async with stand.client(stand.b) as client:
            await client.make("r1", "c1")
            await client.until_said("r1", "one")
            assert (await client.insist(cancelling("r2")))["outcome"] == "recorded"
            async with stand.client(stand.a) as first:
                await first.until_lost(creation("r2", "c1"))
            assert await stand.a.gone() == -9
            gate.open()
            await stand.check(client, "c1", {"r1": "completed", "r2": "cancelled"}, spare=1)
        assert stand.calls("r2") == 0
