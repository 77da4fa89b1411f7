"""Redis killed and restarted, with and without its data, and emptied under its users (guarantees 1, 2, 4, 5, 7 and 12).

An owner that lives puts its turn back, with all that was ever shown of it, in a new epoch: nothing is asked of the
provider again. What has lost its owner too is entered from the archive. What was acknowledged survives.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from tests.support.client import CallError, connected
from tests.support.mongo import fresh_database
from tests.support.provider import Gate, Pause, Script, running_provider
from tests.support.redis import RedisServer, running_redis
from tests.support.server import running_server
from tests.support.stand import LONG_S, Stand, at_each, cancelling, creation, running_stand, until_logged

Loss = Callable[[RedisServer], Awaitable[None]]


async def _emptied(redis: RedisServer) -> None:
    await redis.flushall()


async def _killed(redis: RedisServer) -> None:
    await redis.kill()
    await redis.start()


async def _killed_and_empty(redis: RedisServer) -> None:
    await redis.kill()
    await redis.start(empty=True)


_LONG_LEASE_S = 10
LOSSES: dict[str, Loss] = {"emptied": _emptied, "killed": _killed, "killed and empty": _killed_and_empty}


async def test_an_owner_that_lives_puts_its_turn_back_in_a_new_epoch() -> None:
    await at_each(LOSSES, _lost_in_mid_turn)


async def _lost_in_mid_turn(loss: str) -> None:
    gate, last = Gate(), Gate()
    # A lease that is longer than anything here takes: a turn that is entered again only by others would show.
    async with running_redis() as redis, running_stand(redis=redis, lease_s=_LONG_LEASE_S) as stand:
        stand.says("r1", Script.text("one two", gate, " three", last, " of r1"))
        async with stand.client(stand.a) as owners, stand.client(stand.b) as client:
            await client.make("r0", "c1")
            await owners.open("c1")
            await owners.make("r1", "c1")
            await client.until_said("r1", "one two")
            before = client.cursor("c1")
            await LOSSES[loss](redis)
            gate.open()
            for follower in (owners, client):
                await follower.until_said("r1", "one two three")
                assert follower.cursor("c1")["epoch"] != before["epoch"]
                # What they had seen comes again as a whole, never less of it.
                shown = [s for s in follower.events("conversation.snapshot") if s["epoch"] != before["epoch"]]
                for snapshot in shown:
                    (active,) = snapshot["active"]
                    assert active["message"]["parts"][0]["text"].startswith("one two")
            assert (await client.open("c1", since=before))["verdict"] == "snapshot"
            last.open()
            await client.make("r2", "c1")
            await stand.check(client, "c1", dict.fromkeys(["r0", "r1", "r2"], "completed"))
            assert owners.folds["c1"].epoch == client.folds["c1"].epoch
        assert stand.calls("r1") == 1


async def test_an_owner_that_has_nothing_to_say_for_long_keeps_its_turn() -> None:
    """The log is compared with the archive a lease after the loss, and leases run out: neither may find it missing."""
    await at_each(LOSSES, _lost_while_the_provider_thinks)


async def _lost_while_the_provider_thinks(loss: str) -> None:
    gate, lease_s = Gate(), 1.5
    async with running_redis() as redis, running_stand(redis=redis, lease_s=lease_s) as stand:
        stand.says("r1", Script.text("one two", gate, Pause(3 * lease_s), " three of r1"))
        async with stand.client(stand.a) as owners, stand.client(stand.b) as client:
            await client.open("c1")
            await owners.make("r1", "c1")
            await owners.make("r2", "c1")
            await client.until_said("r1", "one two")
            await LOSSES[loss](redis)
            gate.open()
            await stand.check(client, "c1", {"r1": "completed", "r2": "completed"}, spare=1)
            assert (await client.status("r1"))["run"] == 1
        assert (stand.calls("r1"), stand.calls("r2")) == (1, 1)


POINTS = [
    "claim:after:2",
    "archive.insert_request:before:1",
    "archive.insert_request:after:1",
    "append:before:1",
    "append:after:1",
    "append:before:3",
    "append:after:3",
    "seal:before:1",
    "seal:after:1",
    "archive.end_request:after:1",
    "finish:before:1",
    "finish:after:1",
]


@pytest.mark.parametrize("third", [0, 1, 2])
async def test_a_loss_at_any_step_of_a_living_owner_loses_nothing(third: int) -> None:
    await at_each(POINTS[third::3], _emptied_at)


async def _emptied_at(point: str) -> None:
    async with running_redis() as redis:
        async with running_stand(redis=redis, lease_s=_LONG_LEASE_S, faults=[{"halt": point}]) as stand:
            await _emptied_while_halted(stand, redis)


async def _emptied_while_halted(stand: Stand, redis: RedisServer, *, settled: bool = False) -> None:
    async with stand.client(stand.a) as owners, stand.client(stand.b) as client:
        await owners.send({**creation("r1", "c1"), "id": "first"})
        await stand.a.halted()
        await redis.flushall()
        if settled:
            await stand.until_settled()
        stand.a.cont()
        try:
            await owners.answer("first")
        except CallError as error:
            assert error.code == "unavailable"
        await client.make("r1", "c1")
        await client.make("r2", "c1")
        await stand.check(client, "c1", {"r1": "completed", "r2": "completed"}, spare=int(settled))
    if not settled:
        assert stand.calls("r1") == 1


async def test_a_claim_that_was_lost_before_the_archive_knew_of_it_is_not_forgotten() -> None:
    """The log is as it should be, says the archive, and only then learns the archive of the request."""
    await at_each(["claim:after:2", "archive.insert_request:before:1"], _lost_and_settled)


async def _lost_and_settled(point: str) -> None:
    async with running_redis() as redis, running_stand(redis=redis, faults=[{"halt": point}]) as stand:
        await _emptied_while_halted(stand, redis, settled=True)


async def test_what_lost_its_owner_as_well_is_entered_from_the_archive() -> None:
    await at_each(LOSSES, _lost_with_its_owner)


async def _lost_with_its_owner(loss: str) -> None:
    async with running_redis() as redis, running_stand(redis=redis) as stand:
        stand.says("r1", Script.stalled_after("half "))
        async with stand.client(stand.a) as first:
            for request_id in ("r0", "r1", "r2", "r3"):
                await first.make(request_id, "c1")
            await first.until_said("r1", "half ")
            epoch = first.cursor("c1")["epoch"]
            await stand.a.kill()
            await LOSSES[loss](redis)
        async with stand.client(stand.b, before=first) as client:
            assert (await client.reopen("c1"))["verdict"] == "snapshot"
            await stand.check(client, "c1", dict.fromkeys(["r0", "r1", "r2", "r3"], "completed"), spare=1)
            assert client.cursor("c1")["epoch"] != epoch


async def test_a_queue_survives_all_its_nodes_and_the_log() -> None:
    async with running_redis() as redis, running_stand(redis=redis) as stand:
        stand.says("r1", Script.stalled_after("half "))
        names = ["r1", "r2", "r3", "r4"]
        async with stand.client(stand.a) as first:
            for request_id in names:
                await first.make(request_id, "c1")
            await first.until_said("r1", "half ")
        await stand.cluster.kill()
        await redis.flushall()
        await asyncio.gather(stand.a.start(), stand.b.start())
        async with stand.client(stand.b, before=first) as client:
            await client.reopen("c1")
            await stand.check(client, "c1", dict.fromkeys(names, "completed"), spare=1)
        assert [request.messages[-1]["content"] for request in stand.provider.requests] == ["r1", *names]


async def test_a_queue_behind_a_living_owner_keeps_its_order() -> None:
    gate = Gate()
    async with running_redis() as redis, running_stand(redis=redis) as stand:
        stand.says("r1", Script.text("one two ", gate, "three of r1"))
        names = ["r1", "r2", "r3", "r4", "r5"]
        async with stand.client(stand.a) as owners, stand.client(stand.b) as client:
            await client.open("c1")
            # Queued by both nodes in turn.
            for request_id, asker in zip(names, [owners, client, owners, client], strict=False):
                await asker.make(request_id, "c1")
            await client.until_said("r1", "one two ")
            await redis.flushall()
            await client.make("r5", "c1")
            gate.open()
            await stand.check(client, "c1", dict.fromkeys(names, "completed"), spare=1)
        assert [request.messages[-1]["content"] for request in stand.provider.requests] == names


async def test_an_acknowledged_cancel_survives_a_loss() -> None:
    scenarios = {
        "running": _cancelled_while_running,
        "queued": _cancelled_while_queued,
        "unknown": _cancelled_before_known,
        "unknown, at a node that is an hour slow": partial(_cancelled_before_known, clock_s=-3600),
        "unknown, at a node that is a day fast": partial(_cancelled_before_known, clock_s=86400),
        "orphan": _cancelled_and_owner_lost,
    }
    await at_each(scenarios, lambda name: scenarios[name]())


async def _cancelled_while_running() -> None:
    """Its owner has not heard of it when the log forgets it, and has the whole answer."""
    gate = Gate()
    async with running_redis() as redis, running_stand(redis=redis, lease_s=3) as stand:
        stand.says("r1", Script.text("one two ", gate, "three of r1"))
        async with stand.client(stand.a) as owners, stand.client(stand.b) as client:
            await owners.make("r1", "c1")
            await client.open("c1")
            await client.until_said("r1", "one two ")
            stand.a.stop()
            assert (await client.cancel("r1"))["outcome"] == "cancelling"
            await redis.flushall()
            gate.open()
            stand.a.cont()
            assert (await client.terminal("r1", LONG_S))["type"] == "message.cancelled"
            await client.until_ended("c1", "r1")
            await stand.check(client, "c1", {"r1": "cancelled"}, texts={"r1": client.said("r1")})


async def _cancelled_while_queued() -> None:
    gate = Gate()
    async with running_redis() as redis, running_stand(redis=redis) as stand:
        stand.says("r1", Script.text("one two ", gate, "three of r1"))
        async with stand.client(stand.a) as owners, stand.client(stand.b) as client:
            await owners.make("r1", "c1")
            await owners.make("r2", "c1")
            await owners.make("r3", "c1")
            await client.cancel("r2")
            await redis.flushall()
            await client.insist({"type": "conversation.open", "conversation_id": "c1"})
            gate.open()
            outcomes = {"r1": "completed", "r2": "cancelled", "r3": "completed"}
            await stand.check(client, "c1", outcomes, spare=1)  # whether it had begun is not known of what waited
        assert stand.calls("r2") == 0


async def _cancelled_before_known(clock_s: float = 0) -> None:
    faults = [{"clock_s": clock_s}] if clock_s else []
    async with running_redis() as redis, running_stand(redis=redis, faults=faults) as stand:
        async with stand.client(stand.a) as first, stand.client(stand.b) as client:
            assert (await first.cancel("r1"))["outcome"] == "recorded"
            await redis.flushall()
            assert (await client.make("r1", "c1"))["duplicate"] is False
            await stand.check(client, "c1", {"r1": "cancelled"})
        assert stand.calls("r1") == 0


async def _cancelled_and_owner_lost() -> None:
    async with running_redis() as redis, running_stand(redis=redis) as stand:
        stand.says("r1", Script.stalled_after("half "))
        async with stand.client(stand.a) as owners, stand.client(stand.b) as client:
            await owners.make("r1", "c1")
            await owners.until_said("r1", "half ")
            stand.a.stop()
            assert (await client.cancel("r1"))["outcome"] == "cancelling"
            await stand.a.kill()
            await redis.flushall()
            await client.insist({"type": "conversation.open", "conversation_id": "c1"})
            await stand.check(client, "c1", {"r1": "cancelled"}, spare=1)
        assert stand.calls("r1") == 1


async def test_while_redis_is_away_turns_hold_and_nothing_new_is_taken() -> None:
    gate = Gate()
    async with running_redis() as redis, running_stand(redis=redis) as stand:
        stand.says("r1", Script.text("one two ", gate, "three of r1"))
        async with stand.client(stand.a) as owners, stand.client(stand.b) as client:
            await owners.make("r1", "c1")
            await client.open("c1")
            await client.until_said("r1", "one two ")
            await redis.kill()
            gate.open()
            assert (await owners.event("notice"))["kind"] == "log_unavailable"
            for command in (creation("r2", "c1"), {"type": "request.status", "request_id": "r1"}):
                with pytest.raises(CallError) as refused:
                    await client.call(command)
                assert refused.value.code == "unavailable"
            assert owners.said("r1") == "one two "
            await redis.start()
            await client.make("r2", "c1")
            await stand.check(client, "c1", {"r1": "completed", "r2": "completed"})
            assert (await client.status("r1"))["run"] == 1
        assert stand.calls("r1") == 1


async def test_a_log_that_is_kept_always_keeps_its_epoch_over_a_restart() -> None:
    gate = Gate()
    async with running_redis(appendfsync="always") as redis:
        async with running_stand(redis=redis, storage={"redis_durability": "always"}) as stand:
            stand.says("r1", Script.text("one two ", gate, "three of r1"))
            async with stand.client(stand.a) as client:
                await client.make("r1", "c1")
                await client.until_said("r1", "one two ")
                before = client.cursor("c1")
                await redis.kill()
                await redis.start()
                gate.open()
                await client.until_ended("c1", "r1")
                assert client.cursor("c1")["epoch"] == before["epoch"]
                assert client.events("conversation.snapshot") == []
                assert (await client.open("c1", since=before))["verdict"] == "replayed"
                await stand.check(client, "c1", {"r1": "completed"})


async def test_what_had_ended_behind_a_turn_that_comes_back_is_shown_as_well() -> None:
    """The log took the ordinal of the turn that its owner put back for the newest, and left out of its snapshots what
    had waited behind it and was cancelled before the loss."""
    gate = Gate()
    async with running_redis() as redis, running_stand(redis=redis, lease_s=_LONG_LEASE_S) as stand:
        stand.says("r1", Script.text("one two", gate, " three of r1"))
        async with stand.client(stand.a) as owners, stand.client(stand.b) as client:
            await owners.open("c1")
            await client.open("c1")
            await owners.make("r1", "c1")
            await client.until_said("r1", "one two")
            await client.make("r2", "c1")
            await client.insist(cancelling("r2"))
            await client.terminal("r2", LONG_S)
            before = client.cursor("c1")
            await stand.until_archived("r2")
            await redis.flushall()
            gate.open()
            for follower in (owners, client):
                await follower.until_said("r1", "one two three")
                assert follower.cursor("c1")["epoch"] != before["epoch"]
            await stand.check(client, "c1", {"r1": "completed", "r2": "cancelled"})


async def test_what_had_ended_is_shown_from_its_beginning_where_the_log_knows_only_of_its_claim() -> None:
    """The log went back to the moment between a claim and its first event. Whoever took the request over found its end
    in the archive, and said so to followers who had never heard of it in that epoch."""
    async with running_redis() as redis, running_provider() as provider, fresh_database() as (mongo, database):
        storage = {
            "redis_url": redis.url,
            "partitions": 1,
            "lease_s": 1,
            "mongo_url": mongo,
            "mongo_database": database,
        }
        data, copy = redis.directory / "data", redis.directory / "copy"
        async with running_server(provider_url=provider.base_url, storage=storage) as app, connected(app.url) as client:
            await client.create("r0", "c1", "r0")
            await client.terminal("r0")
            log: Any = app.front.services.log
            append = log.append

            async def keep_and_append(batch: Any) -> Any:
                if not copy.exists():
                    shutil.copytree(data, copy)
                return await append(batch)

            log.append = keep_and_append
            await client.create("r1", "c1", "r1")
            await client.terminal("r1")
            before = client.cursor("c1")
            await redis.kill()
            shutil.rmtree(data)
            copy.rename(data)
            await redis.start()
            answers = [message.message_id for message in client.folds["c1"].branch()]
            await client.until(lambda: client.cursor("c1")["epoch"] != before["epoch"], LONG_S)
            await client.until(lambda: [m.message_id for m in client.folds["c1"].branch()] == answers, LONG_S)
        assert len(provider.requests) == 2


async def test_a_superseded_owner_that_wakes_after_a_loss_leaves_the_turn_to_its_successor() -> None:
    """Redis has forgotten that it was fenced, and the successor has yet to put the turn back: the archive remembers."""
    await at_each(["in mid answer", "seal:before:1"], _superseded_and_lost)


async def _superseded_and_lost(point: str) -> None:
    first, second = Gate(), Gate()
    in_mid_answer = point == "in mid answer"
    # Long enough for the successor to put it back before anybody enters it from the archive.
    async with (
        running_redis() as redis,
        running_stand(redis=redis, lease_s=3, faults=[{} if in_mid_answer else {"halt": point}]) as stand,
    ):
        stand.says(
            "r1",
            Script.text("half ", first, "of what nobody will see") if in_mid_answer else Script.text("all of it"),
            Script.text("one two ", second, "three of r1"),
        )
        async with stand.client(stand.a) as sleeper, stand.client(stand.b) as client:
            await client.open("c1")
            await sleeper.make("r1", "c1")
            if in_mid_answer:
                await sleeper.until_said("r1", "half ")
                stand.a.stop()
            else:
                await stand.a.halted()
            await client.until_said("r1", "one two ")
            stand.b.stop()
            await redis.flushall()
            first.open()
            stand.a.cont()
            await until_logged(stand.a, "was taken over or deleted")
            second.open()
            stand.b.cont()
            await stand.check(client, "c1", {"r1": "completed"}, spare=1)
        assert stand.calls("r1") == 2
