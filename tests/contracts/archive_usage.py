"""The contract of `Archive`, the ledger: what was spent since when, and what it adds up to."""

from __future__ import annotations

from decimal import Decimal

import pytest

from turnwire_server.archive.base import Archive, Billing
from turnwire_server.archive.sums import DIMENSIONS, Dimension, UsageSum

from .archive_conversations import made, talk
from .archive_requests import asked, end, row
from .kit import op


class Spending:
    async def test_a_tenant_that_did_nothing_has_spent_nothing(self, archive: Archive) -> None:
        assert await archive.spent("acme", 0) == Decimal(0)

    async def test_it_is_the_sum_of_all_rows_from_that_time_on(self, archive: Archive) -> None:
        await made(archive, talk())
        for ordinal, name in enumerate(("r1", "r2", "r3"), 1):
            await archive.insert_request(op(), asked(name, ordinal))
            await end(archive, name, ordinal, usage=[row(1, 1, cost_usd="0.1"), row(1, 2, cost_usd="0.2")])
        assert await archive.spent("acme", 0) == Decimal("0.9")
        assert await archive.spent("acme", 260) == Decimal("0.6"), "r2 ended at 260"
        assert await archive.spent("acme", 261) == Decimal("0.3")
        assert await archive.spent("acme", 361) == Decimal(0)

    async def test_it_is_exact_whatever_the_amounts(self, archive: Archive) -> None:
        amounts = ["12345678901234567890", "0.000000000000123456789", "0.1", "0.2", "0"]
        await end(archive, "gone", usage=[row(1, number, cost_usd=amount) for number, amount in enumerate(amounts, 1)])
        assert await archive.spent("acme", 0) == Decimal("12345678901234567890.300000000000123456789")

    async def test_what_is_written_again_is_not_spent_again(self, archive: Archive) -> None:
        for _ in range(2):
            await end(archive, "gone", usage=[row(cost_usd="0.5")])
        assert await archive.spent("acme", 0) == Decimal("0.5")

    async def test_it_outlives_the_conversation(self, archive: Archive) -> None:
        await made(archive, talk())
        await archive.insert_request(op(), asked("r1"))
        await end(archive, "r1", usage=[row(cost_usd="0.5")])
        await archive.delete_conversation("acme", "talk")
        assert await archive.spent("acme", 0) == Decimal("0.5")

    async def test_tenants_do_not_spend_for_each_other(self, archive: Archive) -> None:
        await end(archive, "gone")
        assert await archive.spent("other", 0) == Decimal(0)


DAY_MS = 86_400_000
JANUARY_31 = 20484 * DAY_MS
"""2026-01-31 in UTC."""


async def spread(archive: Archive) -> None:
    """A ledger of three requests on two days, of two users, at two deployments."""
    ann = Billing("ann", "talk", "fast", "summary")
    failed = row(1, 1, deployment="one", outcome="failed", source="estimated", output_tokens=0, cost_usd="0.1")
    answered = row(1, 2, deployment="two", cached_tokens=4, cost_usd="0.2")
    await end(archive, "r1", usage=[failed, answered], billing=ann, ended_at=JANUARY_31)
    await end(archive, "r2", usage=[answered], billing=Billing("ann", "talk", "fast"), ended_at=JANUARY_31 + DAY_MS - 1)
    await end(archive, "r3", usage=[answered], billing=Billing("bob", "other"), ended_at=JANUARY_31 + DAY_MS)


def summed(*key: str | None, rows: int, failed: int = 0) -> UsageSum:
    """So many answered and failed attempts of `spread`."""
    cost = (rows * 2 + failed) * Decimal("0.1")
    return UsageSum(key, rows + failed, failed, 10 * (rows + failed), 5 * rows, 4 * rows, cost)


class Sums:
    @pytest.mark.parametrize(
        ("by", "sums"),
        [
            ([], [summed(rows=3, failed=1)]),
            (["tenant"], [summed("acme", rows=3, failed=1)]),
            (["user"], [summed("ann", rows=2, failed=1), summed("bob", rows=1)]),
            (["route"], [summed(None, rows=1), summed("fast", rows=2, failed=1)]),
            (["feature"], [summed(None, rows=2), summed("summary", rows=1, failed=1)]),
            (["deployment"], [summed("one", rows=0, failed=1), summed("two", rows=3)]),
            (["day"], [summed("2026-01-31", rows=2, failed=1), summed("2026-02-01", rows=1)]),
            (["outcome"], [summed("completed", rows=3), summed("failed", rows=0, failed=1)]),
            (["source"], [summed("estimated", rows=0, failed=1), summed("provider", rows=3)]),
            (
                ["day", "user"],
                [summed("2026-01-31", "ann", rows=2, failed=1), summed("2026-02-01", "bob", rows=1)],
            ),
        ],
        ids=str,
    )
    async def test_the_ledger_is_summed_by_what_is_asked_for(
        self, archive: Archive, by: list[Dimension], sums: list[UsageSum]
    ) -> None:
        await spread(archive)
        assert list(await archive.usage_sums(by)) == sums

    async def test_only_rows_of_the_time_asked_for_count(self, archive: Archive) -> None:
        await spread(archive)
        until = JANUARY_31 + DAY_MS
        assert list(await archive.usage_sums([], until_ms=until)) == [summed(rows=2, failed=1)]
        assert list(await archive.usage_sums([], since_ms=until)) == [summed(rows=1)]
        assert list(await archive.usage_sums([], since_ms=until - 1, until_ms=until)) == [summed(rows=1)]
        assert list(await archive.usage_sums([], since_ms=until + 1)) == []

    async def test_only_rows_of_the_tenant_asked_for_count(self, archive: Archive) -> None:
        await spread(archive)
        assert list(await archive.usage_sums(["user"], tenant_id="other")) == []
        assert list(await archive.usage_sums([], tenant_id="acme")) == [summed(rows=3, failed=1)]

    async def test_they_are_exact_whatever_the_amounts(self, archive: Archive) -> None:
        amounts = ["12345678901234567890", "0.000000000000123456789", "0.1", "0.2", "0.2", "0"]
        rows = [row(1, number, cost_usd=amount) for number, amount in enumerate(amounts, 1)]
        await end(archive, "gone", usage=rows)
        (one,) = await archive.usage_sums(list(DIMENSIONS))
        assert one.cost_usd == Decimal("12345678901234567890.500000000000123456789")

    async def test_they_outlive_the_conversation(self, archive: Archive) -> None:
        await made(archive, talk())
        await archive.insert_request(op(), asked("r1"))
        await end(archive, "r1", billing=Billing("ann", "talk", "fast", "summary"))
        await archive.delete_conversation("acme", "talk")
        (one,) = await archive.usage_sums(["user", "route", "feature"])
        assert one.key == ("ann", "fast", "summary")
