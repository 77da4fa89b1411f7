"""One shard of a Redis Cluster dies or hangs: its partitions wait or fail over, all others go on as if nothing were.

Conversations are chosen by where they lie, and so are the ids of requests, whose records lie elsewhere. What "goes on"
means is measured (`pytest -s` shows it): the longest time between two deltas of a paced answer, seen by a client on
the node that does not run it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from tests.support.client import CallError
from tests.support.cluster import Node
from tests.support.provider import Gate, Pause, Script
from tests.support.redis import RedisCluster, RedisServer, running_redis_cluster
from tests.support.stand import LONG_S, Stand, Traveller, running_stand

from turnwire_server.eventlog.redis.views import partition_of

_PARTITIONS = 12
# A paced answer says a word so often. Nobody may wait for a word longer than this, on a machine that is busy as well.
_WORD_S = 0.05
_PATIENCE_S = 1.0


class Shards:
    """Where things lie."""

    def __init__(self, cluster: RedisCluster, stand: Stand) -> None:
        self.cluster = cluster
        self.stand = stand
        self._homes: list[RedisServer] = []

    async def look(self) -> None:
        """While the cluster is whole."""
        tags = [f"{{{self.stand.prefix}:{partition}}}" for partition in range(_PARTITIONS)]
        self._homes = [await self.cluster.primary_of(await self.cluster.slot_of(tag)) for tag in tags]

    async def victim(self) -> RedisServer:
        """A primary with partitions, but without what is kept once for the whole installation."""
        spared = await self.cluster.primary_of(await self.cluster.slot_of(f"{{{self.stand.prefix}}}"))
        return next(home for home in self._homes if home is not spared)

    def name(self, word: str, server: RedisServer, *, there: bool) -> str:
        """A name that lies on this server, or on any other. Conversations and records of requests lie alike."""
        for number in range(1000):
            name = f"{word}-{number}"
            if (self._homes[partition_of("default", name, _PARTITIONS)] is server) == there:
                return name
        raise AssertionError("one in three is there")


@asynccontextmanager
async def running_shards(replicas: int, **storage: Any) -> AsyncIterator[tuple[Shards, Stand]]:
    async with running_redis_cluster(primaries=3, replicas=replicas) as cluster:
        wanted = {"partitions": _PARTITIONS, **storage}
        async with running_stand(redis_url=cluster.url, storage=wanted, lease_s=1.5) as stand:
            shards = Shards(cluster, stand)
            await shards.look()
            yield shards, stand


def paced(words: int) -> Script:
    """An answer that takes its time."""
    steps = [step for number in range(words) for step in (f"{number} ", Pause(_WORD_S))]
    return Script.text(*steps, "end")


def whole(words: int) -> str:
    return "".join(f"{number} " for number in range(words)) + "end"


async def longest_wait(client: Traveller, conversation: str) -> float:
    """Read an answer to its end; the longest time between two of its deltas."""
    longest, before = 0.0, time.monotonic()
    count = _deltas(client)
    while not _is_over(client, conversation):
        await client.read_frame(LONG_S)
        if (now_count := _deltas(client)) != count:
            longest, before, count = max(longest, time.monotonic() - before), time.monotonic(), now_count
    return longest


def _deltas(client: Traveller) -> int:
    return sum(message["type"] == "output_text.delta" for message in client.messages)


def _is_over(client: Traveller, conversation: str) -> bool:
    return any(m.get("terminal") and m.get("conversation_id") == conversation for m in client.messages)


async def ready(node: Node) -> tuple[int, dict[str, Any]]:
    """What /readyz says."""
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{node.port}/readyz") as response:
            return response.status, await response.json()


async def until_ready(node: Node, holds: Callable[[dict[str, Any]], bool]) -> None:
    async with asyncio.timeout(LONG_S):
        while True:
            status, found = await ready(node)
            assert status == 200, found
            if holds(found):
                return
            await asyncio.sleep(0.05)


def _is_whole(found: dict[str, Any]) -> bool:
    return str(found["checks"]["log"]) == "ok"


def _lacks_partitions(found: dict[str, Any]) -> bool:
    return "partitions do not answer" in str(found["checks"]["log"])


async def timed(call: Awaitable[object]) -> float:
    began = time.monotonic()
    await call
    return time.monotonic() - began


async def test_a_primary_killed_in_mid_turn_fails_over_and_the_other_shards_notice_nothing() -> None:
    async with running_shards(replicas=1) as (shards, stand):
        victim = await shards.victim()
        well, lost = shards.name("well", victim, there=False), shards.name("lost", victim, there=True)
        stand.says(well, paced(80))
        stand.says(lost, paced(80))
        async with stand.client(stand.a) as owner, stand.client(stand.b) as other, stand.client(stand.b) as third:
            for name, follower in ((well, other), (lost, third)):
                await owner.make(name, name)
                await follower.insist({"type": "conversation.open", "conversation_id": name})
                await follower.until_said(name, "0 1 2 ", name)
            before = third.cursor(lost)
            async with asyncio.TaskGroup() as group:
                waits = [group.create_task(longest_wait(c, n)) for c, n in ((other, well), (third, lost))]
                await victim.kill()
                killed_at = time.monotonic()
                await until_ready(stand.a, _lacks_partitions)
                await until_ready(stand.a, _is_whole)
                away_s = time.monotonic() - killed_at
            print(f"away {away_s:.2f} s; longest wait {waits[0].result():.2f} s, there {waits[1].result():.2f} s")
            assert waits[0].result() < _PATIENCE_S
            await stand.check(other, well, {well: "completed"}, texts={well: whole(80)})
            await stand.check(third, lost, {lost: "completed"}, texts={lost: whole(80)})
            assert third.cursor(lost)["epoch"] != before["epoch"], "the heir may lack what was written last"
            assert len(stand.witness.epochs[well]) == 1, "nobody else was touched"
        assert (stand.calls(well), stand.calls(lost)) == (1, 1)


async def test_a_shard_that_hangs_without_anybody_in_its_place_harms_its_own_partitions_only() -> None:
    async with running_shards(replicas=0, redis_timeout_s=2) as (shards, stand):
        victim = await shards.victim()
        for server in shards.cluster.servers:
            await server.command("CONFIG", "SET", "cluster-node-timeout", 60_000)
        well, lost = shards.name("well", victim, there=False), shards.name("lost", victim, there=True)
        gate = Gate()
        stand.says(well, paced(100))
        stand.says(lost, Script.text("before ", gate, "after"))
        # The conversation is well, and the record of the request's id is not.
        apart, apart_id = shards.name("apart", victim, there=False), shards.name("apart-id", victim, there=True)
        stand.says(apart_id, Script.stalled_after("half "))
        async with stand.client(stand.a) as owner, stand.client(stand.b) as other, stand.client(stand.b) as third:
            for request, conversation in ((well, well), (lost, lost), (apart_id, apart)):
                await owner.make(request, conversation)
            await other.insist({"type": "conversation.open", "conversation_id": well})
            for conversation in (lost, apart):
                await third.insist({"type": "conversation.open", "conversation_id": conversation})
            await third.until_said(lost, "before ", lost)
            await third.until_said(apart_id, "half ", apart)
            await other.until_said(well, "0 1 2 ", well)
            victim.stop()
            try:
                async with asyncio.TaskGroup() as group:
                    wait = group.create_task(longest_wait(other, well))
                    gate.open()
                    notice = await owner.event("notice", wait_s=LONG_S)
                    assert (notice["kind"], notice["conversation_id"]) == ("log_unavailable", lost)
                    await until_ready(stand.a, _lacks_partitions)
                    await until_ready(stand.b, _lacks_partitions)
                    # Cancelled on the node that does not run it, by way of the conversation.
                    cancel_s = await timed(third.insist({"type": "request.cancel", "request_id": apart_id}))
                    assert (await third.terminal(apart_id, LONG_S))["type"] == "message.cancelled"
                    refused_s = await timed(_refused(third, shards.name("new", victim, there=True)))
                    new = shards.name("fresh", victim, there=False)
                    begin_s = await timed(third.make(new, new))
                    assert (await third.terminal(new, LONG_S))["type"] == "message.completed"
                figures = f"cancel {cancel_s:.2f} s, begin {begin_s:.2f} s, refused after {refused_s:.2f} s"
                print(f"longest wait {wait.result():.2f} s, {figures}")
                assert wait.result() < _PATIENCE_S
                assert begin_s < _PATIENCE_S
                assert refused_s < 3 * _PATIENCE_S
            finally:
                victim.cont()
            await until_ready(stand.a, _is_whole)
            await third.until_said(lost, "before after", lost)
            await stand.check(other, well, {well: "completed"}, texts={well: whole(100)})
            await stand.check(third, lost, {lost: "completed"}, texts={lost: "before after"})
            await stand.check(third, apart, {apart_id: "cancelled"}, texts={apart_id: "half "})
            await stand.check(third, new, {new: "completed"})
            assert all(len(stand.witness.epochs[name]) == 1 for name in (well, apart, new)), "nobody was taken over"


async def _refused(client: Traveller, name: str) -> None:
    with pytest.raises(CallError) as refused:
        await client.create(name, name, name)
    assert refused.value.code == "unavailable"


async def test_a_shard_that_comes_back_has_what_it_had_and_nodes_may_be_started_meanwhile() -> None:
    """There is no replica: until it is started again its partitions are away, also for a node that is started then."""
    async with running_shards(replicas=0) as (shards, stand):
        victim = await shards.victim()
        well, lost = shards.name("well", victim, there=False), shards.name("lost", victim, there=True)
        gates = {name: Gate() for name in (well, lost)}
        for name, gate in gates.items():
            stand.says(name, Script.text("before ", gate, "after"))
        async with stand.client(stand.a) as owner, stand.client(stand.a) as third:
            for name in (well, lost):
                await owner.make(name, name)
                await third.insist({"type": "conversation.open", "conversation_id": name})
                await third.until_said(name, "before ", name)
            await victim.kill()
            await until_ready(stand.a, _lacks_partitions)
            await stand.b.kill()
            assert await timed(stand.b.start()) < LONG_S
            await until_ready(stand.b, _lacks_partitions)
            gates[well].open()
            gates[lost].open()
            async with stand.client(stand.b) as newcomer:
                await newcomer.insist({"type": "conversation.open", "conversation_id": well})
                await newcomer.until_said(well, "before after", well)
            await victim.start()
            await until_ready(stand.a, _is_whole)
            await until_ready(stand.b, _is_whole)
            for name in (well, lost):
                await stand.check(third, name, {name: "completed"}, texts={name: "before after"})
        assert (stand.calls(well), stand.calls(lost)) == (1, 1)
