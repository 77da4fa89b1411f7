"""`python -m benchmarks`: CPU per delta and memory per idle connection, beside a bare pipe in the same run.

CPU is what the operating system accounts to the server's process (user and system), not a wall clock. The servers take
turns, because a shared machine's speed drifts, and what counts is the ratio round by round. Everything is on
loopback, bounded in time, and stops by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tests.support.mongo import running_mongo
from tests.support.redis import running_redis

from benchmarks.kinds import DEFAULT, KINDS, PEERS, Places, not_installed, runs
from benchmarks.processes import Child, child, module
from benchmarks.report import Idle, Results, Streaming, show, write

RESULTS = Path(__file__).with_name("results.json")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    streams: int = 100
    is_same_for_peers: bool = False
    """Peers, too, have so many streams, whether they keep up or not."""
    rate: float = 50.0
    rounds: int = 4
    warm_up_s: float = 3.0
    """In the first two seconds the peers' compilers take a quarter more."""
    window_s: float = 8.0
    connections: int = 1000
    idle_rounds: int = 2

    @classmethod
    def quick(cls) -> Plan:
        return cls(rounds=1, window_s=5.0, connections=500, idle_rounds=1)


@asynccontextmanager
async def _run(kind: str, places: Places) -> AsyncIterator[tuple[Child, Child]]:
    """A fresh server of this kind and its clients. The clients go first at the end, so that nothing is drained."""
    async with (
        child(KINDS[kind].command(places)) as server,
        child(module("load", "--url", server.hello["url"], "--client", KINDS[kind].client)) as clients,
    ):
        yield server, clients


async def _streaming(kind: str, streams: int, places: Places, plan: Plan) -> Streaming:
    async with _run(kind, places) as (server, clients):
        await clients.ask("streams", count=streams)
        await asyncio.sleep(plan.warm_up_s)
        # The accounts are read right after each mark: what lies between belongs to neither or to both windows.
        began = await clients.ask("mark")
        user, system = server.cpu_s()
        waited = server.waited_s()
        await asyncio.sleep(plan.window_s)
        ended = await clients.ask("mark")
        user_after, system_after = server.cpu_s()
        waited = server.waited_s() - waited
    seconds, tokens = ended["at"] - began["at"], ended["tokens"]
    return Streaming(
        kind=kind,
        streams=streams,
        us_per_delta=(user_after - user + system_after - system) / tokens * 1e6,
        system_us_per_delta=(system_after - system) / tokens * 1e6,
        deltas_per_s=tokens / seconds,
        waited=waited / seconds,
        deltas_per_event=tokens / ended["events"],
        deltas_per_frame=tokens / ended["frames"],
        delay_p50_ms=ended["delay_ms"]["p50"],
        delay_p99_ms=ended["delay_ms"]["p99"],
    )


async def _idle(kind: str, places: Places, plan: Plan) -> Idle:
    first = max(plan.connections // 10, 1)
    async with _run(kind, places) as (server, clients):
        await clients.ask("prepare", count=first + plan.connections, wait_s=120)
        # The first connections fill pools and caches that are there once, however many come.
        await clients.ask("idle", count=first)
        before = server.rss_bytes()
        await clients.ask("idle", count=plan.connections, wait_s=120)
        await asyncio.sleep(0.5)
        after = server.rss_bytes()
    return Idle(kind=kind, kb_per_connection=(after - before) / plan.connections / 1000)


async def measure(plan: Plan, kinds: Sequence[str]) -> Results:
    results = Results(plan=asdict(plan))
    needs = frozenset[str]().union(*(KINDS[kind].needs for kind in kinds))
    async with child(module("provider", "--rate", str(plan.rate))) as provider, AsyncExitStack() as stack:
        redis_url = mongo_url = ""
        if "redis" in needs:
            redis_url = (await stack.enter_async_context(running_redis())).url
        if "mongo" in needs:
            mongo_url = f"{(await stack.enter_async_context(running_mongo())).url}?retryWrites=false"
        places = Places(f"http://127.0.0.1:{provider.hello['port']}/v1", redis_url, mongo_url)
        order = runs(kinds, plan.streams, all_with=plan.is_same_for_peers)
        for number in range(plan.rounds):
            # A B C, C B A, A B C …: none always has the machine that another has warmed up.
            for kind, streams in order[:: -1 if number % 2 else 1]:
                found = await _streaming(kind, streams, places, plan)
                results.streaming.append(found)
                print(f"  {found}", flush=True)
        quiet = [kind for kind in kinds if KINDS[kind].is_idle_measured]
        for _ in range(plan.idle_rounds if quiet == kinds or len(quiet) > 1 else 0):
            for kind in quiet:
                held = await _idle(kind, places, plan)
                results.idle.append(held)
                print(f"  {held}", flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="half a minute instead of two: one short round")
    parser.add_argument("--streams", type=int, help="answers at once; also for peers that do not keep up with them")
    parser.add_argument("--rounds", type=int, help="runs of each server")
    parser.add_argument("--kinds", default=",".join(DEFAULT), help="the servers; `bare` is always among them")
    parser.add_argument("--peers", action="store_true", help=f"these too: {', '.join(PEERS)}")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the figures go")
    arguments = parser.parse_args()
    plan = Plan.quick() if arguments.quick else Plan()
    if arguments.rounds:
        plan = replace(plan, rounds=arguments.rounds)
    if arguments.streams:
        plan = replace(plan, streams=arguments.streams, is_same_for_peers=True)
    kinds = list(dict.fromkeys(["bare", *arguments.kinds.split(","), *(PEERS if arguments.peers else ())]))
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    if missing := not_installed(kinds):
        parser.error(f"not installed; {', '.join(missing)}")
    began = time.monotonic()
    print(f"{plan.rate:g} deltas a second and stream, {plan.connections} idle connections")
    results = asyncio.run(measure(plan, kinds))
    results.seconds = round(time.monotonic() - began, 1)
    show(results)
    write(results, arguments.json)


if __name__ == "__main__":
    main()
