"""When a deployment is left alone, and how it comes back. Time is passed in."""

from __future__ import annotations

from random import Random

import pytest

from turnwire_server.gateway.backoff import backoff, not_before
from turnwire_server.gateway.breaker import (
    FIRST_ALLOWANCE,
    Breaker,
    BreakerRules,
    BreakerState,
    News,
)
from turnwire_server.gateway.errors import Blame, ProviderError
from turnwire_server.gateway.errors import ProviderErrorKind as Kind

RULES = BreakerRules(failures=3, window_s=30, open_s=10, open_most_s=60, probe_s=5, places=32)


def breaker() -> Breaker:
    return Breaker(RULES, Random(1))


def error(
    kind: Kind = Kind.ERROR, blame: Blame = Blame.DEPLOYMENT, after: float | None = None, *, retryable: bool = True
) -> ProviderError:
    return ProviderError(kind, "it failed", retryable=retryable, blame=blame, retry_after_s=after)


def fail(one: Breaker, now: float, why: ProviderError | None = None, times: int = 1) -> None:
    for _ in range(times):
        one.failed(one.begin(now), why or error(), now, had_answered=False)


def answer(one: Breaker, now: float, times: int = 1) -> None:
    for _ in range(times):
        one.answered(one.begin(now), now)


def opened(now: float = 0.0) -> Breaker:
    one = breaker()
    fail(one, now, times=3)
    return one


def test_it_opens_after_so_many_failures_and_says_so_once() -> None:
    one = breaker()
    fail(one, 0, times=2)
    assert one.may_call(0)
    assert one.news() is None
    fail(one, 0)
    assert not one.may_call(0)
    news = one.news()
    assert news is not None
    assert (news.is_open, news.reason, news.opens) == (True, "provider_error", 1)
    assert 5 <= news.for_s <= 10
    assert one.news() is None


def test_failures_that_are_less_than_half_of_all_calls_do_not_open_it() -> None:
    one = breaker()
    for _ in range(20):
        answer(one, 1, times=2)
        fail(one, 1)
    assert one.state is BreakerState.CLOSED


def test_old_failures_are_forgotten() -> None:
    one = breaker()
    fail(one, 0, times=2)
    fail(one, 31)
    assert one.state is BreakerState.CLOSED


@pytest.mark.parametrize("why", [error(Kind.AUTH, retryable=False), error(Kind.RATE_LIMITED), error(after=3)])
def test_one_failure_that_speaks_for_all_calls_opens_it(why: ProviderError) -> None:
    one = breaker()
    fail(one, 0, why)
    assert one.state is BreakerState.OPEN


def test_a_key_that_was_refused_and_has_been_renewed_does_not() -> None:
    one = breaker()
    fail(one, 0, error(Kind.AUTH))
    assert one.state is BreakerState.CLOSED


@pytest.mark.parametrize("blame", [Blame.REQUEST, Blame.CONTEXT, Blame.CONTENT])
def test_what_is_the_requests_own_fault_is_an_answer(blame: Blame) -> None:
    one = breaker()
    fail(one, 0, error(blame=blame), times=10)
    assert one.state is BreakerState.CLOSED
    one = opened()
    fail(one, 20, error(blame=blame))
    assert one.state is BreakerState.RECOVERING


def test_a_break_in_the_middle_of_an_answer_counts_as_a_failure() -> None:
    one = breaker()
    for _ in range(3):
        ticket = one.begin(0)
        one.answered(ticket, 0)
        one.failed(ticket, error(Kind.CUT), 0, had_answered=True)
    assert one.state is BreakerState.OPEN


def test_after_its_time_one_call_probes_and_nobody_else() -> None:
    one = opened()
    at = one.may_probe_at(cornered=False)
    assert not one.may_call(at - 0.01)
    assert one.may_call(at)
    assert one.begin(at).is_probe
    assert not one.may_call(at, cornered=True)
    assert not one.may_call(at + RULES.probe_s - 0.1, cornered=True)
    assert one.may_call(at + RULES.probe_s), "a probe that nobody ended is made again"


def test_a_failed_probe_leaves_it_alone_for_longer_up_to_a_limit() -> None:
    one, now, waits = opened(), 0.0, []
    for _ in range(6):
        until = one.may_probe_at(cornered=False)
        waits.append(until - now)
        now = until
        fail(one, now)
    assert all(wait >= least for wait, least in zip(waits, (5, 10, 20, 30, 30, 30), strict=True))
    assert all(wait <= most for wait, most in zip(waits, (10, 20, 40, 60, 60, 60), strict=True))


def test_after_the_probe_calls_come_back_a_few_at_a_time() -> None:
    one = opened()
    answer(one, 20)
    news = one.news()
    assert news is not None
    assert one.news() is None
    assert one.state is BreakerState.RECOVERING
    waiting = []
    while one.may_call(20):
        waiting.append(one.begin(20))
    assert len(waiting) == FIRST_ALLOWANCE
    for ticket in waiting:
        one.answered(ticket, 20)
    waiting = []
    while one.may_call(20):
        waiting.append(one.begin(20))
    assert len(waiting) == 2 * FIRST_ALLOWANCE


def test_answered_often_enough_it_is_closed_and_begins_anew() -> None:
    one = opened()
    answer(one, 20, times=1 + RULES.places)
    assert one.state is BreakerState.CLOSED
    fail(one, 21, times=2)
    assert one.state is BreakerState.CLOSED


def test_with_few_calls_it_is_closed_after_a_while() -> None:
    one = opened()
    answer(one, 20)
    fail(one, 20 + RULES.window_s)
    assert one.state is BreakerState.CLOSED


def test_one_failure_while_it_recovers_opens_it_again() -> None:
    one = opened()
    answer(one, 20)
    fail(one, 21)
    assert (one.state, one.opens) == (BreakerState.OPEN, 2)


def test_who_has_nobody_else_probes_sooner_but_not_before_the_provider_said() -> None:
    one = opened()
    assert 0.25 <= one.may_probe_at(cornered=True) <= 0.5
    one = breaker()
    fail(one, 0, error(Kind.RATE_LIMITED, after=7))
    assert 7 <= one.may_probe_at(cornered=True) <= 7.7
    assert one.may_probe_at(cornered=False) == one.may_probe_at(cornered=True), "a first time is taken at its word"


def test_an_answer_to_a_call_from_before_closes_nothing() -> None:
    one = breaker()
    early, late = one.begin(0), one.begin(0)
    fail(one, 0, times=3)
    one.answered(early, 1)
    one.failed(late, error(), 1, had_answered=False)
    assert (one.state, one.opens) == (BreakerState.OPEN, 1)


def test_a_probe_whose_caller_leaves_is_anybodys() -> None:
    one = opened()
    ticket = one.begin(20)
    one.withdrawn(ticket, 21, had_answered=False)
    assert one.may_call(21)


def test_what_another_node_has_learned_counts_here() -> None:
    one = breaker()
    one.hear(News(is_open=True, for_s=8, hard_s=0, opens=2, reason="provider_timeout"), 100)
    assert (one.state, one.reason) == (BreakerState.OPEN, "provider_timeout")
    assert not one.may_call(107.9)
    one.hear(News(is_open=True, for_s=1), 100.5)
    assert not one.may_call(107.9), "the longer time counts"
    one.hear(News(is_open=False), 101)
    assert one.state is BreakerState.RECOVERING
    assert one.news() is None, "nobody repeats what others said"


def test_a_node_that_probes_believes_itself() -> None:
    one = opened()
    ticket = one.begin(20)
    one.hear(News(is_open=True, for_s=50), 20.1)
    one.answered(ticket, 20.2)
    assert one.state is BreakerState.RECOVERING


def test_a_probe_that_another_node_makes_is_waited_for() -> None:
    one = opened()
    ticket = one.begin(20)
    one.probed_elsewhere(ticket, 20, 2)
    assert not one.may_call(21.9, cornered=True)
    one.hear(News(is_open=False), 21)
    assert one.may_call(21)


@pytest.mark.parametrize("tries", range(1, 12))
def test_a_backoff_doubles_and_half_of_it_is_drawn(tries: int) -> None:
    whole = min(20, 0.5 * 2 ** (tries - 1))
    drawn = [backoff(tries, 0.5, 20, Random(seed)) for seed in range(200)]
    assert whole / 2 <= min(drawn) < 0.6 * whole
    assert 0.9 * whole < max(drawn) <= whole


def test_a_wait_that_was_asked_for_is_never_shorter() -> None:
    assert all(3 <= not_before(3, Random(seed)) <= 3.3 for seed in range(200))
