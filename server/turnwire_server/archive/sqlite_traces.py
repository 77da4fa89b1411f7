"""Traces in the embedded archive: the steps of `SqliteArchive` on their table, each within a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

import orjson

Connection = sqlite3.Connection

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS traces (
        tenant TEXT NOT NULL, request TEXT NOT NULL, fence INTEGER NOT NULL, record BLOB NOT NULL,
        PRIMARY KEY (tenant, request, fence)) WITHOUT ROWID""",
)


def add_trace(
    db: Connection, tenant_id: str, request_id: str, fence: int, record: Mapping[str, Any], most: int
) -> bool:
    """See `Archive.add_trace`."""
    added = db.execute(
        "INSERT INTO traces (tenant, request, fence, record) SELECT :tenant, :request, :fence, :record"
        " WHERE EXISTS (SELECT 1 FROM requests WHERE tenant = :tenant AND request = :request)"
        " AND (SELECT COUNT(*) FROM traces WHERE tenant = :tenant AND request = :request) < :most"
        " ON CONFLICT DO NOTHING",
        {"tenant": tenant_id, "request": request_id, "fence": fence, "record": orjson.dumps(record), "most": most},
    )
    if added.rowcount:
        return True
    stands = "SELECT 1 FROM traces WHERE tenant = ? AND request = ? AND fence = ?"
    return db.execute(stands, (tenant_id, request_id, fence)).fetchone() is not None


def traces_of(db: Connection, tenant_id: str, request_id: str) -> list[dict[str, Any]]:
    rows = db.execute(
        "SELECT record FROM traces WHERE tenant = ? AND request = ? ORDER BY fence", (tenant_id, request_id)
    )
    return [orjson.loads(row["record"]) for row in rows]
