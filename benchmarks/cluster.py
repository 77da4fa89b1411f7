"""Figures of a cluster on this machine: `python -m benchmarks.cluster`. Bounded, on loopback, ends by itself.

Two nodes with the production code, one Redis, one MongoDB-wire server. Measured at clients: how long after a `kill -9`
of the owning node the next event comes on the other node; how much later a delta is seen on the other node than on the
owner's; what a delta costs Redis in commands and bytes; how long it takes to get 1,000 missed events. Wall clocks of a
shared machine: medians say something, the worst much less.
"""

from __future__ import annotations

import asyncio
import statistics
import time
import uuid
from collections.abc import Mapping

from tests.support.client import Client, connected
from tests.support.cluster import running_cluster
from tests.support.mongo import running_mongo
from tests.support.provider import Script, running_provider
from tests.support.provider_script import Pause
from tests.support.redis import RedisServer, running_redis

LEASE_S = 2.0
KILLS = 5
DELTAS = 300


def paced(count: int, gap_s: float) -> Script:
    """An answer of so many deltas."""
    steps: list[object] = []
    for number in range(count):
        steps += [f"word{number} ", Pause(gap_s)]
    return Script.text(*steps)


async def _until_text(client: Client, request: str, part: str) -> float:
    await client.until(lambda: part in client.text(request))
    return time.monotonic()


async def kill_to_next_event(redis: RedisServer, mongo_url: str) -> list[float]:
    """Seconds from `kill -9` of the owner to the next event of its turn at a client on the other node."""
    waits = []
    async with running_provider() as provider:
        for _ in range(KILLS):
            provider.default = lambda body: paced(400, 0.05)
            async with running_cluster(
                provider.base_url,
                nodes=2,
                redis_url=redis.url,
                mongo_url=mongo_url,
                lease_s=LEASE_S,
                prefix=f"b{uuid.uuid4().hex[:8]}",
                database=f"b{uuid.uuid4().hex[:8]}",
            ) as cluster:
                owner, other = cluster.nodes
                async with connected(owner.url) as first:
                    await first.create("r1", "c1", "hello")
                    await first.event("output_text.delta")
                    async with connected(other.url) as second:
                        await second.open("c1")
                        await second.event("output_text.delta")
                        await owner.kill()
                        began = time.monotonic()
                        await second.until(lambda: bool(second.events("step.failed")), 30)
                        waits.append(time.monotonic() - began)
    return waits


async def cluster_figures(redis: RedisServer, mongo_url: str) -> Mapping[str, object]:
    """Cross-node delay, cost of a delta in Redis, and the time of a long resume."""
    async with (
        running_provider() as provider,
        running_cluster(
            provider.base_url,
            nodes=2,
            redis_url=redis.url,
            mongo_url=mongo_url,
            lease_s=LEASE_S,
            prefix=f"b{uuid.uuid4().hex[:8]}",
            database=f"b{uuid.uuid4().hex[:8]}",
        ) as cluster,
    ):
        owner, other = cluster.nodes
        async with connected(owner.url) as first, connected(other.url) as second:
            provider.script(paced(DELTAS, 0.02))
            await second.open("c1")
            before = await redis.info("stats")
            here: dict[int, float] = {}
            there: dict[int, float] = {}

            async def watch(client: Client, seen: dict[int, float]) -> None:
                while not client.events("message.completed"):
                    for message in await client.read_frame(30):
                        if message.get("type") == "output_text.delta":
                            seen[message["seq"]] = time.monotonic()

            await first.create("r1", "c1", "hello")
            await asyncio.gather(watch(first, here), watch(second, there))
            after = await redis.info("stats")
            late = sorted((there[seq] - here[seq]) * 1000 for seq in here.keys() & there.keys())
        commands = int(after["total_commands_processed"]) - int(before["total_commands_processed"])
        moved = sum(
            int(after[name]) - int(before[name]) for name in ("total_net_input_bytes", "total_net_output_bytes")
        )
        # Slow enough that each delta becomes an event of its own.
        provider.script(paced(1000, 0.005))
        async with connected(owner.url) as first:
            await first.create("r2", "c1", "again")
            await first.terminal("r2", 60)
        resume_ms, missed = await resume(other.url, second)
    return {
        "cross-node delay p50 ms": round(statistics.median(late), 2),
        "cross-node delay p99 ms": round(late[int(len(late) * 0.99) - 1], 2),
        "Redis commands per delta (scripts' own included)": round(commands / DELTAS, 1),
        "Redis bytes in and out per delta": round(moved / DELTAS),
        f"resume of {missed} missed events ms": round(resume_ms, 1),
    }


async def resume(url: str, before: Client) -> tuple[float, int]:
    """How long a client waits for what it missed: from its command to the last frame, median of some tries."""
    waits = []
    cursor = before.cursor("c1")
    for _ in range(7):
        async with connected(url) as client:
            began = time.monotonic()
            await client.send({"type": "conversation.open", "conversation_id": "c1", "since": cursor, "id": "o"})
            frames = [await client.socket.recv()]
            while b"message.completed" not in _bytes(frames[-1]):
                frames.append(await client.socket.recv())
            waits.append((time.monotonic() - began) * 1000)
            messages = [message for frame in frames for message in client.codec.decode(frame)]
    last = max(message["seq"] for message in messages if isinstance(message, dict) and "seq" in message)
    return statistics.median(waits), last - cursor["seq"]


def _bytes(frame: str | bytes) -> bytes:
    return frame.encode() if isinstance(frame, str) else frame


async def main() -> None:
    async with running_redis() as redis, running_mongo() as mongo:
        figures = dict(await cluster_figures(redis, mongo.url))
        waits = await kill_to_next_event(redis, mongo.url)
        figures[f"kill -9 to next event, lease {LEASE_S} s: median, worst s"] = (
            f"{statistics.median(waits):.2f}, {max(waits):.2f}"
        )
    for name, value in figures.items():
        print(f"{name:60} {value}")


if __name__ == "__main__":
    asyncio.run(main())
