"""The port that counts what tenants use: requests and tokens of the last minute, money of the day and the month.

A request reserves before it is owned and settles when it has ended; in between it **holds** what it was expected to
use. Money is counted in nano-dollars and only until it is counted anew from the ledger, which alone is exact: an engine
whose counts are lost, or old, or in doubt because something was settled that it does not know, says `Uncounted`, is
told the ledger's sums with `count`, and is asked again. What is settled while the ledger is read may be in its sums or
not, and is added to them: counted twice rather than not at all, until the next count.

Days and months are UTC, and the engine's own time counts, not that of a node.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Literal, Protocol

WINDOW_S = 60
"""The window slides in steps of a second: whatever 60 s one looks at, no more than the limit was let in, and what is
used counts for 61 s at most."""

LimitName = Literal["requests_per_minute", "tokens_per_minute", "budget_usd_per_day", "budget_usd_per_month"]

_NANO = Decimal(10) ** 9


def nano_usd(amount: Decimal) -> int:
    """Dollars as nano-dollars, rounded up: what is held is never less than what it stands for."""
    return int((amount * _NANO).to_integral_value(ROUND_CEILING))


def usd(nano: int) -> Decimal:
    """Nano-dollars as dollars."""
    return Decimal(nano).scaleb(-9)


@dataclass(frozen=True, slots=True)
class Rules:
    """What a tenant may use; None: as much as it likes. Budgets are in nano-dollars."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    nano_per_day: int | None = None
    nano_per_month: int | None = None

    @property
    def has_budget(self) -> bool:
        return self.nano_per_day is not None or self.nano_per_month is not None

    def without_budgets(self) -> Rules:
        return Rules(self.requests_per_minute, self.tokens_per_minute)


@dataclass(frozen=True, slots=True)
class Demand:
    """What a request is expected to use."""

    tokens: int
    nano: int


@dataclass(frozen=True, slots=True)
class Standing:
    """What a tenant has used at a time of the engine (``at_ms``, since the Unix epoch): in the last minute, with the
    milliseconds until nothing of it counts any more; of its money today and this month, with what is held besides and
    the milliseconds until day and month end."""

    at_ms: int
    requests: int
    tokens: int
    requests_reset_ms: int
    tokens_reset_ms: int
    day_nano: int
    month_nano: int
    held_nano: int
    day_left_ms: int
    month_left_ms: int


@dataclass(frozen=True, slots=True)
class Admitted:
    """The request may be made, and holds what it is expected to use."""

    standing: Standing


@dataclass(frozen=True, slots=True)
class Refused:
    """It may not be made now, and nothing was changed. ``retry_after_ms``: not before then."""

    limit: LimitName
    retry_after_ms: int
    standing: Standing


@dataclass(frozen=True, slots=True)
class Uncounted:
    """What was spent must be told first, together with this: since when (milliseconds since the epoch) the day and the
    month last. ``generation`` and ``settled_nano`` are the engine's own, for it to know what was settled since."""

    generation: int
    settled_nano: int
    day_ms: int
    month_ms: int


class QuotasUnavailable(Exception):
    """The engine did not answer; whether it was done is not known."""


class QuotaStore(Protocol):
    """All raise `QuotasUnavailable`, and all but `settle` are safe to repeat."""

    async def reserve(
        self, tenant_id: str, request_id: str, demand: Demand, rules: Rules, *, hold_ms: int, recount_ms: int
    ) -> Admitted | Refused | Uncounted:
        """Let a request in and hold its demand, for ``hold_ms`` at most; one that holds already is let in as it is.

        A demand of more tokens than the limit is taken for the limit, lest it never fit. Counts of money that were
        taken from the ledger longer ago than ``recount_ms`` are taken from it anew.
        """

    async def settle(self, tenant_id: str, request_id: str, tokens: int, nano: int) -> Standing | None:
        """It has ended and is in the ledger: what it used counts instead of what it held. None when it held nothing
        here (any more), as when it is settled again; it counts all the same, and money is counted anew before anybody
        is let in."""

    async def release(self, tenant_id: str, request_id: str) -> None:
        """It was not made after all: it never counted."""

    async def count(self, tenant_id: str, asked: Uncounted, day_nano: int, month_nano: int) -> bool:
        """What the ledger says, read after the engine has ``asked``. False when that is of no use any more: a new day
        has begun, or a hold was given up of which nobody knows what it has cost."""

    async def aclose(self) -> None:
        """Let go of everything."""
