"""`turnwire serve --workers 2`: two processes on one port that share every conversation, through Redis and MongoDB."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil
from tests.server.cli.commands import Serving, end_group, serving, turnwire, workers_of
from tests.support.client import Client, connected
from tests.support.mongo import fresh_database
from tests.support.provider import ControlledProvider, Gate, Script, running_provider
from tests.support.redis import RedisServer, free_port, running_redis

LEASE_S = 2
WAIT_S = 30.0


@dataclass(frozen=True)
class Workers:
    """A running group."""

    server: Serving
    provider: ControlledProvider
    redis: RedisServer

    def worker(self, node_id: str) -> psutil.Process:
        return workers_of(self.server.process)[int(node_id.rpartition("-")[2])]

    async def figures(self) -> dict[str, float]:
        page = self.server.url.replace("ws://", "http://").removesuffix("/v1")
        async with aiohttp.ClientSession() as session, session.get(f"{page}/metrics") as response:
            lines = (line.rsplit(" ", 1) for line in (await response.text()).splitlines() if line[0] != "#")
            return {name: float(value) for name, value in lines}


def backends(redis_url: str, mongo_url: str, database: str) -> dict[str, str]:
    return {
        "TURNWIRE_STORAGE__REDIS_URL": redis_url,
        "TURNWIRE_STORAGE__MONGO_URL": mongo_url,
        "TURNWIRE_STORAGE__MONGO_DATABASE": database,
        "TURNWIRE_STORAGE__LEASE_S": str(LEASE_S),
        "TURNWIRE_SERVER__NODE_ID": "host",
    }


@asynccontextmanager
async def running_workers(folder: Path) -> AsyncIterator[Workers]:
    async with running_provider() as provider, running_redis() as redis, fresh_database() as (mongo_url, database):
        variables = {**backends(redis.url, mongo_url, database), "OPENAI_BASE_URL": provider.base_url}
        async with serving(folder, "--workers", "2", **variables) as server:
            try:
                yield Workers(server, provider, redis)
            finally:
                await end_group(server.process)


def node(client: Client) -> str:
    return str(client.welcome["node_id"])


async def one_at_each(workers: Workers, stack: AsyncExitStack) -> tuple[Client, Client]:
    """Two clients at different workers; the second is not where the first is."""
    first = await stack.enter_async_context(connected(workers.server.url))
    return first, await elsewhere(workers, stack, node(first))


async def elsewhere(workers: Workers, stack: AsyncExitStack, not_at: str) -> Client:
    """A client at another worker, once there is one."""
    async with asyncio.timeout(WAIT_S):
        while True:
            async with AsyncExitStack() as trying:
                client = await trying.enter_async_context(connected(workers.server.url))
                if node(client) != not_at:
                    stack.push_async_exit(trying.pop_all())
                    return client


async def test_a_turn_is_seen_and_cancelled_through_the_other_worker(tmp_path: Path) -> None:
    async with running_workers(tmp_path) as workers, AsyncExitStack() as stack:
        assert workers.server.said.count("ws://") == 1
        assert "2, named host-0 to -1" in workers.server.said
        author, watcher = await one_at_each(workers, stack)
        assert {node(author), node(watcher)} == {"host-0", "host-1"}
        await watcher.open("c1")
        workers.provider.script(Script.text("Hello", Gate(), " there"))
        await author.create("r1", "c1", "hello")
        await watcher.until(lambda: watcher.text("r1") == "Hello", WAIT_S)
        assert (await watcher.cancel("r1"))["outcome"] == "cancelling"
        for client in (author, watcher):
            assert (await client.terminal("r1", WAIT_S))["type"] == "message.cancelled"


async def test_turns_of_a_killed_worker_go_on_at_the_other_and_it_is_started_again(tmp_path: Path) -> None:
    async with running_workers(tmp_path) as workers, AsyncExitStack() as stack:
        author, watcher = await one_at_each(workers, stack)
        await watcher.open("c1")
        workers.provider.script(Script.text("Hello", Gate(), " lost"))
        workers.provider.script(Script.text("Hello", " again"))
        await author.create("r1", "c1", "hello")
        await watcher.until(lambda: watcher.text("r1") == "Hello", WAIT_S)
        killed = workers.worker(node(author))
        killed.kill()
        assert (await watcher.terminal("r1", WAIT_S))["type"] == "message.completed"
        assert [event["reason"] for event in watcher.events("step.failed", "r1")] == ["node_lost"]
        again = await elsewhere(workers, stack, node(watcher))
        assert node(again) == node(author)
        assert workers.worker(node(again)) != killed
        # It serves what it once began and what another has ended.
        assert (await again.status("r1"))["state"] == "completed"


async def test_a_signal_lets_the_turns_of_all_workers_finish(tmp_path: Path) -> None:
    async with running_workers(tmp_path) as workers, AsyncExitStack() as stack:
        clients = await one_at_each(workers, stack)
        gates = [Gate(), Gate()]
        for number, (client, gate) in enumerate(zip(clients, gates, strict=True)):
            workers.provider.script(Script.text("Hello", gate, " there"))
            await client.create(f"r{number}", f"c{number}", "hello")
            await client.until(lambda client=client, number=number: client.text(f"r{number}") == "Hello")
        workers.server.signal(signal.SIGTERM)
        for number, (client, gate) in enumerate(zip(clients, gates, strict=True)):
            await client.event("goaway")
            gate.open()
            assert (await client.terminal(f"r{number}", WAIT_S))["type"] == "message.completed"
        assert await workers.server.gone() == 0


async def test_one_scrape_counts_the_turns_of_both_workers(tmp_path: Path) -> None:
    async with running_workers(tmp_path) as workers, AsyncExitStack() as stack:
        for number, client in enumerate(await one_at_each(workers, stack)):
            workers.provider.script(Script.text("Hello"))
            await client.create(f"r{number}", f"c{number}", "hello")
            await client.terminal(f"r{number}", WAIT_S)
        for _ in range(4):  # whichever worker answers
            assert (await workers.figures())['turnwire_turns_total{outcome="completed"}'] == 2


async def test_a_backend_that_is_away_stops_the_start_and_is_said_once(tmp_path: Path) -> None:
    async with fresh_database() as (mongo_url, database):
        variables = backends(f"redis://127.0.0.1:{free_port()}", mongo_url, database)
        result = await turnwire(tmp_path, "serve", "--workers", "2", "--port", "0", **variables)
    assert (result.code, result.out) == (1, "")
    assert result.err.count("does not answer") == 1
    assert "started again" not in result.err
    assert "Traceback" not in result.err


async def test_check_shows_both_backends(tmp_path: Path) -> None:
    async with running_redis() as redis, fresh_database() as (mongo_url, database):
        variables = backends(redis.url, mongo_url, database)
        found = await turnwire(tmp_path, "check", **variables)
        assert found.code == 0, found.out
        assert found.out.count("takes writes, answered in") == 2
        assert "standalone" in found.out
        assert "noeviction" in found.out
        await redis.kill()
        missing = await turnwire(tmp_path, "check", **variables)
        assert missing.code == 1
        assert missing.out.count("takes writes, answered in") == 1
        assert "Redis does not answer" in missing.out
