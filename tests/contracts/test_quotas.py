"""Both engines that count what tenants use keep the contract of their port, and count alike whatever is done."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from random import Random
from uuid import uuid4

import pytest
from tests.support.redis import shared_redis

from turnwire_server.eventlog.redis import RedisQuotas
from turnwire_server.quotas.base import (
    Admitted,
    Demand,
    QuotaStore,
    QuotasUnavailable,
    Refused,
    Rules,
    Uncounted,
    nano_usd,
)
from turnwire_server.quotas.memory import MemoryQuotas

NANO = 10**9
HOLD_MS, RECOUNT_MS = 900_000, 600_000


def at(*date: int) -> float:
    return datetime(*date, tzinfo=UTC).timestamp()  # type: ignore[misc,arg-type]


@dataclass
class Clock:
    now: float = field(default_factory=lambda: at(2026, 11, 28, 12))

    def __call__(self) -> float:
        return self.now


@dataclass
class Counted:
    """An engine, and a ledger that it is told of as the server does it."""

    store: QuotaStore
    clock: Clock
    tenant: str = field(default_factory=lambda: f"t-{uuid4().hex[:8]}")
    day: int = 0
    month: int = 0
    counts: int = 0

    async def reserve(self, request: str, rules: Rules, tokens: int = 0, nano: int = 0) -> Admitted | Refused:
        demand = Demand(tokens, nano)
        while True:
            answer = await self.store.reserve(
                self.tenant, request, demand, rules, hold_ms=HOLD_MS, recount_ms=RECOUNT_MS
            )
            if not isinstance(answer, Uncounted):
                return answer
            self.counts += 1
            assert await self.store.count(self.tenant, answer, self.day, self.month)

    async def admit(self, request: str, rules: Rules, tokens: int = 0, nano: int = 0) -> Admitted:
        answer = await self.reserve(request, rules, tokens, nano)
        assert isinstance(answer, Admitted), answer
        return answer

    async def refuse(self, request: str, rules: Rules, tokens: int = 0, nano: int = 0) -> Refused:
        answer = await self.reserve(request, rules, tokens, nano)
        assert isinstance(answer, Refused), answer
        return answer


@pytest.fixture(params=["memory", "redis"])
async def counted(request: pytest.FixtureRequest) -> AsyncIterator[Counted]:
    clock = Clock()
    if request.param == "memory":
        yield Counted(MemoryQuotas(clock), clock)
        return
    redis = RedisQuotas(shared_redis().url, prefix=f"q{uuid4().hex[:8]}", clock=clock)
    redis.open()
    yield Counted(redis, clock)
    await redis.aclose()


async def test_no_minute_has_more_requests_than_the_limit(counted: Counted) -> None:
    rules, clock = Rules(requests_per_minute=3), counted.clock
    for number in range(3):
        await counted.admit(f"r{number}", rules)
        clock.now += 1.1
    refused = await counted.refuse("r3", rules)
    assert refused.limit == "requests_per_minute"
    assert refused.standing.requests == 3
    assert 57_000 < refused.retry_after_ms <= 61_000
    clock.now += refused.retry_after_ms / 1000 - 0.001
    await counted.refuse("r3", rules)
    clock.now += 0.001
    await counted.admit("r3", rules)
    await counted.refuse("r4", rules)


async def test_what_waits_as_long_as_it_was_told_is_let_in(counted: Counted) -> None:
    rules = Rules(tokens_per_minute=1000)
    await counted.admit("a", rules, tokens=300)
    counted.clock.now += 20
    await counted.admit("b", rules, tokens=600)
    refused = await counted.refuse("c", rules, tokens=350)
    assert refused.limit == "tokens_per_minute"
    assert refused.retry_after_ms == 41_000, "when the first has left the window"
    refused = await counted.refuse("c", rules, tokens=500)
    assert refused.retry_after_ms == 61_000, "when the second has left it too"
    counted.clock.now += 61
    assert (await counted.admit("c", rules, tokens=500)).standing.tokens == 500


async def test_one_that_needs_more_than_the_limit_is_let_in_alone(counted: Counted) -> None:
    rules = Rules(tokens_per_minute=100)
    assert (await counted.admit("big", rules, tokens=5000)).standing.tokens == 100
    await counted.refuse("small", rules, tokens=1)


async def test_tokens_are_settled_as_they_were_used(counted: Counted) -> None:
    rules = Rules(tokens_per_minute=1000)
    await counted.admit("less", rules, tokens=800)
    await counted.store.settle(counted.tenant, "less", 100, 0)
    assert (await counted.admit("more", rules, tokens=100)).standing.tokens == 200
    standing = await counted.store.settle(counted.tenant, "more", 900, 0)
    assert standing is not None
    assert standing.tokens == 1000
    await counted.refuse("next", rules, tokens=1)


async def test_what_was_not_made_never_counted(counted: Counted) -> None:
    rules = Rules(requests_per_minute=1, tokens_per_minute=100, nano_per_day=5)
    await counted.admit("a", rules, tokens=100, nano=5)
    for _ in range(2):
        await counted.store.release(counted.tenant, "a")
    standing = (await counted.admit("b", rules, tokens=100, nano=5)).standing
    assert (standing.requests, standing.tokens, standing.held_nano) == (1, 100, 5)


async def test_the_same_request_counts_once(counted: Counted) -> None:
    rules = Rules(requests_per_minute=1, nano_per_day=10)
    await counted.admit("a", rules, tokens=5, nano=10)
    standing = (await counted.admit("a", rules, tokens=5, nano=10)).standing
    assert (standing.requests, standing.tokens, standing.held_nano) == (1, 5, 10)


async def test_what_is_held_counts_for_the_budget(counted: Counted) -> None:
    rules = Rules(nano_per_day=10 * NANO)
    await counted.admit("a", rules, nano=6 * NANO)
    refused = await counted.refuse("b", rules, nano=5 * NANO)
    assert refused.limit == "budget_usd_per_day"
    assert refused.retry_after_ms == 12 * 3_600_000
    standing = await counted.store.settle(counted.tenant, "a", 0, 2 * NANO)
    assert standing is not None
    assert (standing.day_nano, standing.month_nano, standing.held_nano) == (2 * NANO, 2 * NANO, 0)
    await counted.admit("b", rules, nano=5 * NANO)


async def test_who_has_spent_all_is_refused_whatever_it_asks(counted: Counted) -> None:
    counted.day = counted.month = 10
    assert (await counted.refuse("a", Rules(nano_per_day=10))).limit == "budget_usd_per_day"
    assert (await counted.refuse("a", Rules(nano_per_day=11, nano_per_month=10))).limit == "budget_usd_per_month"
    assert (await counted.refuse("a", Rules(nano_per_day=11, nano_per_month=20), nano=2)).limit == "budget_usd_per_day"


@pytest.mark.parametrize(
    ("now", "month_days"),
    [
        ((2026, 1, 1), 31),
        ((2026, 12, 31), 31),
        ((2026, 11, 28), 30),
        ((2027, 2, 28), 28),
        ((2028, 2, 29), 29),
        ((2028, 3, 1), 31),
        ((2100, 2, 28), 28),
        ((2030, 1, 1), 31),
    ],
)
async def test_days_and_months_are_those_of_the_calendar(
    counted: Counted, now: tuple[int, int, int], month_days: int
) -> None:
    counted.clock.now = at(*now) + 7.5
    answer = await counted.store.reserve(
        counted.tenant, "a", Demand(0, 0), Rules(nano_per_day=1), hold_ms=1, recount_ms=1
    )
    assert isinstance(answer, Uncounted)
    assert (answer.day_ms, answer.month_ms) == (at(*now) * 1000, at(now[0], now[1], 1) * 1000)
    standing = (await counted.admit("a", Rules(nano_per_day=1))).standing
    assert standing.day_left_ms == 86_400_000 - 7_500
    assert standing.month_left_ms == (month_days - now[2] + 1) * 86_400_000 - 7_500


async def test_a_new_day_is_a_new_budget_and_the_month_goes_on(counted: Counted) -> None:
    counted.clock.now = at(2026, 11, 29, 23, 59, 50)
    rules = Rules(nano_per_day=10, nano_per_month=15)
    await counted.admit("a", rules, nano=10)
    await counted.store.settle(counted.tenant, "a", 0, 10)
    await counted.admit("over midnight", Rules(nano_per_month=100), nano=1)
    counted.clock.now += 20
    standing = (await counted.admit("b", rules, nano=4)).standing
    assert (standing.day_nano, standing.month_nano, standing.held_nano) == (0, 10, 5)
    standing_after = await counted.store.settle(counted.tenant, "over midnight", 0, 3)
    assert standing_after is not None
    assert (standing_after.day_nano, standing_after.month_nano) == (3, 13)
    assert (await counted.refuse("c", rules, nano=2)).limit == "budget_usd_per_month"
    counted.clock.now = at(2026, 12, 1)
    counted.day = counted.month = 0
    assert (await counted.admit("c", rules, nano=2)).standing.month_nano == 0


async def test_money_is_counted_from_the_ledger_first_and_now_and_then(counted: Counted) -> None:
    rules = Rules(nano_per_day=100)
    counted.day, counted.month = 40, 70
    standing = (await counted.admit("a", rules, nano=1)).standing
    assert (standing.day_nano, standing.month_nano, counted.counts) == (40, 70, 1)
    counted.day, counted.month = 41, 71
    assert (await counted.admit("b", rules)).standing.day_nano == 40
    counted.clock.now += RECOUNT_MS / 1000 + 1
    assert (await counted.admit("c", rules)).standing.day_nano == 41
    assert counted.counts == 2


async def test_no_money_is_counted_for_who_has_no_budget(counted: Counted) -> None:
    await counted.admit("a", Rules(requests_per_minute=5, tokens_per_minute=5), nano=7)
    assert counted.counts == 0


async def test_what_ends_while_the_ledger_is_read_is_not_missed(counted: Counted) -> None:
    rules = Rules(nano_per_day=100)
    await counted.admit("a", Rules(requests_per_minute=5), nano=1)
    asked = await counted.store.reserve(
        counted.tenant, "b", Demand(0, 0), rules, hold_ms=HOLD_MS, recount_ms=RECOUNT_MS
    )
    assert isinstance(asked, Uncounted)
    await counted.store.settle(counted.tenant, "a", 0, 60)
    assert await counted.store.count(counted.tenant, asked, 0, 0), "60 may be in these sums or not"
    assert (await counted.admit("b", rules)).standing.day_nano == 60
    counted.clock.now += RECOUNT_MS / 1000 + 1
    counted.day = counted.month = 60
    assert (await counted.admit("c", rules)).standing.day_nano == 60


async def test_money_is_counted_while_requests_end_all_the_time(counted: Counted) -> None:
    """A ledger that takes longer to read than it takes the next request to end must not keep a budget from holding;
    nor those that hold nothing, because they were let in while it did not."""
    rules, other = Rules(nano_per_day=1000), Rules(requests_per_minute=100)
    for number in range(5):
        await counted.admit(f"r{number}", other, nano=1)
    await counted.store.settle(counted.tenant, "r0", 0, 100)
    asked = await counted.store.reserve(
        counted.tenant, "b", Demand(0, 0), rules, hold_ms=HOLD_MS, recount_ms=RECOUNT_MS
    )
    assert isinstance(asked, Uncounted)
    await counted.store.settle(counted.tenant, "r1", 0, 100)
    await counted.store.settle(counted.tenant, "unheld", 0, 100)
    assert await counted.store.count(counted.tenant, asked, 200, 700), "r0, and r1 in the very moment"
    standing = (await counted.admit("b", rules)).standing
    assert (standing.day_nano, standing.month_nano) == (400, 900), "one of them twice, until the next count"


async def test_sums_of_yesterday_are_of_no_use(counted: Counted) -> None:
    counted.clock.now = at(2026, 11, 29, 23, 59, 59)
    rules = Rules(nano_per_day=100)
    asked = await counted.store.reserve(
        counted.tenant, "a", Demand(0, 0), rules, hold_ms=HOLD_MS, recount_ms=RECOUNT_MS
    )
    assert isinstance(asked, Uncounted)
    counted.clock.now += 2
    assert not await counted.store.count(counted.tenant, asked, 90, 90)
    assert (await counted.admit("a", rules)).standing.day_nano == 0


async def test_a_clock_that_is_set_back_frees_the_window_and_keeps_the_budget(counted: Counted) -> None:
    """As after a fail-over to a server whose clock is behind."""
    counted.clock.now = at(2026, 12, 1, 0, 0, 5)
    limit, budget = Rules(requests_per_minute=1), Rules(nano_per_day=100, nano_per_month=100)
    await counted.admit("a", limit)
    await counted.refuse("b", limit)
    assert (await counted.admit("a", budget)).standing.month_nano == 0
    counted.clock.now -= 300
    counted.day = counted.month = 100
    await counted.admit("b", limit)
    assert (await counted.refuse("c", budget)).limit == "budget_usd_per_day", (
        "it was spent yesterday, which it is again"
    )
    counted.clock.now += 300
    counted.day = counted.month = 0
    await counted.admit("c", budget)


async def test_what_ends_and_was_not_held_has_money_counted_anew(counted: Counted) -> None:
    rules = Rules(nano_per_day=100)
    await counted.admit("a", rules)
    assert await counted.store.settle(counted.tenant, "stranger", 10, 60) is None
    counted.day = counted.month = 60
    standing = (await counted.admit("b", rules)).standing
    assert (standing.day_nano, standing.tokens) == (60, 10)


async def test_what_is_never_settled_is_held_for_a_while_only(counted: Counted) -> None:
    rules = Rules(nano_per_day=100)
    await counted.admit("lost", rules, nano=100)
    await counted.refuse("b", rules, nano=1)
    counted.clock.now += HOLD_MS / 1000
    counted.day = counted.month = 30
    standing = (await counted.admit("b", rules, nano=1)).standing
    assert (standing.held_nano, standing.day_nano) == (1, 30), "and the ledger says what it cost, if anything"


async def test_tenants_do_not_meet(counted: Counted) -> None:
    rules = Rules(requests_per_minute=1)
    await counted.admit("a", rules)
    await counted.refuse("b", rules)
    counted.tenant = f"{counted.tenant}-2"
    await counted.admit("a", rules)


async def test_a_process_forgets_tenants_of_whom_nothing_is_heard() -> None:
    clock = Clock()
    store = MemoryQuotas(clock)
    for tenant, hold_ms in (("idle", 1000), ("holds", 100 * HOLD_MS)):
        await store.reserve(tenant, "a", Demand(1, 1), Rules(requests_per_minute=1), hold_ms=hold_ms, recount_ms=1)
    clock.now += 3600
    await store.release("heard of", "a")
    clock.now += 3600
    await store.release("heard of", "a")
    assert sorted(store._tenants) == ["heard of", "holds"]


@pytest.mark.parametrize("seed", range(12))
async def test_both_engines_count_alike(seed: int) -> None:
    rng, clock = Random(seed), Clock()
    clock.now = at(2026, 12, 30, 23, 58)
    redis = RedisQuotas(shared_redis().url, prefix=f"q{uuid4().hex[:8]}", clock=clock)
    redis.open()
    engines: list[QuotaStore] = [MemoryQuotas(clock), redis]
    rules = Rules(rng.choice([None, 4, 20]), rng.choice([None, 900]), rng.choice([None, 500]), rng.choice([None, 2500]))
    for _ in range(150):
        clock.now += rng.choice([0, 0.4, 3, 30, 700, -30, -100]) * rng.random()
        request = f"r{rng.randrange(8)}"
        match rng.choice(["reserve", "reserve", "settle", "release"]):
            case "reserve":
                demand = Demand(rng.randrange(500), rng.randrange(100))
                answers = [
                    await e.reserve("t", request, demand, rules, hold_ms=400_000, recount_ms=RECOUNT_MS)
                    for e in engines
                ]
            case "settle":
                used = (rng.randrange(700), rng.randrange(150))
                answers = [await e.settle("t", request, *used) for e in engines]
            case _:
                answers = [await e.release("t", request) for e in engines]
        assert answers[0] == answers[1]
        if isinstance(answers[0], Uncounted):
            day = rng.randrange(400)
            sums = (day, day + rng.randrange(400))
            counts = [await e.count("t", answers[0], *sums) for e in engines]
            assert counts == [True, True]
    await redis.aclose()


async def test_a_server_that_is_away_is_said_to_be() -> None:
    redis = RedisQuotas("redis://127.0.0.1:1/0", timeout_s=1)
    redis.open()
    with pytest.raises(QuotasUnavailable):
        await redis.release("t", "a")
    await redis.aclose()


def test_dollars_are_rounded_up() -> None:
    assert nano_usd(Decimal("0.0000000001")) == 1
    assert nano_usd(Decimal("1.5")) == 1_500_000_000
