"""A replica is promoted that lacks the last writes: new epochs, never two meanings of one seq (guarantees 1 to 5)."""

from __future__ import annotations

import asyncio

from tests.support.provider import Gate, Script
from tests.support.redis import RedisSentinel, RedisServer, running_redis_sentinel
from tests.support.stand import LONG_S, running_stand


async def _in_step(sentinel: RedisSentinel) -> None:
    """Wait until the replica has everything that was written until now."""
    primary, replica = await sentinel.primary(), await sentinel.other()
    wanted = int((await primary.info("replication"))["master_repl_offset"])
    async with asyncio.timeout(LONG_S):
        while int((await replica.info("replication"))["slave_repl_offset"]) < wanted:
            await asyncio.sleep(0.01)


async def test_a_promotion_without_the_last_writes_gives_new_epochs_and_loses_nothing_acknowledged() -> None:
    """Turns of a node that lives, and of one that dies as well; one of them ends and one begins in what is lost."""
    more, last, end = Gate(), Gate(), Gate()
    async with running_redis_sentinel() as sentinel, running_stand(redis_url=sentinel.url) as stand:
        stand.says("lives", Script.text("one ", more, "two ", last, "three"))
        stand.says("dies", Script.stalled_after("half "))
        stand.says("ends", Script.text("whole ", end, "answer"))
        stand.says("cancelled", Script.stalled_after("half "))
        conversations = ["lives", "dies", "ends", "cancelled"]
        async with stand.client(stand.a) as here, stand.client(stand.b) as there:
            for name, asker in zip(conversations, [here, there, there, here], strict=True):
                await here.open(name)
                await asker.make(name, name)
                await here.until(lambda name=name: name in here.folds and here.said(name, name) != "", LONG_S)  # type: ignore[misc]
            await _in_step(sentinel)
            before = {name: here.cursor(name) for name in conversations}

            async def last_writes(_: RedisServer) -> None:
                more.open()
                await here.until_said("lives", "one two ", "lives")
                end.open()
                await here.terminal("ends", LONG_S)
                assert (await here.cancel("cancelled"))["outcome"] == "cancelling"
                await here.terminal("cancelled", LONG_S)
                await there.make("begins", "begins")
                await stand.b.kill()

            await sentinel.promote_without_the_last_writes(last_writes)
            await stand.b.start()
            for name in [*conversations, "begins"]:
                await here.insist({"type": "conversation.open", "conversation_id": name})
            await here.until(lambda: here.cursor("lives")["epoch"] != before["lives"]["epoch"], LONG_S)
            await here.until_said("lives", "one two ", "lives")
            last.open()
            await stand.check(here, "lives", {"lives": "completed"}, texts={"lives": "one two three"})
            await stand.check(here, "dies", {"dies": "completed"}, spare=1)
            await stand.check(here, "ends", {"ends": "completed"}, texts={"ends": "whole answer"})
            await stand.check(here, "cancelled", {"cancelled": "cancelled"}, texts={"cancelled": "half "})
            await stand.check(here, "begins", {"begins": "completed"}, spare=1)
            for name in conversations:
                assert here.cursor(name)["epoch"] != before[name]["epoch"]
        assert (stand.calls("lives"), stand.calls("ends"), stand.calls("cancelled")) == (1, 1, 1)
