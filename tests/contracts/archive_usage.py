"""The contract of `Archive`, the ledger: what was spent since when, and what it adds up to."""

from __future__ import annotations

from decimal import Decimal

from turnwire_server.archive.base import Archive

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
