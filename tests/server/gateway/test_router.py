"""Routes and who may use them, and the walk along one, on a clock that jumps."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from random import Random
from typing import Any

import pytest
from tests.server.gateway.fakes import Answers, Behaviour, Fails, FakeProvider, Hangs, deployment, route
from tests.server.gateway.walking import ask
from tests.support.virtual_time import run_virtual

from turnwire_server.gateway.breaker import FIRST_ALLOWANCE
from turnwire_server.gateway.errors import Blame
from turnwire_server.gateway.errors import ProviderErrorKind as Kind
from turnwire_server.gateway.router import NOBODY, Caller, Router, UnknownRoute
from turnwire_server.settings import Deployment, Route

DEPLOYMENTS = [Deployment(name=name, kind="demo", model="turnwire-demo") for name in ("a", "b", "c")]


def router(*routes: Route) -> Router:
    return Router.open(DEPLOYMENTS, routes, {})


def test_without_a_name_the_first_route_is_taken() -> None:
    both = router(Route(name="x", deployments=("c",)), Route(name="y", deployments=("a",)))
    assert both.default_route == "x"
    assert both.first(None, NOBODY).name == "c"
    assert both.has_route("y")


def test_an_unknown_route_is_refused_by_name() -> None:
    with pytest.raises(UnknownRoute, match="unknown route 'z'"):
        router(Route(name="x", deployments=("a",))).first("z", NOBODY)


def test_a_route_over_an_unknown_deployment_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown deployment 'nobody'"):
        router(Route(name="x", deployments=("nobody",)))


async def test_closing_closes_every_provider_once_and_again() -> None:
    mixed = Router.open(
        [*DEPLOYMENTS, Deployment(name="o", model="m", base_url="http://127.0.0.1:9/v1")],
        [Route(name="x", deployments=("o",))],
        {},
    )
    await mixed.aclose()
    await mixed.aclose()


@pytest.mark.parametrize(
    ("caller", "may"),
    [
        (Caller("t"), {"open"}),
        (Caller("t", features=frozenset({"beta"})), {"open", "beta"}),
        (Caller("t", regions=frozenset({"eu"})), {"open"}),
        (Caller("t", regions=frozenset({"us"})), set()),
        (Caller("t", features=frozenset({"beta"}), routes=frozenset({"open"})), {"open"}),
        (Caller("t", routes=frozenset()), set()),
    ],
)
def test_a_caller_has_the_routes_that_are_open_to_it_and_that_somebody_answers(caller: Caller, may: set[str]) -> None:
    one = Router(
        {
            each.name: FakeProvider(each, lambda now: Answers())
            for each in [
                deployment("eu", region="eu"),
                deployment("no"),
                deployment("new", region="us", features=["beta"]),
            ]
        },
        [
            Route(name="open", deployments=("no", "eu")),
            Route(name="beta", deployments=("no", "new"), features=("beta",)),
        ],
    )
    assert {name for name in ("open", "beta", "else") if one.has_route(name, caller)} == may


def test_a_walk_leads_along_the_deployments_that_its_caller_may_ask() -> None:
    async def main() -> None:
        everywhere = [
            deployment("us", region="us"),
            deployment("eu", region="eu"),
            deployment("beta", region="eu", features=["x"]),
        ]
        world = World(everywhere, lambda name, now: Fails())
        assert await world.ask(Caller("t", regions=frozenset({"eu"}))) == "provider_error"
        assert world.counts() == {"us": 0, "eu": 3, "beta": 0}
        with pytest.raises(UnknownRoute):
            world.router.walk("r", Caller("t", regions=frozenset({"asia"})))

    run_virtual(main())


# The walk.


class World:
    """A router over fake providers; `behave(name, now)` says what they do."""

    def __init__(
        self, deployments: list[Deployment], behave: Callable[[str, float], Behaviour], seed: int = 1, **fields: Any
    ) -> None:
        self.providers = {
            each.name: FakeProvider(each, lambda now, name=each.name: behave(name, now))  # type: ignore[misc]
            for each in deployments
        }
        self.router = Router(self.providers, [route(*self.providers, **fields)], rng=Random(seed))
        self.accounts: list[str] = []

    def counts(self) -> dict[str, int]:
        return {name: len(provider.asked) for name, provider in self.providers.items()}

    async def ask(self, caller: Caller = NOBODY) -> str:
        return await ask(self.router, caller, self.accounts)


def played(
    main: Callable[[World], Coroutine[Any, Any, None]],
    behave: Callable[[str, float], Behaviour],
    names: str = "ab",
    **fields: Any,
) -> World:
    limits = {"first_token_timeout_s": 5, "connect_timeout_s": 1}
    worlds: list[World] = []

    async def run() -> None:
        worlds.append(World([deployment(name, **limits) for name in names], behave, **fields))
        await main(worlds[0])

    run_virtual(run())
    world = worlds[0]
    assert {**dict.fromkeys(world.providers, 0), **Counter(world.accounts)} == world.counts()
    assert all(gate.in_flight == 0 for gate in world.router.gates.values()), world.router
    assert all(asked.outcome != "open" for provider in world.providers.values() for asked in provider.asked)
    return world


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_dead_primary_costs_its_limit_until_it_is_left_alone_and_nothing_then() -> None:
    took: list[float] = []

    async def main(world: World) -> None:
        for _ in range(6):
            began = now()
            assert await world.ask() == "b"
            took.append(now() - began - 1.2)

    played(main, lambda name, now: Hangs() if name == "a" else Answers())
    assert took[:3] == pytest.approx([5, 5, 5])
    assert took[3:] == pytest.approx([0, 0, 0], abs=1e-6)


def test_a_deployment_that_recovers_is_found_by_one_probe() -> None:
    async def main(world: World) -> None:
        for _ in range(60):
            await world.ask()

    world = played(main, lambda name, now: Fails() if name == "a" and now < 30 else Answers())
    failed = [asked for asked in world.providers["a"].asked if asked.outcome == "failed"]
    assert 4 <= len(failed) <= 6, "three that opened it, then a probe now and then"
    assert world.providers["a"].asked[-1].outcome == "answered"


def test_retry_after_is_honoured_by_everybody() -> None:
    async def main(world: World) -> None:
        assert await world.ask() == "a"
        assert now() > 7
        await asyncio.gather(*(world.ask() for _ in range(10)))

    def behave(name: str, now: float) -> Behaviour:
        return Fails(Kind.RATE_LIMITED, retry_after_s=7 - now) if now < 7 else Answers()

    world = played(main, behave, names="a")
    assert [round(asked.at) for asked in world.providers["a"].asked][:2] == [0, 7]


def test_what_is_too_long_or_refused_does_not_hop_around() -> None:
    async def main(world: World) -> None:
        assert await world.ask() == "content_refused"

    world = played(main, lambda name, now: Fails(blame=Blame.CONTENT, retryable=False))
    assert world.counts() == {"a": 1, "b": 0}


def test_places_are_shared_fairly_among_tenants() -> None:
    done: list[str] = []

    async def main(_: World) -> None:
        world = World([deployment("a", max_concurrency=2)], lambda name, now: Answers(), budget_s=600)

        async def one(tenant: str) -> None:
            assert await world.ask(Caller(tenant)) == "a"
            done.append(tenant)

        async with asyncio.TaskGroup() as tasks:
            for tenant in ["big"] * 200 + ["small"] * 3:
                tasks.create_task(one(tenant))
        assert world.providers["a"].most_open == 2

    played(main, lambda name, now: Answers())
    assert done[:9].count("small") == 3


def test_who_leaves_while_waiting_leaves_nothing_behind() -> None:
    async def main(world: World) -> None:
        async with asyncio.TaskGroup() as tasks:
            asking = [tasks.create_task(world.ask()) for _ in range(300)]
            await asyncio.sleep(0.1)
            for task in asking[150:]:
                task.cancel()
        assert sum(task.cancelled() for task in asking) == 150

    played(main, lambda name, now: Answers(), names="a")


def test_a_cancel_that_meets_the_free_place_gives_it_back() -> None:
    async def main(_: World) -> None:
        world = World([deployment("a", max_concurrency=1)], lambda name, now: Answers())
        first, second, third = (asyncio.create_task(world.ask()) for _ in range(3))
        first.add_done_callback(lambda _: second.cancel())
        assert await first == "a"
        assert await third == "a"
        assert second.cancelled()
        assert world.router.gates["a"].in_flight == 0

    played(main, lambda name, now: Answers())


def unanswered_at(world: World, at: float) -> int:
    return sum(asked.at <= at and (asked.ended_at > at) for asked in world.providers["a"].asked)


def test_an_outage_gathers_no_herd() -> None:
    """500 requests wait for their only deployment. While it is away it gets a call now and then; when it is back, not
    more calls wait for an answer at once than have been answered."""

    async def main(world: World) -> None:
        answers = await asyncio.gather(*(world.ask(Caller(f"t{number % 7}")) for number in range(500)))
        assert answers.count("a") == 500

    def behave(name: str, now: float) -> Behaviour:
        return Fails(after_s=0.05) if now < 20 else Answers(after_s=0.5, for_s=0)

    world = played(main, behave, names="a", budget_s=100, max_attempts=10)
    asked = world.providers["a"].asked
    during = [each for each in asked if 0 < each.at < 20]
    assert len(during) < 20, "a probe every few seconds"
    after = sorted(each.at for each in asked if each.at >= 20)
    for at in after:
        answered = sum(each.outcome == "answered" and 20 <= each.ended_at <= at for each in asked)
        assert unanswered_at(world, at) <= max(FIRST_ALLOWANCE, 2 * answered)


# Thousands of schedules.


class Schedule:
    """What each deployment does, by seed: phases of some seconds. What it says of itself is true: who asks to wait is
    not away for longer."""

    KINDS = ("good", "good", "good", "slow", "errors", "hangs", "limits", "cuts", "refuses", "flaky")

    def __init__(self, seed: int, names: str, until: float) -> None:
        self.rng = Random(seed)
        self.phases: dict[str, list[tuple[float, float, str]]] = {}
        for name in names:
            at, phases = 0.0, []
            while at < until:
                end = at + self.rng.choice((1, 3, 10, 30))
                phases.append((at, end, self.rng.choice(self.KINDS)))
                at = end
            self.phases[name] = phases

    def phase(self, name: str, now: float) -> tuple[float, float, str]:
        return next((phase for phase in self.phases[name] if phase[1] > now), (0.0, 1e9, "good"))

    def behave(self, name: str, now: float) -> Behaviour:
        _, end, kind = self.phase(name, now)
        match kind:
            case "good":
                return Answers()
            case "slow":
                return Answers(after_s=4)
            case "hangs":
                return Hangs()
            case "limits":
                return Fails(Kind.RATE_LIMITED, retry_after_s=end - now if self.rng.random() < 0.5 else None)
            case "cuts":
                return Fails(Kind.CUT, after_s=0.5, midway=True)
            case "refuses":
                return Fails(Kind.AUTH, retryable=False)
            case "flaky":
                return Fails() if self.rng.random() < 0.5 else Answers()
            case _:
                return Fails()

    def refuses_within(self, name: str, begin: float, end: float) -> bool:
        return any(kind == "refuses" and first < end and last > begin for first, last, kind in self.phases[name])

    def good_until(self, name: str, end: float) -> float:
        """Since when the deployment has answered everything, up to `end`; `end` when it does not."""
        since = end
        for begin, finish, kind in reversed(self.phases[name]):
            if begin >= end:
                continue
            if kind not in ("good", "slow") or finish < since:
                break
            since = begin
        return since


BUDGET_S = 60.0
FOUND_S = 20.0
"""Within so long a deployment that answers again is found: a probe every five seconds for who has nobody else, and
calls of others that hang for five seconds each before."""


def schedules() -> Iterator[tuple[int, str]]:
    for seed in range(2000):
        yield seed, "abcd"[: 1 + seed % 4]


def play(seed: int, names: str) -> None:
    schedule = Schedule(seed, names, 150.0)
    rng = Random(-seed)

    async def main(world: World) -> None:
        async def one(at: float, tenant: str) -> None:
            await asyncio.sleep(at)
            said = await world.ask(Caller(tenant))
            took = now() - at
            assert took <= BUDGET_S + 10, (seed, at, took)
            if said in names:
                return
            for name in names:
                if schedule.refuses_within(name, at, now()):
                    continue  # whoever refused the credentials is not asked again by the same step
                since = max(at, schedule.good_until(name, now()))
                assert now() - since < FOUND_S, (seed, at, now(), said, name, since, schedule.phases)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(12):
                tasks.create_task(one(rng.uniform(0, 80), rng.choice("xyz")))

    played(main, schedule.behave, names, seed=seed, max_attempts=10, budget_s=BUDGET_S)


@pytest.mark.parametrize("part", range(10))
def test_an_answer_comes_whenever_a_deployment_could_give_one(part: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    for seed, names in schedules():
        if seed % 10 == part:
            play(seed, names)
