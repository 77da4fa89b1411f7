"""Carrying out the faults of a schedule, each at its time, and taking all of them back in the end."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence

from tests.chaos.client import ChaosClient
from tests.chaos.records import Happened, Recorder
from tests.chaos.schedule import Fault
from tests.support.cluster import Cluster, Node
from tests.support.mongo import MongoServer
from tests.support.redis import RedisCluster, RedisSentinel, RedisServer


class Faults:
    """Does to the cluster, its stores and its clients what a schedule says."""

    def __init__(
        self,
        cluster: Cluster,
        clients: Sequence[ChaosClient],
        redis: RedisServer | RedisSentinel | RedisCluster | None,
        mongo: MongoServer | None,
        recorder: Recorder,
    ) -> None:
        self.happened: list[Happened] = []
        self.notes: list[str] = []
        self._cluster = cluster
        self._clients = clients
        self._redis = redis
        self._mongo = mongo
        self._recorder = recorder
        self._one_fail_over = asyncio.Lock()
        # A node that is just starting is left in peace until it is up: whatever comes next to it waits.
        self._locks = {node.name: asyncio.Lock() for node in cluster.nodes}

    async def run(self, faults: Sequence[Fault]) -> None:
        """All of them, each at its own time."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for fault in faults:
                group.create_task(self._at(fault, began))

    async def _at(self, fault: Fault, began: float) -> None:
        await asyncio.sleep(max(0.0, began + fault.at - time.monotonic()))
        if fault.target in self._locks:
            async with self._locks[fault.target]:
                await self._recorded(fault)
        else:
            await self._recorded(fault)

    async def _recorded(self, fault: Fault) -> None:
        happened = Happened(fault.kind, fault.target, self._recorder.now(), 0.0)
        self.happened.append(happened)
        await self._carry_out(fault)
        happened.ended = self._recorder.now()

    async def _carry_out(self, fault: Fault) -> None:
        if fault.kind.startswith("client"):
            await self._on_client(self._clients[fault.number], fault)
        elif fault.kind.startswith("node"):
            await self._on_node(self._cluster.nodes[fault.number - 1], fault)
        elif fault.target in ("redis", "mongo"):
            await self._on_store(fault)
        else:
            await self._between(self._cluster.nodes[fault.number - 1], fault)

    @staticmethod
    async def _on_client(client: ChaosClient, fault: Fault) -> None:
        if fault.kind == "client cut":
            client.proxy.cut()
        else:
            client.proxy.pause()
            await asyncio.sleep(fault.lasts)
            client.proxy.resume()

    async def _on_node(self, node: Node, fault: Fault) -> None:
        match fault.kind:
            case "node pause":
                node.stop()
                await asyncio.sleep(fault.lasts)
                node.cont()
                return
            case "node kill":
                await node.kill()
            case "node drain":
                node.drain()
                try:
                    code = await node.gone()
                    if code != 0:
                        self.notes.append(f"{node.name} ended with {code} after SIGTERM at {self._recorder.now()}")
                except TimeoutError:
                    self.notes.append(f"{node.name} did not end after SIGTERM at {self._recorder.now()}")
                    await node.kill()
        await asyncio.sleep(fault.lasts)
        await self._started(node)

    async def _started(self, node: Node) -> None:
        """Start a node, as a supervisor does: again, when its stores are away just then."""
        for _ in range(20):
            if node.is_up:  # on a busy machine the start of an earlier fault may still have been under way
                return None
            try:
                return await node.start()
            except Exception as error:
                self.notes.append(f"(retried) {node.name} did not start at {self._recorder.now()}: {str(error)[-300:]}")
                await asyncio.sleep(0.5)
        raise RuntimeError(f"{node.name} does not start")

    async def _on_store(self, fault: Fault) -> None:
        if fault.target == "mongo":
            assert self._mongo is not None, "such faults are for clusters"
            await self._mongo.kill()
            await asyncio.sleep(fault.lasts)
            await self._mongo.start()
            return
        match self._redis:
            case RedisServer():
                await self._on_redis(self._redis, fault)
            case RedisSentinel():
                async with self._one_fail_over:  # there are but two servers
                    old = await self._fail_over(self._redis, fault)
                    await asyncio.sleep(fault.lasts)
                    await old.start()
            case RedisCluster():
                old = await self._redis.fail_over(fault.number * 4_000)
                await asyncio.sleep(fault.lasts)
                await old.start()

    @staticmethod
    async def _on_redis(redis: RedisServer, fault: Fault) -> None:
        match fault.kind:
            case "redis kill" | "redis lose":
                await redis.kill()
                await asyncio.sleep(fault.lasts)
                await redis.start(empty=fault.kind == "redis lose")
            case "redis stop":
                redis.stop()
                await asyncio.sleep(fault.lasts)
                redis.cont()
            case "redis flushall":
                await redis.flushall()

    @staticmethod
    async def _fail_over(redis: RedisSentinel, fault: Fault) -> RedisServer:
        async def write(_: RedisServer) -> None:
            await asyncio.sleep(fault.lasts)  # the nodes write

        if fault.kind == "redis promote":
            return await redis.promote_without_the_last_writes(write)
        return await redis.fail_over()

    @staticmethod
    async def _between(node: Node, fault: Fault) -> None:
        store, how = fault.kind.split(" ")
        proxy = node.redis if store == "redis" else node.mongo
        assert proxy is not None, "such faults are for clusters"
        match how:
            case "cut":
                proxy.cut()
                return
            case "pause":
                proxy.pause()
            case "refuse":
                proxy.refuse()
            case "delay":
                proxy.delay(0.01 + fault.lasts / 40)
        await asyncio.sleep(fault.lasts)
        proxy.resume()

    async def heal(self) -> None:
        """Everything works again. Stores do already: their faults end with them up."""
        self._cluster.heal()
        for client in self._clients:
            client.proxy.resume()
        for node in self._cluster.nodes:
            if not node.is_up:
                await self._started(node)

    async def drain_all(self) -> None:
        """The end: every node gets SIGTERM and has to go in good order."""
        for node in self._cluster.nodes:
            node.drain()
        for node in self._cluster.nodes:
            try:
                if (code := await node.gone()) != 0:
                    name = signal.Signals(-code).name if code < 0 else code
                    self.notes.append(f"{node.name} ended with {name} at the end of the round")
            except TimeoutError:
                self.notes.append(f"{node.name} did not end after SIGTERM at the end of the round")
                await node.kill()
