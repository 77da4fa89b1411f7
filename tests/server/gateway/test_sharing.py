"""What one node learns the other uses: two routers and a board, on a clock that jumps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

from tests.server.gateway.fakes import Answers, Behaviour, Fails, FakeProvider, Hangs, deployment, route
from tests.server.gateway.walking import ask
from tests.support.virtual_time import run_virtual

from turnwire_server.gateway.breaker import BreakerState
from turnwire_server.gateway.errors import ProviderErrorKind as Kind
from turnwire_server.gateway.health.memory import MemoryBoard
from turnwire_server.gateway.health.sharing import READ_S
from turnwire_server.gateway.router import Router

Behave = Callable[[str, float], Behaviour]


class Nodes:
    """`count` nodes with the same deployments, which are at the same providers."""

    def __init__(self, count: int, behave: Behave, names: str = "ab", **fields: Any) -> None:
        self.board = MemoryBoard()
        limits = {"first_token_timeout_s": 5, "connect_timeout_s": 1}
        self.providers = {
            name: FakeProvider(deployment(name, **limits), lambda now, name=name: behave(name, now))  # type: ignore[misc]
            for name in names
        }
        self.routers = [
            Router(self.providers, [route(*names, **fields)], rng=Random(seed), board=self.board)
            for seed in range(count)
        ]


def played(main: Callable[[Nodes], Coroutine[Any, Any, None]], behave: Behave, count: int = 2, **fields: Any) -> Nodes:
    made: list[Nodes] = []

    async def run() -> None:
        nodes = Nodes(count, behave, **fields)
        made.append(nodes)
        async with asyncio.TaskGroup() as tasks:
            sharing = [tasks.create_task(router.run()) for router in nodes.routers]
            await main(nodes)
            for task in sharing:
                task.cancel()

    run_virtual(run())
    return made[0]


def dead_primary(name: str, now: float) -> Behaviour:
    return Hangs() if name == "a" else Answers()


def state(router: Router, name: str = "a") -> BreakerState:
    return router.gates[name].breaker.state


async def open_at(router: Router) -> None:
    while state(router) is BreakerState.CLOSED:
        await ask(router)


def test_what_one_node_learns_the_other_uses_within_a_second() -> None:
    async def main(nodes: Nodes) -> None:
        first, second = nodes.routers
        await open_at(first)
        before = len(nodes.providers["a"].asked)
        await asyncio.sleep(READ_S + 0.1)
        assert state(second) is BreakerState.OPEN
        assert second.gates["a"].breaker.reason == "provider_timeout"
        assert await ask(second) == "b"
        assert len(nodes.providers["a"].asked) == before

    played(main, dead_primary)


def test_that_it_answers_again_is_known_everywhere_too() -> None:
    async def main(nodes: Nodes) -> None:
        first, second = nodes.routers
        await open_at(first)
        await asyncio.sleep(30)
        assert await ask(first) == "a"
        await asyncio.sleep(1)
        assert state(second) is BreakerState.RECOVERING

    played(main, lambda name, now: Fails() if name == "a" and now < 20 else Answers())


def test_one_node_probes_at_a_time() -> None:
    async def main(nodes: Nodes) -> None:
        await open_at(nodes.routers[0])
        await asyncio.sleep(1)
        open_for = len(nodes.providers["a"].asked)
        nodes.providers["a"].most_open = 0
        for _ in range(40):
            await asyncio.gather(*(ask(router) for router in nodes.routers for _ in range(5)))
            await asyncio.sleep(1)
        assert len(nodes.providers["a"].asked) > open_for
        assert nodes.providers["a"].most_open == 1

    played(main, dead_primary, count=4)


def test_without_the_board_each_node_goes_by_what_it_sees() -> None:
    async def main(nodes: Nodes) -> None:
        first, second = nodes.routers
        nodes.board.is_away = True
        await open_at(first)
        await asyncio.sleep(2)
        assert state(second) is BreakerState.CLOSED
        await asyncio.sleep(20)
        assert await ask(first) == "b", "its probe is its own"
        nodes.board.is_away = False
        await asyncio.sleep(2)
        assert state(second) is BreakerState.OPEN, "what was learned meanwhile is told"

    played(main, dead_primary)


def test_a_probe_whose_caller_leaves_is_free_for_other_nodes() -> None:
    async def main(nodes: Nodes) -> None:
        first, second = nodes.routers
        await open_at(first)
        await asyncio.sleep(15)
        probing = asyncio.create_task(ask(first))
        await asyncio.sleep(0.5)
        assert state(first) is BreakerState.PROBING
        probing.cancel()
        await asyncio.sleep(1)
        before = len(nodes.providers["a"].asked)
        await ask(second)
        assert len(nodes.providers["a"].asked) == before + 1

    played(main, dead_primary)


def test_an_outage_seen_by_many_nodes_gathers_no_herd() -> None:
    async def main(nodes: Nodes) -> None:
        asking = (ask(router) for router in nodes.routers for _ in range(100))
        assert set(await asyncio.gather(*asking)) == {"a"}

    def behave(name: str, now: float) -> Behaviour:
        if now < 20:
            return Fails(Kind.RATE_LIMITED, after_s=0.05)
        return Answers(after_s=0.5, for_s=0)

    nodes = played(main, behave, count=4, names="a", budget_s=100, max_attempts=10)
    asked = nodes.providers["a"].asked
    assert len([each for each in asked if 2 < each.at < 20]) < 20
    first = min(each.at for each in asked if each.at >= 20)
    assert len([each for each in asked if first <= each.at < first + 0.5]) == 1
    assert len([each for each in asked if first <= each.at < first + 1.5]) <= 1 + 4 * 6
