"""The ledger of a turn: what it takes over from others."""

from __future__ import annotations

from typing import Any

from turnwire_server.archive.base import UsageRow
from turnwire_server.conversations.ledger import Ledger
from turnwire_server.gateway.estimates import Estimates


def _row(step: int, attempt: int, **fields: Any) -> UsageRow:
    known: dict[str, Any] = {
        "step": step,
        "attempt": attempt,
        "deployment": "one",
        "outcome": "completed",
        "input_tokens": 10,
        "output_tokens": 5,
        "cached_tokens": 0,
        "cost_usd": "0.01",
        "source": "provider",
    }
    return UsageRow(**{**known, **fields})


def test_rows_of_the_archive_stand_and_the_sums_are_theirs() -> None:
    ledger = Ledger(Estimates())
    ledger.adopt([_row(1, 2), _row(1, 1, outcome="node_lost", cost_usd="0.005")])
    ledger.adopt([_row(1, 2, cost_usd="0.02"), _row(2, 1)])
    assert [(row.step, row.attempt, row.cost_usd) for row in ledger.usage_rows()] == [
        (1, 1, "0.005"),
        (1, 2, "0.02"),
        (2, 1, "0.01"),
    ]
    assert ledger.usage_fields()["cost_usd"] == "0.035"
    assert (ledger.last_attempt(1), ledger.last_attempt(2), ledger.last_attempt(3)) == (2, 1, 0)
