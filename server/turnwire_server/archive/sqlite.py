"""The embedded archive: tables in the same SQLite file as the log, through the same writer thread.

Documents (messages, endings, specs) are JSON; what is looked up by has columns. A branch is walked from its leaf
by ``parent_id`` in one recursive query, and an answer has its row from the moment the request is inserted, without
a document until it stands, so that the walk finds its way past turns that are still running.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import orjson

from turnwire_protocol import Message, message_from_wire, to_wire
from turnwire_server.sqlite import Database

from . import (
    sqlite_context,
    sqlite_jobs,
    sqlite_prompts,
    sqlite_summaries,
    sqlite_tenants,
    sqlite_traces,
    sqlite_usage,
)
from .base import (
    ENDINGS_OF_CANCELLED,
    MOST_RUNS_TRACED,
    Billing,
    ContextRecord,
    ConversationPage,
    ConversationRecord,
    DueReport,
    MessagePage,
    RequestRecord,
    Role,
    UsageRow,
)
from .prompts import PromptKey, PromptRecord, PromptVersion
from .sqlite_calls import SqliteCalls
from .summaries import SummaryRecord
from .sums import Dimension, UsageSum
from .tenants import AuditEntry, AuditPage, TenantRecord, page_mark

Connection = sqlite3.Connection
Row = sqlite3.Row

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS conversations (
        tenant TEXT NOT NULL, conversation TEXT NOT NULL, owner TEXT NOT NULL, visibility TEXT NOT NULL,
        title TEXT, metadata BLOB, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL,
        ordinal INTEGER NOT NULL DEFAULT 0, head TEXT, op TEXT NOT NULL,
        PRIMARY KEY (tenant, conversation)) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS conversations_by_owner ON conversations (tenant, owner, updated_at)",
    "CREATE INDEX IF NOT EXISTS conversations_by_visibility ON conversations (tenant, visibility, updated_at)",
    "CREATE INDEX IF NOT EXISTS conversations_by_age ON conversations (updated_at)",
    """CREATE TABLE IF NOT EXISTS members (
        tenant TEXT NOT NULL, conversation TEXT NOT NULL, user TEXT NOT NULL, role TEXT NOT NULL,
        PRIMARY KEY (tenant, conversation, user)) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS members_by_user ON members (tenant, user)",
    """CREATE TABLE IF NOT EXISTS requests (
        tenant TEXT NOT NULL, request TEXT NOT NULL, conversation TEXT NOT NULL, user TEXT NOT NULL,
        fingerprint TEXT NOT NULL, ordinal INTEGER NOT NULL, spec BLOB NOT NULL, input_id TEXT NOT NULL,
        answer_id TEXT NOT NULL, created_at INTEGER NOT NULL, state TEXT NOT NULL, run INTEGER NOT NULL,
        ended_at INTEGER, ending BLOB, op TEXT NOT NULL,
        PRIMARY KEY (tenant, request)) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS requests_open ON requests (created_at) WHERE state = 'open'",
    "CREATE INDEX IF NOT EXISTS requests_by_answer ON requests (tenant, answer_id)",
    "CREATE INDEX IF NOT EXISTS requests_by_input ON requests (tenant, input_id)",
    "CREATE INDEX IF NOT EXISTS requests_by_conversation ON requests (tenant, conversation, ordinal)",
    """CREATE INDEX IF NOT EXISTS requests_open_by_conversation ON requests (tenant, conversation)
        WHERE state = 'open'""",
    # Tables of their own, not columns of `requests`: data folders from before have those already.
    """CREATE TABLE IF NOT EXISTS fences (
        tenant TEXT NOT NULL, request TEXT NOT NULL, fence INTEGER NOT NULL,
        PRIMARY KEY (tenant, request)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS effects (
        tenant TEXT NOT NULL, request TEXT NOT NULL, effects INTEGER NOT NULL,
        PRIMARY KEY (tenant, request)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS amended (
        tenant TEXT NOT NULL, request TEXT NOT NULL, presented INTEGER NOT NULL,
        PRIMARY KEY (tenant, request)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS parked (
        tenant TEXT NOT NULL, request TEXT NOT NULL, checkpoint BLOB NOT NULL,
        PRIMARY KEY (tenant, request)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS cancel_marks (
        tenant TEXT NOT NULL, request TEXT NOT NULL, by TEXT NOT NULL, reason TEXT,
        PRIMARY KEY (tenant, request)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS early_cancels (
        tenant TEXT NOT NULL, request TEXT NOT NULL, user TEXT NOT NULL, by TEXT NOT NULL, reason TEXT,
        at INTEGER NOT NULL, PRIMARY KEY (tenant, request, user)) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS early_cancels_by_age ON early_cancels (at)",
    *sqlite_jobs.SCHEMA,
    """CREATE TABLE IF NOT EXISTS messages (
        tenant TEXT NOT NULL, conversation TEXT NOT NULL, message TEXT NOT NULL, parent TEXT, request TEXT NOT NULL,
        ordinal INTEGER NOT NULL, doc BLOB, PRIMARY KEY (tenant, conversation, message)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS feedback (
        tenant TEXT NOT NULL, request TEXT NOT NULL, user TEXT NOT NULL, rating BLOB NOT NULL, comment TEXT,
        at INTEGER NOT NULL, PRIMARY KEY (tenant, request, user)) WITHOUT ROWID""",
    *sqlite_context.SCHEMA,
    *sqlite_usage.SCHEMA,
    *sqlite_tenants.SCHEMA,
    *sqlite_prompts.SCHEMA,
    *sqlite_summaries.SCHEMA,
    *sqlite_traces.SCHEMA,
)

_VISIBLE = """FROM conversations c LEFT JOIN members m
    ON m.tenant = c.tenant AND m.conversation = c.conversation AND m.user = :user
    WHERE c.tenant = :tenant AND (:everyone OR c.owner = :user OR c.visibility = 'tenant' OR m.role IS NOT NULL)"""

_BRANCH = """WITH RECURSIVE branch (message, parent, request, ordinal, doc, depth) AS (
        SELECT message, parent, request, ordinal, doc, 0 FROM messages
            WHERE tenant = :tenant AND conversation = :conversation AND message = :leaf
        UNION ALL
        SELECT m.message, m.parent, m.request, m.ordinal, m.doc, branch.depth + 1 FROM branch
            JOIN messages m ON m.tenant = :tenant AND m.conversation = :conversation AND m.message = branch.parent)
    SELECT message, parent, request, ordinal, doc, depth FROM branch"""


class SqliteArchive(SqliteCalls):
    """`Archive` on SQLite."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(database)
        self._clock = clock

    async def open(self) -> None:
        """The database is opened by whoever made it, with `SCHEMA`; there is nothing else to do."""

    async def aclose(self) -> None:
        """The database is closed by whoever opened it."""

    async def ping(self) -> None:
        await self._write(lambda db: db.execute("SELECT 1").fetchone())

    async def describe(self) -> Mapping[str, str]:
        return {"mode": "embedded", "SQLite": sqlite3.sqlite_version}

    # --- conversations ---------------------------------------------------------------------------------

    async def create_conversation(self, op: str, record: ConversationRecord) -> tuple[ConversationRecord, bool]:
        def insert(db: Connection) -> tuple[ConversationRecord, bool]:
            db.execute(
                "INSERT INTO conversations (tenant, conversation, owner, visibility, title, metadata, created_at,"
                " updated_at, op) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (
                    record.tenant_id,
                    record.conversation_id,
                    record.owner_id,
                    record.visibility,
                    record.title,
                    None if record.metadata is None else orjson.dumps(record.metadata),
                    record.created_at,
                    record.updated_at,
                    op,
                ),
            )
            row = _conversation_row(db, record.tenant_id, record.conversation_id)
            assert row is not None
            return _conversation(db, row), row["op"] == op

        return await self._write(insert)

    async def conversation(self, tenant_id: str, conversation_id: str) -> ConversationRecord | None:
        def look(db: Connection) -> ConversationRecord | None:
            row = _conversation_row(db, tenant_id, conversation_id)
            return None if row is None else _conversation(db, row)

        return await self._read(look)

    async def list_conversations(
        self, tenant_id: str, user_id: str | None, *, limit: int, before: str | None = None
    ) -> ConversationPage:
        after = _page_mark(before)

        def look(db: Connection) -> ConversationPage:
            rows = db.execute(
                f"SELECT c.* {_VISIBLE} AND (:at IS NULL OR (c.updated_at, c.conversation) < (:at, :id))"
                " ORDER BY c.updated_at DESC, c.conversation DESC LIMIT :limit",
                {
                    "tenant": tenant_id,
                    "user": user_id,
                    "everyone": user_id is None,
                    "at": None if after is None else after[0],
                    "id": None if after is None else after[1],
                    "limit": limit + 1,
                },
            ).fetchall()
            items = [_conversation(db, row) for row in rows[:limit]]
            more = len(rows) > limit
            return ConversationPage(items, f"{items[-1].updated_at}.{items[-1].conversation_id}" if more else None)

        return await self._read(look)

    async def set_member(self, tenant_id: str, conversation_id: str, user_id: str, role: Role | None) -> bool:
        def change(db: Connection) -> bool:
            if _conversation_row(db, tenant_id, conversation_id) is None:
                return False
            key = (tenant_id, conversation_id, user_id)
            if role is None:
                db.execute("DELETE FROM members WHERE tenant = ? AND conversation = ? AND user = ?", key)
            else:
                db.execute("INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?)", (*key, role))
            return True

        return await self._write(change)

    async def set_context(
        self, tenant_id: str, conversation_id: str, record: ContextRecord, *, keys: int
    ) -> ContextRecord | None:
        def change(db: Connection) -> ContextRecord | None:
            if _conversation_row(db, tenant_id, conversation_id) is None:
                return None
            return sqlite_context.set_context(db, tenant_id, conversation_id, record, keys)

        return await self._write(change)

    async def context(self, tenant_id: str, conversation_id: str) -> Sequence[ContextRecord]:
        return await self._read(lambda db: sqlite_context.context_of(db, tenant_id, conversation_id))

    async def place_context(self, tenant_id: str, conversation_id: str, record: ContextRecord) -> None:
        await self._write(lambda db: sqlite_context.place_context(db, tenant_id, conversation_id, record))

    async def delete_conversation(self, tenant_id: str, conversation_id: str) -> None:
        def drop(db: Connection) -> None:
            key = (tenant_id, conversation_id)
            for table in (
                "feedback",
                "traces",
                "jobs",
                "reports",
                "parked",
                "cancel_marks",
                "fences",
                "amended",
                "effects",
            ):
                db.execute(
                    f"DELETE FROM {table} WHERE tenant = ? AND request IN"
                    " (SELECT request FROM requests WHERE tenant = ? AND conversation = ?)",
                    (tenant_id, *key),
                )
            for table in ("messages", "requests", "context", "summaries", "members", "conversations"):
                db.execute(f"DELETE FROM {table} WHERE tenant = ? AND conversation = ?", key)

        await self._write(drop)

    async def expire(self, before_ms: int, *, limit: int) -> Sequence[tuple[str, str]]:
        def look(db: Connection) -> list[tuple[str, str]]:
            rows = db.execute(
                "SELECT tenant, conversation FROM conversations c WHERE updated_at < ? AND NOT EXISTS"
                " (SELECT 1 FROM requests r WHERE r.tenant = c.tenant AND r.conversation = c.conversation"
                " AND r.state = 'open') ORDER BY updated_at, tenant, conversation LIMIT ?",
                (before_ms, limit),
            )
            return [(row["tenant"], row["conversation"]) for row in rows]

        return await self._read(look)

    # --- requests --------------------------------------------------------------------------------------

    async def insert_request(self, op: str, record: RequestRecord) -> tuple[RequestRecord, bool]:
        tenant, conversation = record.tenant_id, record.conversation_id

        def insert(db: Connection) -> tuple[RequestRecord, bool]:
            found = _request_row(db, tenant, record.request_id) or _in_the_way(db, record)
            if found is None:
                db.execute(
                    "INSERT INTO requests (tenant, request, conversation, user, fingerprint, ordinal, spec, input_id,"
                    " answer_id, created_at, state, run, op) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'open', ?, ?)",
                    (
                        tenant,
                        record.request_id,
                        conversation,
                        record.user_id,
                        record.fingerprint,
                        record.ordinal,
                        orjson.dumps(record.spec),
                        record.input.message_id,
                        record.answer_id,
                        record.created_at,
                        record.run,
                        op,
                    ),
                )
                user_message = (record.input.message_id, record.input.parent_id, _encode(record.input))
                for message, parent, doc in (user_message, (record.answer_id, record.input.message_id, None)):
                    db.execute(
                        "INSERT INTO messages (tenant, conversation, message, parent, request, ordinal, doc)"
                        " VALUES (?, ?, ?, ?, ?, ?, ?)",
                        (tenant, conversation, message, parent, record.request_id, record.ordinal, doc),
                    )
                db.execute(
                    "UPDATE conversations SET updated_at = max(updated_at, ?), ordinal = max(ordinal, ?),"
                    " title = coalesce(title, ?), head = CASE WHEN ordinal <= ? THEN ? ELSE head END"
                    " WHERE tenant = ? AND conversation = ?",
                    (
                        record.created_at,
                        record.ordinal,
                        record.title,
                        record.ordinal,
                        record.answer_id,
                        tenant,
                        conversation,
                    ),
                )
                if record.fence:
                    _leave_fence(db, tenant, record.request_id, record.fence)
                sqlite_jobs.note(db, record)
                found = _request_row(db, tenant, record.request_id)
                assert found is not None
            return _request(db, found), found["op"] == op

        return await self._write(insert)

    async def request(self, tenant_id: str, request_id: str) -> RequestRecord | None:
        def look(db: Connection) -> RequestRecord | None:
            row = _request_row(db, tenant_id, request_id)
            return None if row is None else _request(db, row)

        return await self._read(look)

    async def take_request(self, tenant_id: str, request_id: str, fence: int) -> RequestRecord | None:
        def take(db: Connection) -> RequestRecord | None:
            row = _request_row(db, tenant_id, request_id)
            if row is None:
                return None
            if row["state"] == "open":
                _leave_fence(db, tenant_id, request_id, fence)
            return _request(db, row)

        return await self._write(take)

    async def end_request(
        self,
        tenant_id: str,
        request_id: str,
        *,
        ending: Mapping[str, Any],
        answer: Message | None,
        usage: Sequence[UsageRow],
        billing: Billing,
        run: int,
        ended_at: int,
    ) -> RequestRecord | None:
        refusable = ending["outcome"] not in ENDINGS_OF_CANCELLED

        def end(db: Connection) -> RequestRecord | None:
            row = _request_row(db, tenant_id, request_id)
            if row is not None and row["state"] == "open" and refusable and _cancel_mark(db, row) is not None:
                return _request(db, row)
            sqlite_usage.insert_usage(db, (tenant_id, request_id), usage, billing, ended_at)
            if row is None:
                return None
            if row["state"] == "open":
                db.execute(
                    "UPDATE requests SET state = ?, ending = ?, run = ?, ended_at = ? WHERE tenant = ? AND request = ?",
                    (ending["outcome"], orjson.dumps(ending), run, ended_at, tenant_id, request_id),
                )
                _park(db, tenant_id, request_id, None)
                if answer is not None:
                    db.execute(
                        "UPDATE messages SET doc = ? WHERE tenant = ? AND conversation = ? AND message = ?",
                        (_encode(answer), tenant_id, row["conversation"], row["answer_id"]),
                    )
                db.execute(
                    "UPDATE conversations SET updated_at = max(updated_at, ?) WHERE tenant = ? AND conversation = ?",
                    (ended_at, tenant_id, row["conversation"]),
                )
                row = _request_row(db, tenant_id, request_id)
                assert row is not None
            return _request(db, row)

        return await self._write(end)

    async def park_request(self, tenant_id: str, request_id: str, *, checkpoint: Mapping[str, Any] | None) -> bool:
        def park(db: Connection) -> bool:
            row = _request_row(db, tenant_id, request_id)
            if row is None or row["state"] != "open":
                return False
            _park(db, tenant_id, request_id, checkpoint)
            return True

        return await self._write(park)

    async def request_of(self, tenant_id: str, message_id: str) -> RequestRecord | None:
        def look(db: Connection) -> RequestRecord | None:
            query = "SELECT * FROM requests WHERE tenant = ?1 AND (answer_id = ?2 OR input_id = ?2)"
            row = db.execute(query, (tenant_id, message_id)).fetchone()
            return None if row is None else _request(db, row)

        return await self._read(look)

    async def note_effects(self, tenant_id: str, request_id: str, effects: int) -> None:
        def note(db: Connection) -> None:
            row = _request_row(db, tenant_id, request_id)
            if row is not None and row["state"] == "open":
                db.execute(
                    "INSERT INTO effects VALUES (?, ?, ?)"
                    " ON CONFLICT DO UPDATE SET effects = max(effects, excluded.effects)",
                    (tenant_id, request_id, effects),
                )

        await self._write(note)

    async def amend_answer(
        self, tenant_id: str, request_id: str, answer: Message, *, presented: int
    ) -> RequestRecord | None:
        def amend(db: Connection) -> RequestRecord | None:
            row = _request_row(db, tenant_id, request_id)
            if row is None or row["state"] == "open":
                return None
            if _amended(db, row) < presented:
                db.execute("INSERT OR REPLACE INTO amended VALUES (?, ?, ?)", (tenant_id, request_id, presented))
                db.execute(
                    "UPDATE messages SET doc = ? WHERE tenant = ? AND conversation = ? AND message = ?",
                    (_encode(answer), tenant_id, row["conversation"], row["answer_id"]),
                )
                sqlite_summaries.drop_summaries(db, tenant_id, row["conversation"], row["ordinal"])
            return _request(db, row)

        return await self._write(amend)

    async def record_cancel(
        self,
        tenant_id: str,
        request_id: str,
        user_id: str,
        *,
        by: str,
        reason: str | None,
        at: int,
        any_user: bool = False,
    ) -> RequestRecord | None:
        def record(db: Connection) -> RequestRecord | None:
            row = _request_row(db, tenant_id, request_id)
            if row is None:
                db.execute(
                    "INSERT INTO early_cancels (tenant, request, user, by, reason, at) VALUES (?, ?, ?, ?, ?, ?)"
                    " ON CONFLICT DO UPDATE SET at = max(at, excluded.at)",
                    (tenant_id, request_id, user_id, by, reason, at),
                )
                return None
            if row["user"] != user_id and not any_user:
                return None
            if row["state"] == "open":
                db.execute(
                    "INSERT INTO cancel_marks (tenant, request, by, reason) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    (tenant_id, request_id, by, reason),
                )
            return _request(db, row)

        return await self._write(record)

    async def recorded_cancel(
        self, tenant_id: str, request_id: str, user_id: str, *, since: int
    ) -> Mapping[str, Any] | None:
        def look(db: Connection) -> Mapping[str, Any] | None:
            row = db.execute(
                "SELECT by, reason FROM early_cancels WHERE tenant = ? AND request = ? AND user = ? AND at >= ?",
                (tenant_id, request_id, user_id, since),
            ).fetchone()
            return None if row is None else dict(row)

        return await self._read(look)

    async def forget_cancels(self, before: int) -> None:
        await self._write(lambda db: db.execute("DELETE FROM early_cancels WHERE at < ?", (before,)).rowcount)

    async def open_requests(
        self, tenant_id: str | None = None, *, limit: int, after: tuple[int, str, str] | None = None
    ) -> Sequence[RequestRecord]:
        def look(db: Connection) -> list[RequestRecord]:
            at, tenant, request = after or (None, None, None)
            rows = db.execute(
                "SELECT * FROM requests WHERE state = 'open' AND (:only IS NULL OR tenant = :only)"
                " AND (:at IS NULL OR (created_at, tenant, request) > (:at, :tenant, :request))"
                " ORDER BY created_at, tenant, request LIMIT :limit",
                {"only": tenant_id, "at": at, "tenant": tenant, "request": request, "limit": limit},
            ).fetchall()
            return [_request(db, row) for row in rows]

        return await self._read(look)

    async def jobs(
        self, tenant_id: str | None = None, *, states: Sequence[str] = (), since_ms: int = 0, limit: int
    ) -> Sequence[RequestRecord]:
        def look(db: Connection) -> list[RequestRecord]:
            return [_request(db, row) for row in sqlite_jobs.jobs(db, tenant_id, states, since_ms, limit)]

        return await self._read(look)

    async def due_reports(self, op: str, now_ms: int, *, pauses_ms: Sequence[int], limit: int) -> Sequence[DueReport]:
        def claim(db: Connection) -> list[DueReport]:
            claimed = sqlite_jobs.claim_reports(db, op, now_ms, pauses_ms, limit)
            return [DueReport(_request(db, row), tries) for row, tries in claimed]

        return await self._write(claim)

    async def reported(self, tenant_id: str, request_id: str) -> None:
        await self._write(lambda db: sqlite_jobs.reported(db, tenant_id, request_id))

    # --- messages --------------------------------------------------------------------------------------

    async def messages(
        self,
        tenant_id: str,
        conversation_id: str,
        *,
        leaf: str | None,
        limit: int,
        max_bytes: int,
        below: bool = False,
        up_to_ordinal: int | None = None,
        without: Sequence[str] = (),
    ) -> MessagePage:
        left_out = frozenset(without)

        def look(db: Connection) -> MessagePage:
            items: list[Message] = []
            size = 0
            for number, row in enumerate(_branch(db, tenant_id, conversation_id, leaf)):
                if row["doc"] is None or row["request"] in left_out or (below and number == 0):
                    continue
                if up_to_ordinal is not None and row["ordinal"] > up_to_ordinal:
                    continue
                size += len(row["doc"])
                if items and (len(items) == limit or size > max_bytes):
                    return MessagePage(items[::-1], items[-1].message_id)
                items.append(message_from_wire(orjson.loads(row["doc"])))
            return MessagePage(items[::-1])

        return await self._read(look)

    async def message(self, tenant_id: str, conversation_id: str, message_id: str) -> Message | None:
        return await self._read(lambda db: _message(db, tenant_id, conversation_id, message_id))

    # --- tenants ---------------------------------------------------------------------------------------

    async def tenant(self, tenant_id: str) -> TenantRecord | None:
        return await self._read(lambda db: sqlite_tenants.tenant(db, tenant_id))

    async def tenants(self, tenant_ids: Sequence[str] | None = None) -> Sequence[TenantRecord]:
        return await self._read(lambda db: sqlite_tenants.tenants(db, tenant_ids))

    async def tenant_versions(self, tenant_ids: Sequence[str]) -> Mapping[str, int]:
        return await self._read(lambda db: sqlite_tenants.tenant_versions(db, tenant_ids))

    async def put_tenant(
        self, tenant_id: str, settings: Mapping[str, Any] | None, *, replaces: int, entry: AuditEntry
    ) -> tuple[TenantRecord | None, bool]:
        return await self._write(lambda db: sqlite_tenants.put_tenant(db, tenant_id, settings, replaces, entry))

    async def add_audit(self, entry: AuditEntry) -> AuditEntry:
        return await self._write(lambda db: sqlite_tenants.add_audit(db, entry))

    async def audit(self, tenant_id: str | None = None, *, limit: int, before: str | None = None) -> AuditPage:
        mark = page_mark(before)
        return await self._read(lambda db: sqlite_tenants.audit(db, tenant_id, limit, mark))

    # --- prompts ---------------------------------------------------------------------------------------

    async def prompt(self, tenant_id: str, name: str) -> PromptRecord | None:
        return await self._read(lambda db: sqlite_prompts.prompt(db, tenant_id, name))

    async def prompts(self, tenant_id: str) -> Sequence[PromptRecord]:
        return await self._read(lambda db: sqlite_prompts.prompts(db, tenant_id))

    async def prompt_revisions(self, keys: Sequence[PromptKey]) -> Mapping[PromptKey, int]:
        return await self._read(lambda db: sqlite_prompts.prompt_revisions(db, keys))

    async def prompt_version(self, tenant_id: str, name: str, version: int) -> PromptVersion | None:
        return await self._read(lambda db: sqlite_prompts.prompt_version(db, tenant_id, name, version))

    async def prompt_versions(self, tenant_id: str, name: str) -> Sequence[PromptVersion]:
        return await self._read(lambda db: sqlite_prompts.prompt_versions(db, tenant_id, name))

    async def put_prompt(
        self, record: PromptRecord, *, entry: AuditEntry, new: PromptVersion | None = None
    ) -> tuple[PromptRecord | None, bool]:
        return await self._write(lambda db: sqlite_prompts.put_prompt(db, record, entry, new))

    # --- summaries -------------------------------------------------------------------------------------

    async def summaries(self, tenant_id: str, conversation_id: str, *, limit: int) -> Sequence[SummaryRecord]:
        return await self._read(lambda db: sqlite_summaries.summaries(db, tenant_id, conversation_id, limit))

    async def put_summary(self, record: SummaryRecord) -> bool:
        return await self._write(lambda db: sqlite_summaries.put_summary(db, record))

    async def drop_summaries(self, tenant_id: str, conversation_id: str, from_ordinal: int) -> None:
        await self._write(lambda db: sqlite_summaries.drop_summaries(db, tenant_id, conversation_id, from_ordinal))

    # --- the rest --------------------------------------------------------------------------------------

    async def usage(self, tenant_id: str, request_id: str) -> Sequence[UsageRow]:
        return await self._read(lambda db: sqlite_usage.usage_of(db, tenant_id, request_id))

    async def spent(self, tenant_id: str, since_ms: int) -> Decimal:
        return await self._read(lambda db: sqlite_usage.spent(db, tenant_id, since_ms))

    async def usage_sums(
        self,
        by: Sequence[Dimension],
        *,
        tenant_id: str | None = None,
        since_ms: int = 0,
        until_ms: int | None = None,
    ) -> Sequence[UsageSum]:
        return await self._read(lambda db: sqlite_usage.usage_sums(db, by, tenant_id, since_ms, until_ms))

    async def add_feedback(
        self, tenant_id: str, request_id: str, user_id: str, *, rating: int | str, comment: str | None, at: int
    ) -> bool:
        def insert(db: Connection) -> bool:
            if _request_row(db, tenant_id, request_id) is None:
                return False
            db.execute(
                "INSERT OR REPLACE INTO feedback (tenant, request, user, rating, comment, at)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (tenant_id, request_id, user_id, orjson.dumps(rating), comment, at),
            )
            return True

        return await self._write(insert)

    async def add_trace(self, tenant_id: str, request_id: str, fence: int, record: Mapping[str, Any]) -> bool:
        return await self._write(
            lambda db: sqlite_traces.add_trace(db, tenant_id, request_id, fence, record, MOST_RUNS_TRACED)
        )

    async def traces(self, tenant_id: str, request_id: str) -> Sequence[dict[str, Any]]:
        return await self._read(lambda db: sqlite_traces.traces_of(db, tenant_id, request_id))


def _branch(db: Connection, tenant_id: str, conversation_id: str, leaf: str | None) -> Iterator[Row]:
    """The rows of a branch, from its leaf to the root, over holes: see `Archive.messages`."""
    while leaf is not None:
        row: Row | None = None
        for row in db.execute(_BRANCH, {"tenant": tenant_id, "conversation": conversation_id, "leaf": leaf}):
            yield row
        if row is None or row["parent"] is None:
            return
        older = db.execute(
            "SELECT answer_id FROM requests WHERE tenant = ? AND conversation = ? AND ordinal < ?"
            " ORDER BY ordinal DESC LIMIT 1",
            (tenant_id, conversation_id, row["ordinal"]),
        ).fetchone()
        leaf = None if older is None else older["answer_id"]


def _encode(message: Message) -> bytes:
    return orjson.dumps(to_wire(message))


def _page_mark(before: str | None) -> tuple[int, str] | None:
    if before is None:
        return None
    at, dot, conversation_id = before.partition(".")
    if not (dot and at.isascii() and at.isdigit() and conversation_id):
        raise ValueError("not the `next` of an earlier page")
    return int(at), conversation_id


def _conversation_row(db: Connection, tenant_id: str, conversation_id: str) -> Row | None:
    row: Row | None = db.execute(
        "SELECT * FROM conversations WHERE tenant = ? AND conversation = ?", (tenant_id, conversation_id)
    ).fetchone()
    return row


def _conversation(db: Connection, row: Row) -> ConversationRecord:
    members = db.execute(
        "SELECT user, role FROM members WHERE tenant = ? AND conversation = ?", (row["tenant"], row["conversation"])
    )
    return ConversationRecord(
        tenant_id=row["tenant"],
        conversation_id=row["conversation"],
        owner_id=row["owner"],
        visibility=row["visibility"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        title=row["title"],
        metadata=None if row["metadata"] is None else orjson.loads(row["metadata"]),
        members={member["user"]: member["role"] for member in members},
        ordinal=row["ordinal"],
        head=row["head"],
    )


def _request_row(db: Connection, tenant_id: str, request_id: str) -> Row | None:
    row: Row | None = db.execute(
        "SELECT * FROM requests WHERE tenant = ? AND request = ?", (tenant_id, request_id)
    ).fetchone()
    return row


def _request(db: Connection, row: Row) -> RequestRecord:
    user_message = _message(db, row["tenant"], row["conversation"], row["input_id"])
    assert user_message is not None, "inserted in one transaction with its request"
    return RequestRecord(
        tenant_id=row["tenant"],
        request_id=row["request"],
        conversation_id=row["conversation"],
        user_id=row["user"],
        fingerprint=row["fingerprint"],
        ordinal=row["ordinal"],
        spec=orjson.loads(row["spec"]),
        input=user_message,
        answer_id=row["answer_id"],
        created_at=row["created_at"],
        state=row["state"],
        run=row["run"],
        ended_at=row["ended_at"],
        ending=None if row["ending"] is None else orjson.loads(row["ending"]),
        answer=_message(db, row["tenant"], row["conversation"], row["answer_id"]),
        checkpoint=_checkpoint(db, row["tenant"], row["request"]) if row["state"] == "open" else None,
        cancel=_cancel_mark(db, row),
        presented=_amended(db, row),
        effects=_effects(db, row),
        fence=_fence(db, row),
    )


def _in_the_way(db: Connection, record: RequestRecord) -> Row | None:
    """The newest request of the conversation, if the place of the new one is taken."""
    key = (record.tenant_id, record.conversation_id)
    which = "SELECT * FROM requests WHERE tenant = ? AND conversation = ?"
    if db.execute(f"{which} AND ordinal = ?", (*key, record.ordinal)).fetchone() is None:
        return None
    newest: Row = db.execute(f"{which} ORDER BY ordinal DESC LIMIT 1", key).fetchone()
    return newest


def _fence(db: Connection, request: Row) -> int:
    key = (request["tenant"], request["request"])
    row = db.execute("SELECT fence FROM fences WHERE tenant = ? AND request = ?", key).fetchone()
    return 0 if row is None else int(row["fence"])


def _amended(db: Connection, request: Row) -> int:
    key = (request["tenant"], request["request"])
    row = db.execute("SELECT presented FROM amended WHERE tenant = ? AND request = ?", key).fetchone()
    return 0 if row is None else int(row["presented"])


def _effects(db: Connection, request: Row) -> int:
    key = (request["tenant"], request["request"])
    row = db.execute("SELECT effects FROM effects WHERE tenant = ? AND request = ?", key).fetchone()
    return 0 if row is None else int(row["effects"])


def _leave_fence(db: Connection, tenant_id: str, request_id: str, fence: int) -> None:
    db.execute(
        "INSERT INTO fences VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET fence = max(fence, excluded.fence)",
        (tenant_id, request_id, fence),
    )


def _cancel_mark(db: Connection, request: Row) -> Mapping[str, Any] | None:
    row = db.execute(
        "SELECT by, reason FROM cancel_marks WHERE tenant = ? AND request = ?", (request["tenant"], request["request"])
    ).fetchone()
    return None if row is None else dict(row)


def _checkpoint(db: Connection, tenant_id: str, request_id: str) -> Mapping[str, Any] | None:
    row = db.execute(
        "SELECT checkpoint FROM parked WHERE tenant = ? AND request = ?", (tenant_id, request_id)
    ).fetchone()
    return None if row is None else orjson.loads(row["checkpoint"])


def _park(db: Connection, tenant_id: str, request_id: str, checkpoint: Mapping[str, Any] | None) -> None:
    if checkpoint is None:
        db.execute("DELETE FROM parked WHERE tenant = ? AND request = ?", (tenant_id, request_id))
    else:
        db.execute("INSERT OR REPLACE INTO parked VALUES (?, ?, ?)", (tenant_id, request_id, orjson.dumps(checkpoint)))


def _message(db: Connection, tenant_id: str, conversation_id: str, message_id: str) -> Message | None:
    row = db.execute(
        "SELECT doc FROM messages WHERE tenant = ? AND conversation = ? AND message = ?",
        (tenant_id, conversation_id, message_id),
    ).fetchone()
    return None if row is None or row["doc"] is None else message_from_wire(orjson.loads(row["doc"]))
