"""What the ledger adds up to: engines give groups of rows that cost the same, this makes the sums of them. Pure.

Money is added up as decimals in Python and never rounded: databases would do it in binary floating point, or in
decimals of 34 digits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal, localcontext
from typing import Literal, get_args

Dimension = Literal["tenant", "user", "route", "feature", "deployment", "day", "outcome", "source"]
DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)
DAY_MS = 86_400_000

_DIGITS = 100
"""More than any sum of a ledger has: prices have some 20 digits, counts of tokens and rows no more than 30 together."""


@dataclass(frozen=True, slots=True)
class UsageSum:
    """The sum over the rows that have ``key`` in common: a value for each of what it was summed by, in that order.

    A day is ``YYYY-MM-DD`` in UTC; None stands for what is not known of a row (or, of a feature, was not said).
    ``estimated`` is how many of the attempts have figures that the provider did not give.
    """

    key: tuple[str | None, ...]
    attempts: int
    estimated: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cost_usd: Decimal


def sum_usd(amounts: Iterable[tuple[str, int]]) -> Decimal:
    """The sum of amounts of money, each a decimal string and how often it is there. Exact."""
    with localcontext() as context:
        context.prec = _DIGITS
        return sum((Decimal(amount) * times for amount, times in amounts), Decimal(0))


def combined(by: Sequence[Dimension], groups: Iterable[UsageSum]) -> list[UsageSum]:
    """One sum for each key, in the order of keys, unknown ones first. Days come in as milliseconds of their beginning.

    ``cost_usd`` of what comes in is that of the whole group.
    """
    days = [place for place, dimension in enumerate(by) if dimension == "day"]
    sums: dict[tuple[str | None, ...], UsageSum] = {}
    with localcontext() as context:
        context.prec = _DIGITS
        for group in groups:
            key = tuple(_day(value) if place in days else value for place, value in enumerate(group.key))
            known = sums.get(key)
            sums[key] = replace(group, key=key) if known is None else _plus(known, group)
    return sorted(sums.values(), key=lambda one: [(value is not None, value or "") for value in one.key])


def cost_of(cost_usd: str, times: int) -> Decimal:
    """What so many rows of one cost come to."""
    return sum_usd([(cost_usd, times)])


def _plus(one: UsageSum, other: UsageSum) -> UsageSum:
    return UsageSum(
        one.key,
        one.attempts + other.attempts,
        one.estimated + other.estimated,
        one.input_tokens + other.input_tokens,
        one.output_tokens + other.output_tokens,
        one.cached_tokens + other.cached_tokens,
        one.cost_usd + other.cost_usd,
    )


def _day(begins_ms: int | str | None) -> str | None:
    return None if begins_ms is None else datetime.fromtimestamp(int(begins_ms) / 1000, UTC).date().isoformat()
