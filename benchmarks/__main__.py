"""`python -m benchmarks`: what the server costs and how long one waits, beside a bare pipe in the same run.

CPU is what the operating system accounts to the server's process (user and system), not a wall clock. The servers take
turns, because a shared machine's speed drifts, and what counts is the ratio round by round. Everything is on
loopback, bounded in time, and stops by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console

from benchmarks.aims import found, table
from benchmarks.kinds import DEFAULT, KINDS, PEERS, not_installed, runs
from benchmarks.plan import Plan
from benchmarks.plot import plot
from benchmarks.report import Idle, Results, Streaming, show, write
from benchmarks.rows import ROWS
from benchmarks.stand import Stand, standing

RESULTS = Path(__file__).with_name("results.json")
PARTS = ("streaming", "idle", *ROWS)


async def _streaming(stand: Stand, kind: str, streams: int) -> Streaming:
    plan = stand.plan
    async with stand.running(kind, "load") as (server, clients):
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


async def _idle(stand: Stand, kind: str) -> Idle:
    plan = stand.plan
    first = max(plan.connections // 10, 1)
    async with stand.running(kind, "load") as (server, clients):
        await clients.ask("prepare", count=first + plan.connections, wait_s=120)
        # The first connections fill pools and caches that are there once, however many come.
        await clients.ask("idle", count=first)
        before = server.rss_bytes()
        await clients.ask("idle", count=plan.connections, wait_s=120)
        await asyncio.sleep(0.5)
        after = server.rss_bytes()
    return Idle(kind=kind, kb_per_connection=(after - before) / plan.connections / 1000)


async def measure(plan: Plan, kinds: Sequence[str], only: Sequence[str]) -> Results:
    results = Results(plan=asdict(plan))
    async with standing(plan, kinds) as stand:
        if "streaming" in only:
            order = runs(kinds, plan.streams, all_with=plan.is_same_for_peers)
            for number in range(plan.rounds):
                # A B C, C B A, A B C …: none always has the machine that another has warmed up.
                for kind, streams in order[:: -1 if number % 2 else 1]:
                    if number >= plan.peer_rounds and streams != plan.streams:
                        continue
                    found = await _streaming(stand, kind, streams)
                    results.streaming.append(found)
                    print(f"  {found}", flush=True)
        quiet = [kind for kind in kinds if KINDS[kind].is_idle_measured]
        if "idle" in only and (quiet == kinds or len(quiet) > 1):
            for _ in range(plan.idle_rounds):
                for kind in quiet:
                    held = await _idle(stand, kind)
                    results.idle.append(held)
                    print(f"  {held}", flush=True)
        if stand.kinds:
            for row, measure_row in ROWS.items():
                if row in only:
                    try:
                        await measure_row(stand)
                    except (RuntimeError, TimeoutError) as error:  # the other rows are worth having
                        results.failed.append(row)
                        print(f"{row} could not be measured: {error or type(error).__name__}", flush=True)
        results.figures += stand.figures
    return results


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three minutes: one short round of each")
    parser.add_argument("--streams", type=int, help="answers at once; also for peers that do not keep up with them")
    parser.add_argument("--rounds", type=int, help="runs of each server")
    parser.add_argument("--kinds", default=",".join(DEFAULT), help="the servers; `bare` is always among them")
    parser.add_argument("--peers", action="store_true", help=f"these too: {', '.join(PEERS)}")
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts: {', '.join(PARTS)}")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the figures go; the plot goes beside")
    arguments = parser.parse_args()
    plan = Plan.quick() if arguments.quick else Plan()
    if arguments.rounds:
        plan = replace(plan, rounds=arguments.rounds, peer_rounds=arguments.rounds)
    if arguments.streams:
        plan = replace(plan, streams=arguments.streams, is_same_for_peers=True)
    kinds = list(dict.fromkeys(["bare", *arguments.kinds.split(","), *(PEERS if arguments.peers else ())]))
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    only = arguments.only.split(",")
    if unknown := set(only) - set(PARTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if missing := not_installed(kinds):
        parser.error(f"not installed; {', '.join(missing)}")
    began = time.monotonic()
    print(f"{plan.rate:g} deltas a second and stream, {plan.connections} idle connections")
    results = asyncio.run(measure(plan, kinds, only))
    results.seconds = round(time.monotonic() - began, 1)
    show(results)
    Console(width=120).print(table(results))
    write(results, found(results), arguments.json)
    plot(results, arguments.json.with_suffix(".svg"))
    if results.failed:
        raise SystemExit(f"not measured: {', '.join(results.failed)}")


if __name__ == "__main__":
    main()
