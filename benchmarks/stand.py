"""What is up while a row is measured: the provider and the stores, and servers and clients when a row wants them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace

from tests.support.mongo import running_mongo
from tests.support.redis import running_redis, running_redis_cluster

from benchmarks.figures import Figure
from benchmarks.kinds import KINDS, Places
from benchmarks.plan import Plan
from benchmarks.processes import Answer, Child, child, module

KEPT_UP = 0.97
"""Below this share of the wanted rate a run says more about the machine than about the server."""
_SETTLE_S = 30.0
_LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class Window:
    """What came to a crowd in some seconds, and what it cost the server."""

    us_per_delta: float
    deltas_per_s: float
    bytes_per_delta: float
    delay_p50_ms: float
    delay_p99_ms: float
    waited: float
    """Part of the time that the server waited for a CPU."""


@dataclass(slots=True)
class Stand:
    plan: Plan
    kinds: Sequence[str]
    """Turnwire's own that are measured."""
    places: Places
    provider: Child
    figures: list[Figure] = field(default_factory=list)

    def note(self, row: str, kind: str, figures: dict[str, float], at: int = 0) -> None:
        """Keep what was found, and show it."""
        found = [Figure(row, kind, name, value, at) for name, value in figures.items()]
        self.figures += found
        for figure in found:
            print(f"  {figure}", flush=True)

    @asynccontextmanager
    async def running(self, kind: str, program: str, *arguments: str) -> AsyncIterator[tuple[Child, Child]]:
        """A fresh server of this kind with `arguments` besides, and `program`, which talks to it.

        That goes first at the end, so that nothing is drained.
        """
        command = KINDS[kind].command(self.places)
        async with (
            child(replace(command, argv=[*command.argv, *arguments])) as server,
            talking(server, program, KINDS[kind].client) as clients,
        ):
            yield server, clients


@asynccontextmanager
async def talking(server: Child, program: str, client: str) -> AsyncIterator[Child]:
    """`program`, which talks to this server as `client`."""
    async with child(module(program, "--url", server.hello["url"], "--client", client)) as clients:
        yield clients


@asynccontextmanager
async def standing(plan: Plan, kinds: Sequence[str]) -> AsyncIterator[Stand]:
    """The provider, and the stores that any of these kinds needs."""
    needs = frozenset[str]().union(*(KINDS[kind].needs for kind in kinds))
    async with child(module("provider", "--rate", str(plan.rate))) as provider, AsyncExitStack() as stack:
        redis_url = cluster_url = mongo_url = collector_url = ""
        if "redis" in needs:
            redis_url = (await stack.enter_async_context(running_redis())).url
        if "mongo" in needs:
            mongo_url = f"{(await stack.enter_async_context(running_mongo())).url}?retryWrites=false"
        if "cluster" in needs:
            cluster_url = (await stack.enter_async_context(running_redis_cluster())).url
        if "collector" in needs:
            collector_url = (await stack.enter_async_context(child(module("collector")))).hello["url"]
        provider_url = f"http://127.0.0.1:{provider.hello['port']}/v1"
        places = Places(provider_url, redis_url, cluster_url, mongo_url, collector_url)
        ours = [kind for kind in kinds if KINDS[kind].client == "turnwire"]
        yield Stand(plan, ours, places, provider)


async def settled(crowd: Child, deltas_per_s: float, limit_s: float = _SETTLE_S) -> None:
    """Wait until the crowd gets as much a second. Raises TimeoutError when it does not, RuntimeError as `window`."""
    deadline = time.monotonic() + limit_s
    before = await _mark(crowd)
    while time.monotonic() < deadline:
        await asyncio.sleep(_LOOK_S)
        now = await _mark(crowd)
        if now["tokens"] >= KEPT_UP * deltas_per_s * (now["at"] - before["at"]):
            return
        before = now
    raise TimeoutError(f"{deltas_per_s:.0f} deltas a second did not come")


async def window(server: Child, crowd: Child, seconds: float) -> Window:
    """Look at both for so long. Raises RuntimeError when the server has ended answers, which have no end."""
    # The accounts are read right after each mark: what lies between belongs to neither or to both windows.
    began = await _mark(crowd)
    cpu, waited = sum(server.cpu_s()), server.waited_s()
    await asyncio.sleep(seconds)
    ended = await _mark(crowd)
    cpu, waited = sum(server.cpu_s()) - cpu, server.waited_s() - waited
    took, tokens = ended["at"] - began["at"], max(ended["tokens"], 1)
    return Window(
        us_per_delta=cpu / tokens * 1e6,
        deltas_per_s=tokens / took,
        bytes_per_delta=ended["bytes"] / tokens,
        delay_p50_ms=ended["delay_ms"]["p50"],
        delay_p99_ms=ended["delay_ms"]["p99"],
        waited=waited / took,
    )


async def _mark(crowd: Child) -> Answer:
    mark = await crowd.ask("mark")
    if mark["ended"]:
        raise RuntimeError(f"the server ended {mark['ended']} answers: {mark['last_words']}")
    return mark
