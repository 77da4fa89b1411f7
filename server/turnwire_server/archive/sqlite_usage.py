"""The ledger in the embedded archive: the steps of `SqliteArchive` on its table, each within a transaction.

Money is text and is added up as decimals in Python: SQLite's own sums are of binary floating point.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from .base import Billing, UsageRow
from .sums import DAY_MS, DIMENSIONS, Dimension, UsageSum, combined, cost_of, sum_usd

Connection = sqlite3.Connection

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS usage (
        tenant TEXT NOT NULL, request TEXT NOT NULL, step INTEGER NOT NULL, attempt INTEGER NOT NULL,
        deployment TEXT NOT NULL, outcome TEXT NOT NULL, input_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL, cost_usd TEXT NOT NULL, source TEXT NOT NULL,
        user TEXT, conversation TEXT, at INTEGER NOT NULL,
        PRIMARY KEY (tenant, request, step, attempt)) WITHOUT ROWID""",
    "ALTER TABLE usage ADD COLUMN route TEXT",
    "ALTER TABLE usage ADD COLUMN feature TEXT",
    "CREATE INDEX IF NOT EXISTS usage_by_age ON usage (at)",
    # With the cost in it: what a tenant has spent is read from the index alone.
    "CREATE INDEX IF NOT EXISTS usage_by_time ON usage (tenant, at, cost_usd)",
)

_COLUMNS: dict[Dimension, str] = {dimension: dimension for dimension in DIMENSIONS}
_COLUMNS["day"] = f"CAST(at - at % {DAY_MS} AS TEXT)"


def insert_usage(db: Connection, key: tuple[str, str], usage: Sequence[UsageRow], billing: Billing, at: int) -> None:
    """Insert the rows of the request ``key`` that are not there yet."""
    db.executemany(
        "INSERT INTO usage (tenant, request, step, attempt, deployment, outcome, input_tokens, output_tokens,"
        " cached_tokens, cost_usd, source, user, conversation, route, feature, at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
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
                billing.user_id,
                billing.conversation_id,
                billing.route,
                billing.feature,
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


def usage_sums(
    db: Connection, by: Sequence[Dimension], tenant_id: str | None, since_ms: int, until_ms: int | None
) -> list[UsageSum]:
    """See `Archive.usage_sums`."""
    columns = [_COLUMNS[dimension] for dimension in by]
    tokens = ["sum(input_tokens)", "sum(output_tokens)", "sum(cached_tokens)"]
    figures = ", ".join([*columns, "count(*)", "sum(source = 'estimated')", *tokens, "cost_usd"])
    groups = ", ".join([*columns, "cost_usd"])
    chosen = "at >= :since"
    if tenant_id is not None:
        chosen += " AND tenant = :tenant"
    if until_ms is not None:
        chosen += " AND at < :until"
    rows = db.execute(
        f"SELECT {figures} FROM usage WHERE {chosen} GROUP BY {groups}",  # noqa: S608 - made of the names above
        {"tenant": tenant_id, "since": since_ms, "until": until_ms},
    )
    return combined(by, (_sum(tuple(row), len(by)) for row in rows))


def _sum(row: tuple[Any, ...], places: int) -> UsageSum:
    attempts, estimated, input_tokens, output_tokens, cached_tokens, cost_usd = row[places:]
    cost = cost_of(cost_usd, attempts)
    return UsageSum(row[:places], attempts, estimated, input_tokens, output_tokens, cached_tokens, cost)
