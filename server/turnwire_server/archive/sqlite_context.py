"""Shared context in the embedded archive: the steps of `SqliteArchive` on its table, each within a transaction."""

from __future__ import annotations

import sqlite3

import orjson

from .base import ContextFull, ContextRecord

Connection = sqlite3.Connection

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS context (
        tenant TEXT NOT NULL, conversation TEXT NOT NULL, key TEXT NOT NULL, version INTEGER NOT NULL,
        value BLOB NOT NULL, by TEXT NOT NULL, op TEXT NOT NULL, epoch TEXT, seq INTEGER,
        PRIMARY KEY (tenant, conversation, key)) WITHOUT ROWID""",
)


def set_context(
    db: Connection, tenant_id: str, conversation_id: str, record: ContextRecord, keys: int
) -> ContextRecord:
    """See `Archive.set_context`; the conversation is there."""
    stands = {found.key: found for found in context_of(db, tenant_id, conversation_id)}
    known = stands.get(record.key)
    if known is not None and known.version >= record.version:
        return known
    if known is None and len(stands) >= keys:
        raise ContextFull
    db.execute(
        "INSERT OR REPLACE INTO context (tenant, conversation, key, version, value, by, op)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            tenant_id,
            conversation_id,
            record.key,
            record.version,
            orjson.dumps(record.value),
            record.by,
            record.op,
        ),
    )
    return record


def context_of(db: Connection, tenant_id: str, conversation_id: str) -> list[ContextRecord]:
    rows = db.execute(
        "SELECT * FROM context WHERE tenant = ? AND conversation = ? ORDER BY key", (tenant_id, conversation_id)
    )
    return [
        ContextRecord(
            key=row["key"],
            version=row["version"],
            value=orjson.loads(row["value"]),
            by=row["by"],
            op=row["op"],
            place=None if row["epoch"] is None else (row["epoch"], row["seq"]),
        )
        for row in rows
    ]


def place_context(db: Connection, tenant_id: str, conversation_id: str, record: ContextRecord) -> None:
    assert record.place is not None, "it is what is to be kept"
    db.execute(
        "UPDATE context SET epoch = ?, seq = ? WHERE tenant = ? AND conversation = ? AND key = ? AND op = ?",
        (*record.place, tenant_id, conversation_id, record.key, record.op),
    )
