"""Prompts in the embedded archive: the steps of `SqliteArchive` on their tables, each within a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import orjson

from .prompts import PromptKey, PromptRecord, PromptVersion
from .sqlite_tenants import add_audit
from .tenants import AuditEntry

Connection = sqlite3.Connection

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS prompts (
        tenant TEXT NOT NULL, name TEXT NOT NULL, revision INTEGER NOT NULL, versions INTEGER NOT NULL,
        released INTEGER, candidate INTEGER, share INTEGER NOT NULL, changed_at INTEGER NOT NULL,
        changed_by TEXT NOT NULL, PRIMARY KEY (tenant, name)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS prompt_versions (
        tenant TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, text TEXT NOT NULL, variables BLOB NOT NULL,
        note TEXT, created_at INTEGER NOT NULL, created_by TEXT NOT NULL,
        PRIMARY KEY (tenant, name, version)) WITHOUT ROWID""",
)


def prompt(db: Connection, tenant_id: str, name: str) -> PromptRecord | None:
    row = db.execute("SELECT * FROM prompts WHERE tenant = ? AND name = ?", (tenant_id, name)).fetchone()
    return None if row is None else _record(row)


def prompts(db: Connection, tenant_id: str) -> list[PromptRecord]:
    rows = db.execute("SELECT * FROM prompts WHERE tenant = ? ORDER BY name", (tenant_id,))
    return [_record(row) for row in rows]


def prompt_revisions(db: Connection, keys: Sequence[PromptKey]) -> dict[PromptKey, int]:
    rows = db.execute(
        "SELECT p.tenant, p.name, p.revision FROM json_each(?) k JOIN prompts p"
        " ON p.tenant = json_extract(k.value, '$[0]') AND p.name = json_extract(k.value, '$[1]')",
        (orjson.dumps(list(keys)).decode(),),
    )
    return {(row["tenant"], row["name"]): row["revision"] for row in rows}


def prompt_version(db: Connection, tenant_id: str, name: str, version: int) -> PromptVersion | None:
    row = db.execute(
        "SELECT * FROM prompt_versions WHERE tenant = ? AND name = ? AND version = ?", (tenant_id, name, version)
    ).fetchone()
    return None if row is None else _version(row)


def prompt_versions(db: Connection, tenant_id: str, name: str) -> list[PromptVersion]:
    rows = db.execute("SELECT * FROM prompt_versions WHERE tenant = ? AND name = ? ORDER BY version", (tenant_id, name))
    return [_version(row) for row in rows]


def put_prompt(
    db: Connection, record: PromptRecord, entry: AuditEntry, new: PromptVersion | None
) -> tuple[PromptRecord | None, bool]:
    stands = prompt(db, record.tenant_id, record.name)
    if db.execute("SELECT 1 FROM audit WHERE op = ?", (entry.op,)).fetchone() is not None:
        return stands, True
    if (0 if stands is None else stands.revision) != record.revision - 1:
        return stands, False
    db.execute(
        "INSERT OR REPLACE INTO prompts (tenant, name, revision, versions, released, candidate, share, changed_at,"
        " changed_by) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            record.tenant_id,
            record.name,
            record.revision,
            record.versions,
            record.released,
            record.candidate,
            record.share,
            record.changed_at,
            record.changed_by,
        ),
    )
    if new is not None:
        db.execute(
            "INSERT INTO prompt_versions (tenant, name, version, text, variables, note, created_at, created_by)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                new.tenant_id,
                new.name,
                new.version,
                new.text,
                orjson.dumps(new.variables),
                new.note,
                new.created_at,
                new.created_by,
            ),
        )
    add_audit(db, entry)
    return record, True


def _record(row: sqlite3.Row) -> PromptRecord:
    return PromptRecord(
        tenant_id=row["tenant"],
        name=row["name"],
        revision=row["revision"],
        versions=row["versions"],
        released=row["released"],
        candidate=row["candidate"],
        share=row["share"],
        changed_at=row["changed_at"],
        changed_by=row["changed_by"],
    )


def _version(row: sqlite3.Row) -> PromptVersion:
    return PromptVersion(
        tenant_id=row["tenant"],
        name=row["name"],
        version=row["version"],
        text=row["text"],
        variables=orjson.loads(row["variables"]),
        note=row["note"],
        created_at=row["created_at"],
        created_by=row["created_by"],
    )
