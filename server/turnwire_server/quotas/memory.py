"""The port for one process. Kept in memory: after a restart the minute is forgotten and money comes from the ledger."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from .base import WINDOW_S, Admitted, Demand, LimitName, Refused, Rules, Standing, Uncounted

_DAY_MS = 86_400_000
# Of a tenant that has not been heard of for so long nothing is kept that the ledger does not know.
_IDLE_MS = 3_600_000


@dataclass(slots=True)
class _Hold:
    tokens: int
    nano: int
    second: int
    until: int


@dataclass(slots=True)
class _Window:
    """What was used in each second."""

    used: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))

    def move(self, second: int) -> None:
        """Forget what is out of it; what lies far ahead is of a clock that was set back since."""
        for other in [at for at in self.used if abs(at - second) > WINDOW_S]:
            del self.used[other]

    def sum(self) -> int:
        return sum(self.used.values())

    def reset_ms(self, now: int) -> int:
        newest = max((at for at, used in self.used.items() if used > 0), default=None)
        return 0 if newest is None else (newest + WINDOW_S + 1) * 1000 - now

    def room_ms(self, now: int, wanted: int, limit: int) -> int:
        """Milliseconds until so much fits, as far as it is known now."""
        over = self.sum() + wanted - limit
        for at in sorted(self.used):
            over -= self.used[at]
            if over <= 0:
                return (at + WINDOW_S + 1) * 1000 - now
        return self.reset_ms(now)

    def give_back(self, second: int, amount: int) -> None:
        if second in self.used:
            self.used[second] -= amount


@dataclass(slots=True)
class _Tenant:
    requests: _Window = field(default_factory=_Window)
    tokens: _Window = field(default_factory=_Window)
    holds: dict[str, _Hold] = field(default_factory=dict)
    day: int = 0
    month: int = 0
    day_nano: int = 0
    month_nano: int = 0
    counted_at: int | None = None
    generation: int = 0
    settled_nano: int = 0
    """In this generation."""
    heard_at: int = 0

    def begin_generation(self) -> None:
        self.generation += 1
        self.settled_nano = 0

    def spend(self, nano: int) -> None:
        self.day_nano += nano
        self.month_nano += nano
        self.settled_nano += nano


class MemoryQuotas:
    """See the port. ``clock`` gives seconds since the Unix epoch."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._tenants: dict[str, _Tenant] = {}
        self._swept_at = 0

    async def reserve(
        self, tenant_id: str, request_id: str, demand: Demand, rules: Rules, *, hold_ms: int, recount_ms: int
    ) -> Admitted | Refused | Uncounted:
        tenant, now = self._at(tenant_id)
        if request_id in tenant.holds:
            return Admitted(_standing(tenant, now))
        if rules.has_budget and (tenant.counted_at is None or now - tenant.counted_at > recount_ms):
            return Uncounted(tenant.generation, tenant.settled_nano, *_starts(now))
        tokens = demand.tokens if rules.tokens_per_minute is None else min(demand.tokens, rules.tokens_per_minute)
        refused = _refuse(tenant, now, rules, tokens, demand.nano)
        if refused is not None:
            return refused
        second = now // 1000
        tenant.requests.used[second] += 1
        tenant.tokens.used[second] += tokens
        tenant.holds[request_id] = _Hold(tokens, demand.nano, second, now + hold_ms)
        return Admitted(_standing(tenant, now))

    async def settle(self, tenant_id: str, request_id: str, tokens: int, nano: int) -> Standing | None:
        tenant, now = self._at(tenant_id)
        hold = tenant.holds.pop(request_id, None)
        second = now // 1000
        tenant.spend(nano)
        if hold is None:
            tenant.tokens.used[second] += tokens
            tenant.counted_at = None
            return None
        if tokens < hold.tokens:
            tenant.tokens.give_back(hold.second, hold.tokens - tokens)
        else:
            tenant.tokens.used[second] += tokens - hold.tokens
        return _standing(tenant, now)

    async def release(self, tenant_id: str, request_id: str) -> None:
        tenant, _ = self._at(tenant_id)
        hold = tenant.holds.pop(request_id, None)
        if hold is not None:
            tenant.requests.give_back(hold.second, 1)
            tenant.tokens.give_back(hold.second, hold.tokens)

    async def count(self, tenant_id: str, asked: Uncounted, day_nano: int, month_nano: int) -> bool:
        tenant, now = self._at(tenant_id)
        if asked.generation != tenant.generation:
            return False
        since = tenant.settled_nano - asked.settled_nano
        tenant.day_nano, tenant.month_nano, tenant.counted_at = day_nano + since, month_nano + since, now
        return True

    async def aclose(self) -> None:
        """Nothing to close."""

    def _at(self, tenant_id: str) -> tuple[_Tenant, int]:
        """The tenant as it stands now, in milliseconds: what is over is over."""
        now = int(self._clock() * 1000)
        self._sweep(now)
        tenant = self._tenants.get(tenant_id)
        if tenant is None:
            tenant = self._tenants[tenant_id] = _Tenant()
        tenant.heard_at = now
        for window in (tenant.requests, tenant.tokens):
            window.move(now // 1000)
        for request_id in [name for name, hold in tenant.holds.items() if hold.until <= now]:
            del tenant.holds[request_id]
            tenant.counted_at = None
            tenant.begin_generation()
        day, month = _starts(now)
        if day != tenant.day:
            if day < tenant.day:  # the clock was set back: what this day has cost was forgotten
                tenant.counted_at = None
            tenant.day, tenant.day_nano = day, 0
            tenant.begin_generation()
        if month != tenant.month:
            tenant.month, tenant.month_nano = month, 0
        return tenant, now

    def _sweep(self, now: int) -> None:
        """Now and then: forget those that have not been heard of for long."""
        if abs(now - self._swept_at) < _IDLE_MS:
            return
        self._swept_at = now
        for tenant_id, tenant in tuple(self._tenants.items()):
            holds = any(hold.until > now for hold in tenant.holds.values())
            if not holds and now - tenant.heard_at > _IDLE_MS:
                del self._tenants[tenant_id]


def _refuse(tenant: _Tenant, now: int, rules: Rules, tokens: int, nano: int) -> Refused | None:
    standing = _standing(tenant, now)

    def no(limit: LimitName, after_ms: int) -> Refused:
        return Refused(limit, after_ms, standing)

    if rules.requests_per_minute is not None and standing.requests + 1 > rules.requests_per_minute:
        return no("requests_per_minute", tenant.requests.room_ms(now, 1, rules.requests_per_minute))
    if rules.tokens_per_minute is not None and standing.tokens + tokens > rules.tokens_per_minute:
        return no("tokens_per_minute", tenant.tokens.room_ms(now, tokens, rules.tokens_per_minute))
    held = standing.held_nano + nano
    for name, limit, spent, left_ms in (
        ("budget_usd_per_day", rules.nano_per_day, standing.day_nano, standing.day_left_ms),
        ("budget_usd_per_month", rules.nano_per_month, standing.month_nano, standing.month_left_ms),
    ):
        if limit is not None and (spent >= limit or spent + held > limit):
            return no(name, left_ms)  # type: ignore[arg-type]
    return None


def _standing(tenant: _Tenant, now: int) -> Standing:
    return Standing(
        at_ms=now,
        requests=tenant.requests.sum(),
        tokens=tenant.tokens.sum(),
        requests_reset_ms=tenant.requests.reset_ms(now),
        tokens_reset_ms=tenant.tokens.reset_ms(now),
        day_nano=tenant.day_nano,
        month_nano=tenant.month_nano,
        held_nano=sum(hold.nano for hold in tenant.holds.values()),
        day_left_ms=_starts(now)[0] + _DAY_MS - now,
        month_left_ms=_next_month(now) - now,
    )


def _starts(now: int) -> tuple[int, int]:
    """When this day and this month began, in milliseconds since the epoch."""
    first = datetime.fromtimestamp(now // 1000, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return now - now % _DAY_MS, int(first.timestamp()) * 1000


def _next_month(now: int) -> int:
    at = datetime.fromtimestamp(now // 1000, UTC)
    year, month = (at.year + 1, 1) if at.month == 12 else (at.year, at.month + 1)
    return int(datetime(year, month, 1, tzinfo=UTC).timestamp()) * 1000
