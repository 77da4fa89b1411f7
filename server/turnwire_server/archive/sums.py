"""Sums of the ledger, which both engines make of groups of equal rows. Pure.

Money is added up as decimals in Python and never rounded: databases would do it in binary floating point, or in
decimals of 34 digits.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal, localcontext

_DIGITS = 100
"""More than any sum of a ledger has: prices have some 20 digits, counts of tokens and rows no more than 30 together."""


def sum_usd(amounts: Iterable[tuple[str, int]]) -> Decimal:
    """The sum of amounts of money, each a decimal string and how often it is there. Exact."""
    with localcontext() as context:
        context.prec = _DIGITS
        return sum((Decimal(amount) * times for amount, times in amounts), Decimal(0))
