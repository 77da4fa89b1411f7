"""The ledger in the embedded archive: the steps of `SqliteArchive` on its table, each within a transaction.

Money is text and is added up as decimals in Python: SQLite's own sums are of binary floating point.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from decimal import Decimal

from .base import UsageRow
from .sums import sum_usd

Connection = sqlite3.Connection

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS usage (
        tenant TEXT NOT NULL, request TEXT NOT NULL, step INTEGER NOT NULL, attempt INTEGER NOT NULL,
        deployment TEXT NOT NULL, outcome TEXT NOT NULL, input_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL, cost_usd TEXT NOT NULL, source TEXT NOT NULL,
        user TEXT, conversation TEXT, at INTEGER NOT NULL,
        PRIMARY KEY (tenant, request, step, attempt)) WITHOUT ROWID""",
    # With the cost in it: what a tenant has spent is read from the index alone.
    "CREATE INDEX IF NOT EXISTS usage_by_time ON usage (tenant, at, cost_usd)",
)


def insert_usage(
    db: Connection, key: tuple[str, str], usage: Sequence[UsageRow], owner: tuple[str | None, str | None], at: int
) -> None:
    """Insert the rows of the request ``key`` that are not there yet."""
    db.executemany(
        "INSERT INTO usage (tenant, request, step, attempt, deployment, outcome, input_tokens, output_tokens,"
        " cached_tokens, cost_usd, source, user, conversation, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT DO NOTHING",
        [
            (
                *key,
                row.step,
                row.attempt,
                row.deployment,
                row.outcome,
                row.input_tokens,
                row.output_tokens,
                row.cached_tokens,
                row.cost_usd,
                row.source,
                *owner,
                at,
            )
            for row in usage
        ],
    )


def usage_of(db: Connection, tenant_id: str, request_id: str) -> list[UsageRow]:
    """See `Archive.usage`."""
    rows = db.execute(
        "SELECT step, attempt, deployment, outcome, input_tokens, output_tokens, cached_tokens, cost_usd,"
        " source FROM usage WHERE tenant = ? AND request = ? ORDER BY step, attempt",
        (tenant_id, request_id),
    )
    return [UsageRow(*row) for row in rows]


def spent(db: Connection, tenant_id: str, since_ms: int) -> Decimal:
    """See `Archive.spent`."""
    rows = db.execute(
        "SELECT cost_usd, count(*) FROM usage WHERE tenant = ? AND at >= ? GROUP BY cost_usd", (tenant_id, since_ms)
    )
    return sum_usd((cost, count) for cost, count in rows)
