"""The clustered log on a Redis Cluster and behind Sentinel: the same contract, and parts that fail alone."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import anyio
import pytest
from tests.support.redis import RedisCluster, RedisServer, redis_cluster_for_many, running_redis_sentinel

from turnwire_server.eventlog.base import Append, Appended, Forgotten, LogUnavailable, Owned, Reentry
from turnwire_server.eventlog.redis import RedisEventLog

from .eventlog import EventLogContract
from .eventlog_writing import member
from .kit import Clock, LogKit, op
from .nodes import Ear, listening, redis_engine, redis_nodes, settle

WHOLE_AGAIN_S = 15.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    """Three primaries with a replica each, for the whole module. Whoever breaks it mends it."""
    with redis_cluster_for_many(primaries=3, replicas=1) as formed:
        yield formed


@asynccontextmanager
async def cluster_log(url: str, clock: Clock) -> AsyncIterator[LogKit]:
    prefix = f"t{uuid.uuid4().hex[:12]}"
    logs: list[RedisEventLog] = []

    async def begin() -> RedisEventLog:
        if logs:
            await logs[-1].aclose()
        logs.append(redis_engine(url, prefix=prefix, clock=clock))
        await logs[-1].open()
        await settle(logs[-1])
        return logs[-1]

    try:
        yield LogKit(await begin(), clock, begin)
    finally:
        await logs[-1].aclose()


class TestCluster(EventLogContract):
    """Without faults: what a fault does to a step is the same on every kind of Redis."""

    @pytest.fixture
    async def kit(self, cluster: RedisCluster) -> AsyncIterator[LogKit]:
        async with cluster_log(cluster.url, Clock()) as kit:
            yield kit


# --- two nodes ------------------------------------------------------------------------------------------------------


async def test_nodes_hear_each_other_on_every_shard(cluster: RedisCluster) -> None:
    async with redis_nodes(2, url=cluster.url) as (here, there), listening(there.log) as ear, listening(here.log):
        for number in range(9):
            ref = here.ref(f"talk-{number}")
            there.log.watch(ref)
            await here.begin(f"r{number}", "a", conversation=ref.conversation_id)
            await ear.until(lambda ref=ref: ear.texts(ref) == ["a"])  # type: ignore[misc]
        before = ear.orphans
        owned = await here.begin("r10", "a")
        await here.log.hand_over(owned.request, owned.fence)
        await ear.until(lambda: ear.orphans > before)
        assert await there.log.take_over(op(), owned.request) is not None


async def test_a_lane_is_a_part(cluster: RedisCluster) -> None:
    async with redis_nodes(1, url=cluster.url) as (kit,):
        refs = [kit.ref(f"talk-{number}") for number in range(20)]
        assert {kit.log.lane(ref) for ref in refs} == set(range(4))
        assert [kit.log.lane(ref) for ref in refs] == [kit.log.partition(ref) for ref in refs]


async def test_any_one_address_leads_to_the_whole_cluster(cluster: RedisCluster) -> None:
    for server in (cluster.servers[0], cluster.servers[-1]):
        async with redis_nodes(1, url=f"redis+cluster://127.0.0.1:{server.port}") as (kit,):
            for number in range(4):
                await kit.end(await kit.begin(f"r{number}", conversation=f"talk-{number}"))
            found = await kit.log.describe()
            assert sum(": " not in name and name.startswith("127.0.0.1:") for name in found) == 3


async def test_a_cluster_that_one_shard_takes_with_it_is_warned_of(
    cluster: RedisCluster, caplog: pytest.LogCaptureFixture
) -> None:
    async with redis_nodes(1, url=cluster.url):
        assert "full-coverage" not in caplog.text
    await cluster.servers[0].command("CONFIG", "SET", "cluster-require-full-coverage", "yes")
    try:
        async with redis_nodes(1, url=cluster.url):
            assert "cluster-require-full-coverage yes" in caplog.text
    finally:
        await cluster.servers[0].command("CONFIG", "SET", "cluster-require-full-coverage", "no")


# --- a shard that fails ---------------------------------------------------------------------------------------------


async def placed(kit: LogKit, cluster: RedisCluster, server: RedisServer) -> tuple[str, str]:
    """A conversation on this server, and one on another; each with requests whose records lie beside them."""
    log = kit.log
    assert isinstance(log, RedisEventLog)
    names: dict[bool, str] = {}
    for number in range(200):
        name = f"talk-{number}"
        home = await cluster.primary_of(await cluster.slot_of(log._tag(kit.ref(name))))
        names.setdefault(home is server, name)
        if len(names) == 2:
            return names[True], names[False]
    raise AssertionError("every server has something")


async def request_beside(kit: LogKit, conversation: str) -> str:
    """A request id whose record lies where the conversation does."""
    log = kit.log
    assert isinstance(log, RedisEventLog)
    tag = log._tag(kit.ref(conversation))
    return next(name for name in (f"q{n}" for n in range(1000)) if log._record_tag(kit.request(name)) == tag)


async def timed(call: Awaitable[object]) -> float:
    began = time.monotonic()
    await call
    return time.monotonic() - began


@asynccontextmanager
async def mended(cluster: RedisCluster) -> AsyncIterator[None]:
    """At the end all servers are up, and the cluster is whole with all its replicas in step."""
    try:
        yield
    finally:
        for server in cluster.servers:
            if server.is_up:
                server.cont()
            else:
                await server.start()
        with anyio.fail_after(WHOLE_AGAIN_S):
            for server in cluster.servers:
                while not await _is_well(server):
                    await anyio.sleep(0.02)
            for slot in (0, 8000, 16_000):
                await cluster.until_served(slot)


async def _is_well(server: RedisServer) -> bool:
    info = await server.info("replication")
    if info["role"] == "slave" and info["master_link_status"] != "up":
        return False
    if info["role"] == "master" and info["connected_slaves"] == "0":
        return False
    return "cluster_state:ok" in str(await server.command("CLUSTER", "INFO"))


async def test_a_shard_that_hangs_holds_up_nobody_else(cluster: RedisCluster) -> None:
    """It is stopped for less than a fail-over takes to begin; with every call to it open-ended until then."""
    async with mended(cluster), redis_nodes(2, url=cluster.url, lease_s=1.5, partitions=16) as (here, there):
        stopped = await cluster.primary_of(0)
        away, well = await placed(here, cluster, stopped)
        lost = await here.begin(await request_beside(here, away), "a", conversation=away)
        kept = await here.begin(await request_beside(here, well), "a", conversation=well)
        there.log.watch(there.ref(well))
        there.log.watch(there.ref(away))
        async with listening(here.log) as owner, listening(there.log) as ear:
            for server in cluster.servers:
                await server.command("CONFIG", "SET", "cluster-node-timeout", 60_000)
            stopped.stop()
            try:
                slowest = await _goes_on(here, there, kept, ear, owner, seconds=4.0)
                with pytest.raises(LogUnavailable):
                    await here.say(lost, 1, "b")
                assert await timed(_fails(partial(here.say, lost, 1, "b"))) < 0.1, "refused at once by now"
                assert "of 16 partitions do not answer" in (await here.log.ping())[0]
            finally:
                stopped.cont()
                for server in cluster.servers:
                    await server.command("CONFIG", "SET", "cluster-node-timeout", 1000)
            assert slowest["say"] < 0.5
            assert slowest["orphans"] < 1.5
            assert slowest["again"] < 0.5, "the second time it is known to be silent"
            with anyio.fail_after(5):
                while await here.log.ping():
                    await anyio.sleep(0.02)
            await here.say(lost, 1, "b")
            await ear.until(lambda: ear.positions.get(there.ref(away), ("", 0))[1] == 2)


async def _fails(call: Callable[[], Awaitable[object]]) -> None:
    with pytest.raises(LogUnavailable):
        await call()


async def _goes_on(
    here: LogKit, there: LogKit, kept: Owned, ear: Ear, owner: Ear, *, seconds: float
) -> dict[str, float]:
    """A turn elsewhere appends, is heard, is spoken to and keeps its lease; the slowest of each."""
    slowest = {"say": 0.0, "orphans": 0.0, "again": 0.0}
    deadline, number = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        number += 1
        slowest["say"] = max(slowest["say"], await timed(here.say(kept, number, str(number))))
        said = [str(number)]
        await ear.until(lambda said=said: ear.texts(kept.conversation)[-1:] == said, within_s=0.5)  # type: ignore[misc]
        await there.log.post(op(), kept.request, "steer", {}, user_id="ann", conversation=kept.conversation)
        await owner.until(lambda n=number: len(owner.intents) >= n, within_s=0.5)  # type: ignore[misc]
        began = time.monotonic()
        assert await there.log.orphans() == [], "its lease is renewed"
        took = time.monotonic() - began
        which = "orphans" if number == 1 else "again"
        slowest[which] = max(slowest[which], took)
        assert await there.log.running([kept.conversation]) == {kept.conversation}
        await there.log.in_doubt()
        await anyio.sleep(0.05)
    return slowest


async def test_a_primary_that_dies_is_replaced_and_the_others_go_on(cluster: RedisCluster) -> None:
    async with mended(cluster), redis_nodes(2, url=cluster.url, lease_s=1.5, partitions=16) as (here, there):
        killed = await cluster.primary_of(8000)
        away, well = await placed(here, cluster, killed)
        lost = await here.begin(await request_beside(here, away), "a", conversation=away)
        kept = await here.begin(await request_beside(here, well), "a", conversation=well)
        await killed.command("WAIT", 1, 2000)
        there.log.watch(there.ref(well))
        there.log.watch(there.ref(away))
        async with listening(here.log) as owner, listening(there.log) as ear:
            await killed.kill()
            slowest = await _goes_on(here, there, kept, ear, owner, seconds=1.0)
            assert max(slowest.values()) < 0.5
            with anyio.fail_after(WHOLE_AGAIN_S):
                while not isinstance(answer := await _tried(here, lost), Forgotten):
                    await anyio.sleep(0.05)
            assert answer == Forgotten(), "the heir may lack what was written last"
            story = Reentry(lost.spec, lost.ordinal, 1, 1, "streaming", {"events": 1})
            back = Append(lost.request, lost.conversation, lost.fence, 1, (), epoch=lost.epoch, reentry=story)
            (entered,) = await here.log.append([back])
            assert isinstance(entered, Appended)
            assert (await here.log.position(kept.conversation)).epoch == kept.epoch, "nobody else was touched"
            await ear.until(lambda: ear.positions.get(there.ref(away), ("", 0))[0] == entered.epoch)
            said = await here.say(lost, 1, "b", epoch=entered.epoch)
            await ear.until(lambda: ear.texts(there.ref(away))[-1:] == ["b"])
            assert said.epoch == entered.epoch
            assert {doubt.partition for doubt in await there.log.in_doubt()} < set(range(16))


async def _tried(kit: LogKit, owned: Owned) -> object:
    try:
        (answer,) = await kit.log.append([kit.append(owned, 1, "b", epoch=owned.epoch)])
    except LogUnavailable:
        return None
    return answer


async def test_slots_that_move_are_followed(cluster: RedisCluster) -> None:
    """A slot is given to another primary while it is in use: calls on their way are redirected, once."""
    async with redis_nodes(2, url=cluster.url) as (here, there):
        log = here.log
        assert isinstance(log, RedisEventLog)
        owned = await here.begin("r1", "a")
        there.log.watch(there.ref())
        slot = await cluster.slot_of(log._tag(here.ref()))
        source = await cluster.primary_of(slot)
        target = await cluster.primary_of((slot + 5461) % 16_384)
        async with listening(there.log) as ear:
            await _migrate(cluster, slot, source, target)
            try:
                await here.say(owned, 1, "b", epoch=owned.epoch)
            except AssertionError as error:  # another server: it is another incarnation
                assert "Forgotten" in str(error)
            position = await there.log.position(there.ref())
            assert position.seq >= 1
            with anyio.fail_after(5):
                while not there.log._following.is_connected:  # type: ignore[attr-defined]
                    await anyio.sleep(0.02)
            await there.log.emit(op(), there.ref(), [member("bob")])
            await ear.until(lambda: ear.positions.get(there.ref(), ("", 0))[1] >= position.seq + 1)
            await _migrate(cluster, slot, target, source)


async def _migrate(cluster: RedisCluster, slot: int, source: RedisServer, target: RedisServer) -> None:
    source_id, target_id = [str(await server.command("CLUSTER", "MYID")) for server in (source, target)]
    await target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
    await source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
    while keys := await source.command("CLUSTER", "GETKEYSINSLOT", slot, 100):
        await source.command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
    for server in (target, source):
        await server.command("CLUSTER", "SETSLOT", slot, "NODE", target_id)


# --- Sentinel -------------------------------------------------------------------------------------------------------


async def test_behind_sentinel_a_fail_over_is_another_incarnation_and_living_owners_put_their_turns_back() -> None:
    async with running_redis_sentinel() as sentinel:
        async with redis_nodes(2, url=sentinel.url, timeout_s=1.0) as (here, there):
            there.log.watch(there.ref())
            async with listening(there.log) as ear, listening(here.log):
                owned = await here.begin("r1", "a")
                await ear.until(lambda: ear.texts(there.ref()) == ["a"])

                async def write(_: RedisServer) -> None:
                    await here.say(owned, 1, "lost")

                await sentinel.promote_without_the_last_writes(write)
                with anyio.fail_after(WHOLE_AGAIN_S):
                    while not isinstance(await _tried(here, owned), Forgotten):
                        await anyio.sleep(0.05)
                assert (await there.log.position(there.ref())).seq == 1, "the heir has never heard of the second"
                story = Reentry(owned.spec, owned.ordinal, 1, 2, "streaming", {"said": ["a", "lost"]})
                back = Append(owned.request, owned.conversation, owned.fence, 2, (), epoch=owned.epoch, reentry=story)
                (entered,) = await here.log.append([back])
                assert isinstance(entered, Appended)
                assert entered.epoch.rpartition(".")[2] != owned.epoch.rpartition(".")[2]
                await ear.until(lambda: ear.positions.get(there.ref(), ("", 0))[0] == entered.epoch)
                (said,) = (await here.say(owned, 2, "b", epoch=entered.epoch)).entries
                await ear.until(lambda: ear.positions[there.ref()] == (entered.epoch, said.seq))
                doubts: Sequence[object] = await there.log.in_doubt()
                assert len(doubts) == 4
