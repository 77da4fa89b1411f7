"""Summaries in the embedded archive: the steps of `SqliteArchive` on their table, each within a transaction."""

from __future__ import annotations

import sqlite3

from .summaries import SummaryRecord

Connection = sqlite3.Connection

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS summaries (
        tenant TEXT NOT NULL, conversation TEXT NOT NULL, leaf TEXT NOT NULL, up_to INTEGER NOT NULL,
        version INTEGER NOT NULL, text TEXT NOT NULL, created_at INTEGER NOT NULL,
        PRIMARY KEY (tenant, conversation, leaf)) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS summaries_by_reach ON summaries (tenant, conversation, up_to, leaf)",
)


def summaries(db: Connection, tenant_id: str, conversation_id: str, limit: int) -> list[SummaryRecord]:
    rows = db.execute(
        "SELECT * FROM summaries WHERE tenant = ? AND conversation = ? ORDER BY up_to DESC, leaf DESC LIMIT ?",
        (tenant_id, conversation_id, limit),
    )
    return [
        SummaryRecord(
            tenant_id=row["tenant"],
            conversation_id=row["conversation"],
            leaf=row["leaf"],
            up_to=row["up_to"],
            version=row["version"],
            text=row["text"],
            created_at=row["created_at"],
        )
        for row in rows
    ]


def put_summary(db: Connection, record: SummaryRecord) -> bool:
    home = (record.tenant_id, record.conversation_id)
    if db.execute("SELECT 1 FROM conversations WHERE tenant = ? AND conversation = ?", home).fetchone() is None:
        return False
    db.execute(
        "INSERT OR REPLACE INTO summaries (tenant, conversation, leaf, up_to, version, text, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (*home, record.leaf, record.up_to, record.version, record.text, record.created_at),
    )
    return True


def drop_summaries(db: Connection, tenant_id: str, conversation_id: str, from_ordinal: int) -> None:
    db.execute(
        "DELETE FROM summaries WHERE tenant = ? AND conversation = ? AND up_to >= ?",
        (tenant_id, conversation_id, from_ordinal),
    )
