"""What a tenant may still use: asked before a request is owned, told when it has ended.

A request **reserves** what it is expected to use, an estimate, and **settles** what it did use, by whoever concludes
it. What counts is in the store (`quotas.base`); what was spent for good is in the archive's ledger, from which the
store's counts of money are made anew when they are lost or old. A tenant without limits is never looked up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import anyio

from turnwire_protocol import CommandError, ErrorCode
from turnwire_server.archive.base import Archive, ArchiveUnavailable, UsageRow
from turnwire_server.eventlog.base import RequestRef
from turnwire_server.gateway.router import Router
from turnwire_server.gateway.usage import TokenCounter, cost_usd, usd_text
from turnwire_server.quotas.base import (
    Admitted,
    Demand,
    LimitName,
    QuotaStore,
    QuotasUnavailable,
    Refused,
    Rules,
    Standing,
    Uncounted,
    nano_usd,
    usd,
)
from turnwire_server.settings import Limits
from turnwire_server.telemetry.metrics import Metrics

from .alerts import Alerts
from .spec import LIMITS, TurnSpec

logger = logging.getLogger(__name__)

# Whoever counts from the ledger starts again when its sums are of no use any more: a new day, holds given up meanwhile.
_COUNTS = 10
# A request that was never settled stops holding what it reserved so long after it must have ended.
_HOLD_MARGIN_S = 60.0
_SAYINGS: Mapping[LimitName, str] = {
    "requests_per_minute": "too many requests of this tenant in a minute",
    "tokens_per_minute": "too many tokens of this tenant in a minute",
    "budget_usd_per_day": "this tenant's budget of the day is spent or taken by what runs",
    "budget_usd_per_month": "this tenant's budget of the month is spent or taken by what runs",
}


@dataclass(frozen=True, slots=True)
class Account:
    """How a tenant stands against its limits."""

    rules: Rules
    standing: Standing

    def to_wire(self, *, with_money: bool) -> dict[str, Any]:
        """The `limits` of ``rate_limits.updated`` (SPEC section 4); money is for the tenant's operators."""
        rules, now = self.rules, self.standing
        out: dict[str, Any] = {}
        for name, limit, used, reset_ms in (
            ("requests_per_minute", rules.requests_per_minute, now.requests, now.requests_reset_ms),
            ("tokens_per_minute", rules.tokens_per_minute, now.tokens, now.tokens_reset_ms),
        ):
            if limit is not None:
                out[name] = {"limit": limit, "remaining": max(0, limit - used), "reset_ms": reset_ms}
        for name, limit, used, reset_ms in (
            ("budget_usd_per_day", rules.nano_per_day, now.day_nano, now.day_left_ms),
            ("budget_usd_per_month", rules.nano_per_month, now.month_nano, now.month_left_ms),
        ):
            if limit is not None and with_money:
                left = usd(max(0, limit - used - now.held_nano))
                out[name] = {"limit": usd_text(usd(limit)), "remaining": usd_text(left), "reset_ms": reset_ms}
        return out


def _rules(limits: Mapping[str, Any]) -> Rules:
    day, month = (limits.get(name) for name in LIMITS[2:])
    return Rules(
        limits.get("requests_per_minute"),
        limits.get("tokens_per_minute"),
        None if day is None else nano_usd(Decimal(day)),
        None if month is None else nano_usd(Decimal(month)),
    )


@dataclass(slots=True, eq=False)
class _Count:
    """A ledger is being read; what kept it from being read goes to all who wait for it."""

    done: anyio.Event = field(default_factory=anyio.Event)
    error: Exception | None = None


class Quotas:
    """Shared by all turns and connections of the node."""

    def __init__(
        self,
        store: QuotaStore,
        archive: Archive,
        router: Router,
        counter: TokenCounter,
        limits: Limits,
        metrics: Metrics,
        alerts: Alerts,
    ) -> None:
        self._store = store
        self._archive = archive
        self._router = router
        self._counter = counter
        self._limits = limits
        self._metrics = metrics
        self.alerts = alerts
        self._counting: dict[str, _Count] = {}
        self.settled: Callable[[TurnSpec, Account], None] = lambda spec, account: None
        """Called when a request has ended and its tenant stands differently."""

    async def reserve(self, spec: TurnSpec) -> Account | None:
        """Let a new request in. None: its tenant has no limits, or nobody knows how it stands and that is no obstacle.

        Raises `CommandError`: `rate_limited`, `quota_exceeded`, or `unavailable` where that was asked for.
        """
        limits = spec.tenant.get("limits")
        if limits is None:
            return None
        rules = _rules(limits)
        try:
            answer = await self._reserve(spec, rules)
        except (QuotasUnavailable, ArchiveUnavailable) as error:
            self._metrics.quota_errors_total.inc()
            if self._limits.quota_fail == "closed":
                raise CommandError(ErrorCode.UNAVAILABLE, "what this tenant has used cannot be counted now") from error
            logger.warning("a request is let in uncounted: %s", error)
            return None
        account = Account(rules, answer.standing)
        self.alerts.look(spec.tenant_id, rules, answer.standing)
        if isinstance(answer, Refused):
            self._metrics.quota_refusals_total.labels(answer.limit).inc()
            raise _refusal(spec, answer, account)
        return account

    async def settle(self, ref: RequestRef, spec: Mapping[str, Any], rows: Sequence[UsageRow]) -> None:
        """A request has ended, and its rows are in the ledger. Never raises: what is not settled is held for a while,
        and then counted from the ledger."""
        limits = spec["tenant"].get("limits")
        if limits is None:
            return
        tokens = sum(row.input_tokens + row.output_tokens for row in rows)
        nano = nano_usd(sum((Decimal(row.cost_usd) for row in rows), Decimal(0)))
        try:
            standing = await self._store.settle(ref.tenant_id, ref.request_id, tokens, nano)
        except QuotasUnavailable as error:
            self._metrics.quota_errors_total.inc()
            logger.warning("what request %s has used was not settled: %s", ref.request_id, error)
            return
        if standing is not None:
            account = Account(_rules(limits), standing)
            self.alerts.look(ref.tenant_id, account.rules, standing)
            self.settled(TurnSpec.from_json(spec, 0), account)

    async def release(self, spec: TurnSpec) -> None:
        """A request that had reserved was not made after all. Never raises, as `settle`."""
        if spec.tenant.get("limits") is None:
            return
        try:
            await self._store.release(spec.tenant_id, spec.request_id)
        except QuotasUnavailable as error:
            logger.warning("what request %s had reserved was not released: %s", spec.request_id, error)

    async def _reserve(self, spec: TurnSpec, rules: Rules) -> Admitted | Refused:
        demand = self._demand(spec)
        for _ in range(_COUNTS):
            answer = await self._store.reserve(
                spec.tenant_id,
                spec.request_id,
                demand,
                rules,
                hold_ms=int((self._limits.turn_deadline_s + _HOLD_MARGIN_S) * 1000),
                recount_ms=int(self._limits.quota_recount_s * 1000),
            )
            if not isinstance(answer, Uncounted):
                return answer
            await self._count(spec.tenant_id, answer)
        raise QuotasUnavailable("what this tenant has spent was in doubt again as often as it was counted")

    async def _count(self, tenant_id: str, asked: Uncounted) -> None:
        """Tell the store what the ledger says. Whoever comes meanwhile waits for the same sums: a ledger may be long,
        and a busy tenant's requests must not all read it at once."""
        if (other := self._counting.get(tenant_id)) is not None:
            await other.done.wait()
            if other.error is not None:
                raise QuotasUnavailable(f"the ledger was not read: {other.error}") from other.error
            return
        count = self._counting[tenant_id] = _Count()
        try:
            day = await self._archive.spent(tenant_id, asked.day_ms)
            month = await self._archive.spent(tenant_id, asked.month_ms)
            await self._store.count(tenant_id, asked, nano_usd(day), nano_usd(month))
        except (QuotasUnavailable, ArchiveUnavailable) as error:
            count.error = error
            raise
        finally:
            del self._counting[tenant_id]
            count.done.set()

    def _demand(self, spec: TurnSpec) -> Demand:
        """What the request is expected to use: its own text and a whole answer of the first deployment it may ask. What
        it will be told of its conversation is not known yet; that is settled."""
        tenant = spec.tenant
        input_tokens = sum(self._counter.count(text) for text in (tenant.get("system_prompt") or "", *spec.texts))
        output_tokens = tenant.get("max_output_tokens") or self._limits.reserved_output_tokens
        deployment = self._router.first(spec.route, spec.caller())
        return Demand(input_tokens + output_tokens, nano_usd(cost_usd(deployment, input_tokens, output_tokens)))


def _refusal(spec: TurnSpec, refused: Refused, account: Account) -> CommandError:
    is_money = refused.limit.startswith("budget")
    return CommandError(
        ErrorCode.QUOTA_EXCEEDED if is_money else ErrorCode.RATE_LIMITED,
        _SAYINGS[refused.limit],
        request_id=spec.request_id,
        retry_after_ms=refused.retry_after_ms,
        details={"limit": refused.limit, "limits": account.to_wire(with_money=False)},
    )
