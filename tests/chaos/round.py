"""One round of chaos: start everything, let the clients act while things break, heal, wait for calm, gather.

What comes out is `Evidence`; whether all was well is `checker`'s to say. Fresh stores for each round.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from tests.chaos.answers import IDLE_S, KEY, Answers
from tests.chaos.client import ChaosClient, World
from tests.chaos.contents import read_mongo, read_sqlite
from tests.chaos.faults import Faults
from tests.chaos.records import Archived, Evidence, Happened, Recorder
from tests.chaos.schedule import Mode, Schedule
from tests.support.cluster import Cluster, running_cluster
from tests.support.mongo import MongoServer, running_mongo
from tests.support.provider import ControlledProvider, running_provider
from tests.support.proxy import running_proxy
from tests.support.redis import (
    RedisCluster,
    RedisSentinel,
    RedisServer,
    running_redis,
    running_redis_cluster,
    running_redis_sentinel,
)

from turnwire_protocol import TERMINAL_STATES

Redis = RedisServer | RedisSentinel | RedisCluster | None
LEASE_S = 1.0
CALM_S = 30.0
_TICK_S = 0.02
"""Within this time after the last fault every request that is owned must have ended."""
_CATCH_UP_S = 15.0
_DATABASE = "chaos"


def settings_of(provider_url: str) -> dict[str, Any]:
    """The settings of all nodes besides where things are: quick leases and patience that fits into a round."""
    deployment = {
        "model": "test-model",
        "base_url": provider_url,
        "api_key_env": KEY,
        "connect_timeout_s": 2,
        "first_token_timeout_s": IDLE_S,
        "idle_timeout_s": IDLE_S,
        "input_usd_per_mtok": "0.15",
        "output_usd_per_mtok": "0.60",
    }
    return {
        "server": {"drain_s": 1.5},
        "storage": {"archive_wait_s": 1.5, "outage_hold_s": 8},
        "deployments": [{"name": name, **deployment} for name in ("first", "second")],
        "routes": [{"name": "default", "deployments": ["first", "second"], "max_attempts": 3}],
        # A snapshot is to hold everything, so that it can be compared.
        "limits": {
            "commands_per_s": 10_000,
            "errors_per_minute": 100_000,
            "connections_per_user": 1_000,
            "snapshot_messages": 10_000,
            "snapshot_bytes": 64 * 1024 * 1024,
            "takeovers": 50,
            "checkpoint_events": 40,
            "disconnect_grace_s": 0.2,
        },
    }


@asynccontextmanager
async def _running(
    mode: Mode, nodes: int, provider: ControlledProvider, directory: Path
) -> AsyncIterator[tuple[Cluster, Redis, MongoServer | None]]:
    settings = settings_of(provider.base_url)
    storage: Mapping[str, Any] = settings.pop("storage")
    async with AsyncExitStack() as stack:
        redis: Redis = None
        mongo = None
        if mode == "alone":
            redis = await stack.enter_async_context(running_redis())
        elif mode == "sentinel":
            redis = await stack.enter_async_context(running_redis_sentinel())
        elif mode == "cluster":
            redis = await stack.enter_async_context(running_redis_cluster(replicas=1))
        if redis is not None:
            mongo = await stack.enter_async_context(running_mongo())
        cluster = await stack.enter_async_context(
            running_cluster(
                provider.base_url,
                nodes=1 if redis is None else nodes,
                redis_port=redis.port if isinstance(redis, RedisServer) else None,
                redis_url=None if redis is None else redis.url,
                mongo_url=None if mongo is None else f"{mongo.url}?retryWrites=false",
                lease_s=LEASE_S,
                database=_DATABASE,
                directory=directory,
                environ=lambda name: {KEY: name},
                storage=storage,
                **settings,
            )
        )
        yield cluster, redis, mongo


async def run_round(schedule: Schedule, mode: Mode, directory: Path) -> Evidence:
    """Carry a schedule out. The nodes' logs are in ``directory`` afterwards."""
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(running_provider())
        answers = Answers(schedule.seed, provider)
        cluster, redis, mongo = await stack.enter_async_context(_running(mode, schedule.nodes, provider, directory))
        recorder = Recorder()
        world = World(schedule, cluster.nodes, recorder)
        for number in range(len(schedule.acts)):
            proxy = await stack.enter_async_context(running_proxy(cluster.nodes[0].port))
            client = ChaosClient(world, number, proxy)
            stack.push_async_callback(client.aclose)
            world.clients.append(client)
        faults = Faults(cluster, world.clients, redis, mongo, recorder)
        await _chaos(world, faults, schedule)
        calm_at = recorder.now()
        notes = await _calm(world, stack)
        for client in world.clients:
            await client.aclose()
        await faults.drain_all()
        archive = await _archive(cluster, mongo)
        return Evidence(
            seed=schedule.seed,
            records=recorder.records,
            calls=answers.calls(recorder),
            archive=archive,
            faults=faults.happened,
            notes=[*faults.notes, *notes],
            calm_at=calm_at,
        )


async def _chaos(world: World, faults: Faults, schedule: Schedule) -> None:
    """Clients and faults, until the time is up and the clients have seen through what they began."""

    async def break_things() -> None:
        async with asyncio.TaskGroup() as both:
            both.create_task(faults.run(schedule.faults))
            both.create_task(asyncio.sleep(schedule.seconds))
        await faults.heal()
        world.closing.set()

    watching = asyncio.create_task(_watch_the_machine(faults, world.recorder))
    async with asyncio.TaskGroup() as group:
        group.create_task(break_things())
        for client, acts in zip(world.clients, schedule.acts, strict=True):
            group.create_task(client.run(acts))
    watching.cancel()


async def _watch_the_machine(faults: Faults, recorder: Recorder) -> None:
    """A machine that stands still for a good part of a lease is a fault like any other: nodes may lose theirs."""
    while True:
        began = recorder.now()
        await asyncio.sleep(_TICK_S)
        ended = recorder.now()
        if ended - began - _TICK_S > LEASE_S / 4:
            faults.happened.append(Happened("machine stall", "machine", began, ended))


async def _calm(world: World, stack: AsyncExitStack) -> list[str]:
    """Wait until nothing runs any more, then let everybody read to the end, and newcomers on every node as well."""
    notes = []
    proxy = await stack.enter_async_context(running_proxy(world.nodes[0].port))
    asker = ChaosClient(world, len(world.clients), proxy, name="asker")
    stack.push_async_callback(asker.aclose)
    try:
        async with asyncio.timeout(CALM_S):
            for request_id in tuple(world.requests):
                while not await _has_ended(asker, request_id):
                    await asyncio.sleep(0.1)
    except TimeoutError:
        notes.append(f"request {request_id} had not ended {CALM_S:g} s after the last fault")
    await asker.aclose()
    watchers = list(world.clients)
    for number, node in enumerate(world.nodes):
        proxy = await stack.enter_async_context(running_proxy(node.port))
        newcomer = ChaosClient(world, len(world.clients), proxy, name=f"newcomer-{number + 1}")
        newcomer._wanted_node = number + 1
        stack.push_async_callback(newcomer.aclose)
        watchers.append(newcomer)
    for failures in await asyncio.gather(*(client.settle(_CATCH_UP_S) for client in watchers)):
        notes += failures
    for watcher in watchers[len(world.clients) :]:
        await watcher.aclose()
    return notes


async def _has_ended(asker: ChaosClient, request_id: str) -> bool:
    answer = await asker.call({"type": "request.status", "request_id": request_id})
    if answer is None:
        return False
    return answer.get("code") == "not_found" or answer.get("state") in TERMINAL_STATES


async def _archive(cluster: Cluster, mongo: MongoServer | None) -> Archived:
    if mongo is not None:
        return await asyncio.to_thread(read_mongo, mongo.url, _DATABASE)
    return read_sqlite(Path(cluster.nodes[0].tree["server"]["data_dir"]))
