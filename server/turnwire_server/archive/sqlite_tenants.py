"""Tenants and the audit log in the embedded archive: the steps of `SqliteArchive` on their tables, each within a
transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from .tenants import AuditEntry, AuditPage, TenantRecord, page_of

Connection = sqlite3.Connection

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS tenants (
        tenant TEXT NOT NULL PRIMARY KEY, version INTEGER NOT NULL, settings BLOB, changed_at INTEGER NOT NULL,
        changed_by TEXT NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS audit (
        op TEXT NOT NULL PRIMARY KEY, at INTEGER NOT NULL, actor TEXT NOT NULL, act TEXT NOT NULL,
        tenant TEXT NOT NULL, details BLOB NOT NULL) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS audit_by_time ON audit (at, op)",
    "CREATE INDEX IF NOT EXISTS audit_by_tenant ON audit (tenant, at, op)",
)


def tenant(db: Connection, tenant_id: str) -> TenantRecord | None:
    row = db.execute("SELECT * FROM tenants WHERE tenant = ?", (tenant_id,)).fetchone()
    return None if row is None else _record(row)


def tenants(db: Connection, tenant_ids: Sequence[str] | None) -> list[TenantRecord]:
    rows = db.execute(
        "SELECT * FROM tenants WHERE settings IS NOT NULL"
        " AND (:ids IS NULL OR tenant IN (SELECT value FROM json_each(:ids))) ORDER BY tenant",
        {"ids": None if tenant_ids is None else orjson.dumps(list(tenant_ids)).decode()},
    )
    return [_record(row) for row in rows]


def tenant_versions(db: Connection, tenant_ids: Sequence[str]) -> dict[str, int]:
    rows = db.execute(
        "SELECT tenant, version FROM tenants WHERE tenant IN (SELECT value FROM json_each(?))",
        (orjson.dumps(list(tenant_ids)).decode(),),
    )
    return {row["tenant"]: row["version"] for row in rows}


def put_tenant(
    db: Connection, tenant_id: str, settings: Mapping[str, Any] | None, replaces: int, entry: AuditEntry
) -> tuple[TenantRecord | None, bool]:
    stands = tenant(db, tenant_id)
    if db.execute("SELECT 1 FROM audit WHERE op = ?", (entry.op,)).fetchone() is not None:
        return stands, True
    if (0 if stands is None else stands.version) != replaces:
        return stands, False
    db.execute(
        "INSERT OR REPLACE INTO tenants (tenant, version, settings, changed_at, changed_by) VALUES (?, ?, ?, ?, ?)",
        (tenant_id, replaces + 1, None if settings is None else orjson.dumps(settings), entry.at, entry.actor),
    )
    add_audit(db, entry)
    return tenant(db, tenant_id), True


def add_audit(db: Connection, entry: AuditEntry) -> AuditEntry:
    db.execute(
        "INSERT INTO audit (op, at, actor, act, tenant, details) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (entry.op, entry.at, entry.actor, entry.act, entry.tenant_id, orjson.dumps(entry.details)),
    )
    return _entry(db.execute("SELECT * FROM audit WHERE op = ?", (entry.op,)).fetchone())


def audit(db: Connection, tenant_id: str | None, limit: int, before: tuple[int, str] | None) -> AuditPage:
    at, op = before or (None, None)
    rows = db.execute(
        "SELECT * FROM audit WHERE (:tenant IS NULL OR tenant = :tenant) AND (:at IS NULL OR (at, op) < (:at, :op))"
        " ORDER BY at DESC, op DESC LIMIT :limit",
        {"tenant": tenant_id, "at": at, "op": op, "limit": limit + 1},
    )
    return page_of([_entry(row) for row in rows], limit)


def _record(row: sqlite3.Row) -> TenantRecord:
    return TenantRecord(
        tenant_id=row["tenant"],
        version=row["version"],
        settings=None if row["settings"] is None else orjson.loads(row["settings"]),
        changed_at=row["changed_at"],
        changed_by=row["changed_by"],
    )


def _entry(row: sqlite3.Row) -> AuditEntry:
    return AuditEntry(
        op=row["op"],
        at=row["at"],
        actor=row["actor"],
        act=row["act"],
        tenant_id=row["tenant"],
        details=orjson.loads(row["details"]),
    )
