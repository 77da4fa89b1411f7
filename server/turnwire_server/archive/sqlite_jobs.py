"""Requests in the background, and those whose end has yet to be reported: steps of `SqliteArchive` on their tables,
each within a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import orjson

from .base import RequestRecord

Connection = sqlite3.Connection
Row = sqlite3.Row

SCHEMA = (
    # Requests in the background.
    """CREATE TABLE IF NOT EXISTS jobs (
        tenant TEXT NOT NULL, request TEXT NOT NULL, created_at INTEGER NOT NULL,
        PRIMARY KEY (tenant, request)) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS jobs_by_age ON jobs (created_at)",
    # Those whose end has yet to be reported; `op` is who is about to.
    """CREATE TABLE IF NOT EXISTS reports (
        tenant TEXT NOT NULL, request TEXT NOT NULL, due_at INTEGER NOT NULL, tries INTEGER NOT NULL, op TEXT NOT NULL,
        PRIMARY KEY (tenant, request)) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS reports_by_time ON reports (due_at)",
)


def note(db: Connection, record: RequestRecord) -> None:
    """What a new request has in these tables."""
    if record.spec.get("background"):
        db.execute("INSERT INTO jobs VALUES (?, ?, ?)", (record.tenant_id, record.request_id, record.created_at))
    if record.spec.get("reported"):
        db.execute("INSERT INTO reports VALUES (?, ?, 0, 0, '')", (record.tenant_id, record.request_id))


def jobs(db: Connection, tenant_id: str | None, states: Sequence[str], since_ms: int, limit: int) -> list[Row]:
    """Rows of `requests`."""
    return db.execute(
        "SELECT r.* FROM jobs j JOIN requests r ON r.tenant = j.tenant AND r.request = j.request"
        " WHERE j.created_at >= :since AND (:only IS NULL OR j.tenant = :only)"
        " AND (:states = '[]' OR r.state IN (SELECT value FROM json_each(:states)))"
        " ORDER BY j.created_at DESC, j.tenant DESC, j.request DESC LIMIT :limit",
        {"since": since_ms, "only": tenant_id, "states": orjson.dumps(list(states)).decode(), "limit": limit},
    ).fetchall()


def claim_reports(db: Connection, op: str, now_ms: int, pauses_ms: Sequence[int], limit: int) -> list[tuple[Row, int]]:
    """Rows of `requests`, each with the number of its try."""
    if db.execute("SELECT 1 FROM reports WHERE op = ?", (op,)).fetchone() is None:
        due = db.execute(
            "SELECT p.tenant, p.request, p.tries FROM reports p"
            " JOIN requests r ON r.tenant = p.tenant AND r.request = p.request"
            " WHERE p.due_at <= ? AND p.tries < ? AND r.state != 'open' ORDER BY p.due_at LIMIT ?",
            (now_ms, len(pauses_ms), limit),
        ).fetchall()
        db.executemany(
            "UPDATE reports SET due_at = ?, tries = tries + 1, op = ? WHERE tenant = ? AND request = ?",
            [(now_ms + pauses_ms[tries], op, tenant, request) for tenant, request, tries in due],
        )
    claimed = db.execute(
        "SELECT r.*, p.tries AS report_tries FROM reports p"
        " JOIN requests r ON r.tenant = p.tenant AND r.request = p.request WHERE p.op = ?",
        (op,),
    )
    return [(row, row["report_tries"]) for row in claimed]


def reported(db: Connection, tenant_id: str, request_id: str) -> None:
    db.execute("DELETE FROM reports WHERE tenant = ? AND request = ?", (tenant_id, request_id))
