"""A node that is stopped past its lease, wakes, and goes on as if no time had passed: it writes nothing (guarantee 3).

Meanwhile another node has taken its turns over and ended them. A node with a wrong clock breaks nothing either: time
counts by the stores' clocks.
"""

from __future__ import annotations

import pytest
from tests.support.client import CallError
from tests.support.provider import Gate, Script
from tests.support.redis import RedisServer
from tests.support.stand import LONG_S, Stand, at_each, cancelling, creation, running_stand, until_logged

STOPPED = r"was taken over or deleted|was ended by another"


async def _log(stand: Stand) -> list[dict[str, object]]:
    assert isinstance(stand.redis, RedisServer)
    return await stand.entries(stand.redis, "c1")


async def test_an_owner_that_sleeps_past_its_lease_wakes_and_writes_nothing() -> None:
    gate = Gate()
    async with running_stand() as stand:
        stand.says("r1", Script.text("half ", gate, "of what nobody will see"))
        async with stand.client(stand.a) as sleeper, stand.client(stand.b) as client:
            await sleeper.make("r1", "c1")
            await sleeper.until_said("r1", "half ")
            await client.open("c1")
            stand.a.stop()
            gate.open()
            await client.terminal("r1", LONG_S)
            before = await _log(stand)
            stand.a.cont()
            await until_logged(stand.a, STOPPED)
            await sleeper.terminal("r1", LONG_S)
            await stand.check(client, "c1", {"r1": "completed"})
            assert await _log(stand) == before
            assert [event["reason"] for event in sleeper.events("step.failed")] == ["node_lost"]
            assert sleeper.folds["c1"].view() == client.folds["c1"].view()
            await sleeper.make("r2", "c1")  # it is a node like any other again
            await stand.check(client, "c1", {"r1": "completed", "r2": "completed"})


POINTS = [
    "claim:after:2",  # the first only learns that the archive has to be asked
    "archive.insert_request:before:1",
    "append:before:1",
    "append:before:3",
    "seal:before:1",
    "seal:after:1",
    "archive.end_request:before:1",
    "archive.end_request:after:1",
    "finish:before:1",
]


@pytest.mark.parametrize("half", [0, 1])
async def test_a_sleep_past_the_lease_at_any_step_changes_nothing(half: int) -> None:
    await at_each(POINTS[half::2], _asleep_at)


async def _asleep_at(point: str) -> None:
    async with running_stand(faults=[{"halt": point}]) as stand:
        async with stand.client(stand.a) as sleeper, stand.client(stand.b) as client:
            await sleeper.send(creation("r1", "c1"))
            await stand.a.halted()
            await client.make("r1", "c1")
            await client.terminal("r1", LONG_S)
            before = await _log(stand)
            stand.a.cont()
            await until_logged(stand.a, STOPPED)
            await sleeper.terminal("r1", LONG_S)
            await stand.check(client, "c1", {"r1": "completed"}, spare=1)
            assert await _log(stand) == before


async def test_a_cancel_that_slept_past_everything_is_answered_truthfully() -> None:
    """It was to be stored before the end, and comes after it."""
    async with running_stand(faults=[{"halt": "post:before:1"}]) as stand:
        gate = Gate()
        stand.says("r1", Script.text("one two ", gate, "three of r1"))
        async with stand.client(stand.b) as client, stand.client(stand.a) as sleeper:
            await client.make("r1", "c1")
            await client.until_said("r1", "one two ")
            await sleeper.send({**cancelling("r1"), "id": "late"})
            await stand.a.halted()
            gate.open()
            await client.terminal("r1")
            stand.a.cont()
            answer = await sleeper.answer("late")
            assert (answer["outcome"], answer["state"]) == ("already_terminal", "completed")
            await stand.check(client, "c1", {"r1": "completed"})


@pytest.mark.parametrize("clock_s", [-3600, 7 * 86400])
async def test_a_node_with_a_wrong_clock_breaks_nothing(clock_s: float) -> None:
    async with running_stand(faults=[{"clock_s": clock_s}]) as stand:
        stand.says("r1", Script.stalled_after("half "))
        stand.says("r3", Script.stalled_after("half "))
        async with stand.client(stand.a) as wrong, stand.client(stand.b) as right:
            await wrong.make("r1", "c1")
            await wrong.until_said("r1", "half ")
            await right.open("c1")
            await right.make("r2", "c1")
            await wrong.make("r3", "c1")
            # A cancel of what is not known yet, recorded there and found here.
            assert (await wrong.insist(cancelling("r5")))["outcome"] == "recorded"
            await right.make("r5", "c5")
            await right.until_ended("c5", "r5")
            assert (await right.cancel("r1"))["outcome"] == "cancelling"
            assert (await right.terminal("r1"))["type"] == "message.cancelled"
            await right.terminal("r2")
            await right.until_said("r3", "half ")
            stamps = [event["ts"] for event in right.events() if "seq" in event and "ts" in event]
            assert stamps == sorted(stamps)
            await stand.a.kill()
        async with stand.client(stand.b, before=right) as client:
            await client.reopen("c1")
            outcomes = {"r1": "cancelled", "r2": "completed", "r3": "completed"}
            await stand.check(client, "c1", outcomes, texts={"r1": "half "}, spare=1)
            await client.reopen("c5")
            await stand.check(client, "c5", {"r5": "cancelled"})


async def test_a_request_that_a_node_with_a_wrong_clock_takes_over_is_not_too_old_for_it() -> None:
    async with running_stand(faults=[{}, {"clock_s": 7 * 86400}], limits={"takeover_age_s": 60}) as stand:
        stand.says("r1", Script.stalled_after("half "))
        async with stand.client(stand.a) as first:
            await first.make("r1", "c1")
            await first.until_said("r1", "half ")
            await stand.a.kill()
        async with stand.client(stand.b, before=first) as client:
            with pytest.raises(CallError):
                await client.create("r1", "c1", "other content")
            await client.reopen("c1")
            await stand.check(client, "c1", {"r1": "completed"})
