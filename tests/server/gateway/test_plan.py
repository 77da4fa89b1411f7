"""Who is asked next, and when nobody is. Time is passed in."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest
from tests.server.gateway.fakes import deployment, route

from turnwire_server.gateway.breaker import Breaker, BreakerRules
from turnwire_server.gateway.errors import Blame, ProviderError
from turnwire_server.gateway.errors import ProviderErrorKind as Kind
from turnwire_server.gateway.gate import Gate
from turnwire_server.gateway.plan import Ask, Plan, Stop, Wait, ordered


class World:
    """A plan over deployments `a`, `b`, `c`, with their gates."""

    def __init__(self, names: str = "abc", *, sizes: dict[str, int] | None = None, **fields: Any) -> None:
        rules = BreakerRules(failures=3, open_s=10)
        self.gates = {name: Gate(name, 2, Breaker(rules, Random(1))) for name in names}
        deployments = [deployment(name, context_tokens=(sizes or {}).get(name)) for name in names]
        fields = {"max_attempts": 10, "budget_s": 60, **fields}
        self.plan = Plan(route(*names, **fields), deployments, self.gates, 0.0, Random(1))

    def open(self, name: str, now: float = 0.0, after: float | None = None) -> None:
        gate = self.gates[name]
        gate.leave(gate.enter("t", now), now, error(Kind.RATE_LIMITED, after=after))

    def fill(self, name: str) -> None:
        while not self.gates[name].is_full:
            self.gates[name].enter("t", 0)

    def asked(self, now: float = 0.0) -> str:
        choice = self.plan.choose(now)
        assert isinstance(choice, Ask), choice
        return choice.name

    def fails(self, name: str, why: ProviderError | None = None, now: float = 0.0) -> None:
        self.plan.begun(name)
        self.plan.failed(name, why or error(), now)


def error(
    kind: Kind = Kind.ERROR, blame: Blame = Blame.DEPLOYMENT, after: float | None = None, *, retryable: bool = True
) -> ProviderError:
    return ProviderError(kind, "it failed", retryable=retryable, blame=blame, retry_after_s=after)


def test_deployments_are_asked_in_order_and_then_the_first_again() -> None:
    world = World()
    for name in "abc":
        assert world.asked() == name
        world.fails(name)
    choice = world.plan.choose(0)
    assert isinstance(choice, Wait)
    assert 0.25 <= choice.until <= 0.5
    assert world.asked(0.5) == "a"


def test_the_same_one_is_asked_again_after_a_back_off_that_grows() -> None:
    world, now, waits = World("a"), 0.0, []
    for _ in range(4):
        world.fails("a", now=now)
        choice = world.plan.choose(now)
        assert isinstance(choice, Wait)
        assert choice.name == "a"
        waits.append(choice.until - now)
        now = choice.until
    assert all(half <= wait <= 2 * half for half, wait in zip((0.25, 0.5, 1, 2), waits, strict=True))


def test_one_that_asks_to_wait_is_not_asked_before() -> None:
    world = World("a")
    world.fails("a", error(Kind.RATE_LIMITED, after=7))
    choice = world.plan.choose(0)
    assert isinstance(choice, Wait)
    assert choice.until >= 7


def test_a_wait_that_is_longer_than_the_budget_is_not_waited() -> None:
    world = World("a", budget_s=5)
    world.fails("a", why := error(Kind.RATE_LIMITED, after=7))
    assert world.plan.choose(0) == Stop(why)
    assert world.plan.following(0) is None


def test_when_the_attempts_or_the_budget_are_used_up_it_ends_with_the_last_error() -> None:
    world = World(max_attempts=2)
    world.fails("a")
    world.fails("b", why := error(Kind.CUT))
    assert world.plan.choose(0) == Stop(why)
    world = World(budget_s=5)
    world.fails("a", why)
    assert isinstance(world.plan.choose(4.9), Ask)
    assert world.plan.choose(5) == Stop(why)


@pytest.mark.parametrize("blame", [Blame.REQUEST, Blame.CONTENT])
def test_a_request_that_is_wrong_or_refused_goes_nowhere_else(blame: Blame) -> None:
    world = World()
    world.fails("a", why := error(blame=blame, retryable=False))
    assert world.plan.choose(0) == Stop(why)


def test_a_prompt_that_is_too_long_goes_to_a_larger_model_only() -> None:
    world = World("abcd", sizes={"a": 8_000, "b": 8_000, "d": 128_000})
    world.fails("a", error(blame=Blame.CONTEXT, retryable=False))
    assert world.asked() == "d"
    world.fails("d", why := error(blame=Blame.CONTEXT, retryable=False))
    assert world.plan.choose(0) == Stop(why)


@pytest.mark.parametrize("why", [error(Kind.AUTH, retryable=False), error(Kind.RATE_LIMITED, retryable=False)])
def test_one_that_refuses_its_credentials_is_not_asked_again_and_others_are(why: ProviderError) -> None:
    world = World("ab")
    world.fails("a", why)
    assert world.asked() == "b"
    world.fails("b")
    choice = world.plan.choose(0)
    assert isinstance(choice, Wait)
    assert choice.at == ()
    assert choice.name == "b"


def test_one_that_is_left_alone_or_full_is_passed_over_and_it_is_said_why() -> None:
    world = World()
    world.open("a")
    world.fill("b")
    assert world.plan.choose(0) == Ask("c", (("a", "open"), ("b", "full")))


def test_where_all_are_full_it_waits_at_all_of_them() -> None:
    world = World("ab")
    world.fill("a")
    world.fill("b")
    choice = world.plan.choose(0)
    assert isinstance(choice, Wait)
    assert choice.at == ("a", "b")
    assert choice.until == 60


def test_who_has_a_full_one_to_wait_for_does_not_probe_early() -> None:
    world = World("ab")
    world.open("a")
    world.fill("b")
    choice = world.plan.choose(1)
    assert isinstance(choice, Wait)
    assert choice.at == ("b",)
    assert 5 <= choice.until <= 10


def test_who_has_nobody_else_probes_early() -> None:
    world = World("ab")
    world.open("a")
    world.open("b")
    choice = world.plan.choose(0)
    assert isinstance(choice, Wait)
    assert choice.at == ("a", "b")
    assert world.asked(0.5) == "a"


def test_where_all_stay_away_for_longer_than_the_budget_it_fails_at_once() -> None:
    world = World("ab", budget_s=5)
    world.open("a", after=20)
    world.open("b", after=30)
    choice = world.plan.choose(0)
    assert isinstance(choice, Stop)
    assert (choice.error.kind, choice.error.retryable) == (Kind.RATE_LIMITED, True)


def test_a_second_one_is_another_one_with_room() -> None:
    world = World()
    world.fill("b")
    assert world.plan.other_than("a", 0) == "c"
    world.open("c")
    assert world.plan.other_than("a", 0) is None


def test_weights_draw_who_is_first() -> None:
    weighted = route("a", "b", "c", "d", weights={"a": 3, "b": 1, "d": 0})
    rng = Random(7)
    orders = ["".join(ordered(weighted, rng)) for _ in range(4000)]
    assert set(orders) == {"abcd", "bacd"}
    assert 0.72 < Counter(orders)["abcd"] / 4000 < 0.78
    assert "".join(ordered(route("b", "a"), rng)) == "ba"
