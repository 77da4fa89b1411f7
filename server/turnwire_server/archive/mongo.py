"""The clustered archive: MongoDB through Motor. The only file that imports the driver.

No transactions: in each call one write of one document decides, on an index that lets it happen once, and everything
else follows from that document. A request's document holds its input, its answer and its ending; there is no second
place for messages. What must stand once a request has ended (its usage, the conversation's newest turn) is written
before the ending; what follows from an insert is written after it and again by whoever meets that request next. So a
crash between any two writes leaves nothing that the repeat of the call, or the end of the request, does not heal.

A cancel is a mark in its request's document, which the write that ends the request looks at. One whose request is not
there has a document of its own, and then the request is looked for again: insert and cancel each write before they
look, so at least one of them sees the other.

Writes are acknowledged by a majority and its journal, reads are of what a majority has, from the primary. Calls that
write run in a causally consistent session: what was refused as a duplicate is there to be read when it is asked for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeVar

import anyio
import orjson
import pymongo
from motor.core import AgnosticClientSession
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection, AsyncIOMotorDatabase
from pymongo import ASCENDING, DESCENDING, IndexModel, ReadPreference
from pymongo.errors import (
    BulkWriteError,
    DuplicateKeyError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from turnwire_protocol import Message

from .base import (
    ENDINGS_OF_CANCELLED,
    MOST_RUNS_TRACED,
    ArchiveUnavailable,
    Billing,
    ContextFull,
    ContextRecord,
    ConversationPage,
    ConversationRecord,
    DueReport,
    MessagePage,
    RequestRecord,
    Role,
    UsageRow,
)
from .mongo_branches import BranchWalk, Chosen
from .mongo_documents import (
    OUTLINE,
    Document,
    answer_fields,
    cancel_mark,
    context_document,
    context_record,
    conversation_document,
    conversation_record,
    ending_fields,
    identity,
    keeping_early,
    message_in,
    moving_on,
    outline,
    request_document,
    request_record,
)
from .mongo_jobs import claim_reports, reported
from .mongo_prompts import (
    prompt_record,
    prompt_records,
    prompt_revisions,
    prompt_version,
    prompt_versions,
    put_prompt,
)
from .mongo_summaries import summary_document, summary_record
from .mongo_tenants import (
    UNTOLD,
    add_audit,
    audit,
    put_tenant,
    tenant_record,
    tenant_records,
)
from .mongo_traces import trace_document, trace_records
from .mongo_usage import spending, spent, summing, sums_of, usage_document, usage_row
from .prompts import PromptKey, PromptRecord, PromptVersion
from .summaries import SummaryRecord
from .sums import Dimension, UsageSum
from .tenants import AuditEntry, AuditPage, TenantRecord, page_mark

T = TypeVar("T")
Session = AgnosticClientSession
Collection = AsyncIOMotorCollection[Document]

# After this one nothing was sent. A retry of the driver that finds no server raises the error of its first try
# instead; other errors that come before anything is sent may hide a first try.
_NEVER_SENT = ServerSelectionTimeoutError
_DUPLICATE = 11000
# The driver keeps the limit by itself; this is for calls that wait for one of its threads as well.
_GRACE_S = 0.5
# A new index on a collection that has grown takes its time; the server builds on if we stop waiting.
_INDEX_BUILD_S = 600.0
# What is refused as a duplicate and then not found was deleted in between; twice is bad luck, more is a fault.
_INSERT_TRIES = 3
# Absent, kept, there but not marked yet, marked: that is what one insert at the same time can cost.
_CANCEL_TRIES = 4
# Turns looked at in one go on the way down a branch: one answer of the server, some 200 bytes each.
_WINDOW_LEAST, _WINDOW_MOST = 16, 256
_EXPIRY_PAGE = 200


def _index(*fields: str, unique: bool = False, only: Document | None = None) -> IndexModel:
    """An index on fields, those with a minus in front downwards; with ``only`` of the documents that match it."""
    keys = [(field.lstrip("-"), DESCENDING if field.startswith("-") else ASCENDING) for field in fields]
    options: Document = {} if only is None else {"partialFilterExpression": only}
    return IndexModel(keys, unique=unique, **options)


_OPEN = {"state": "open"}
_UNMARKED: Document = {"cancel": {"$exists": False}}
INDEXES: Mapping[str, Sequence[IndexModel]] = {
    "conversations": (
        _index("tenant", "owner", "-updated_at", "-conversation"),
        _index("tenant", "members.user", "-updated_at", "-conversation"),
        _index("tenant", "visibility", "-updated_at", "-conversation", only={"visibility": "tenant"}),
        _index("tenant", "-updated_at", "-conversation"),
        _index("updated_at", "tenant", "conversation"),
    ),
    "requests": (
        _index("tenant", "conversation", "ordinal", unique=True),
        _index("tenant", "conversation", "message_ids"),
        _index("tenant", "message_ids"),
        _index("created_at", "tenant", "request", only=_OPEN),
        _index("tenant", "created_at", "request", only=_OPEN),
        _index("tenant", "conversation", only=_OPEN),
        _index("-created_at", "-tenant", "-request", only={"background": True}),
        _index("report_at", only={"reports": True}),
        _index("report_op", only={"reports": True}),
    ),
    "context": (_index("tenant", "conversation"),),
    "documents": (_index("tenant", "chunks.fingerprint"),),
    "vectors": (_index("tenant", "fingerprint"),),
    "summaries": (_index("tenant", "conversation", "up_to", "leaf"),),
    "usage": (
        _index("tenant", "request", "step", "attempt", unique=True),
        _index("tenant", "at", "cost_usd"),
        _index("at"),
    ),
    "feedback": (
        _index("tenant", "request", "user", unique=True),
        _index("tenant", "conversation"),
    ),
    "traces": (_index("tenant", "conversation"), _index("tenant", "request", "fence")),
    "early_cancels": (_index("at"),),
    "tenants": (_index("tenant", only=UNTOLD),),
    "prompts": (_index("tenant", "name"), _index("tenant", only=UNTOLD)),
    "audit": (_index("-at", "-op"), _index("tenant", "-at", "-op")),
}
"""What look-ups go by besides `_id`. They begin with the tenant, but for those that the node's own sweeps go by."""


@dataclass
class _Writing:
    """A call that writes: its session, and how many of its writes may have been carried out."""

    session: Session
    sent: int = 0

    async def do(self, write: Awaitable[T]) -> T:
        """Await one write. It counts as sent unless it is certain that it was not."""
        self.sent += 1
        try:
            return await write
        except _NEVER_SENT:
            self.sent -= 1
            raise

    async def upsert(self, collection: Collection, key: Document, change: Document) -> None:
        """Change the document with that key, which is made when it is absent."""
        await _upsert(self, collection, key, change)


class MongoArchive:
    """`Archive` on MongoDB. ``timeout_s`` is for each call as a whole, ``report_s`` for one that reads the whole ledger
    if it is asked to; absent, the same."""

    def __init__(self, url: str, database: str, *, timeout_s: float, report_s: float | None = None) -> None:
        self._url = url
        self._name = database
        self._timeout_s = timeout_s
        self._report_s = report_s
        self._client: AsyncIOMotorClient[Document] | None = None

    def __repr__(self) -> str:
        return f"<MongoArchive {self._name} {'closed' if self._client is None else 'open'}>"

    async def open(self, *, for_reading: bool = False) -> None:
        """As the contract says. ``for_reading`` makes no indexes: who only reads may not be allowed to."""
        self._client = self._connect()
        try:
            await self.ping()
            if not for_reading:
                await self._make_indexes()
        except ArchiveUnavailable as error:
            servers = self._client.delegate.topology_description.server_descriptions()
            asked = ", ".join(f"{host}:{port}" for host, port in servers)
            await self.aclose()
            raise ArchiveUnavailable(f"{error} (storage.mongo_url: {asked})", unknown=error.unknown) from error

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    async def ping(self) -> None:
        async with self._reading() as db:
            await db.command("ping")  # commands go to the primary, without which nothing works

    async def describe(self) -> Mapping[str, str]:
        async with self._reading() as db:
            build = await db.command("buildInfo")
            hello = await db.command("hello")
        members = len(hello.get("hosts", ())) or 1
        replica_set = f"replica set {hello['setName']} of {members}" if hello.get("setName") else "no replica set"
        return {"MongoDB": str(build.get("version", "of unknown version")), "mode": replica_set, "database": self._name}

    def _connect(self) -> AsyncIOMotorClient[Document]:
        """The driver's client, which connects by itself when it is first used."""
        limit_ms = max(1, round(self._timeout_s * 1000))
        try:
            return AsyncIOMotorClient(
                self._url,
                appname="turnwire",
                serverSelectionTimeoutMS=limit_ms,
                connectTimeoutMS=limit_ms,
                socketTimeoutMS=limit_ms,
                waitQueueTimeoutMS=limit_ms,
            )
        except (PyMongoError, ValueError) as error:
            # The driver's own words may repeat parts of the address, in which there is a password.
            reason = f"storage.mongo_url cannot be used ({type(error).__name__})"
            raise ArchiveUnavailable(reason, unknown=False) from None

    async def _make_indexes(self) -> None:
        async with self._reading(_INDEX_BUILD_S) as db:
            for name, indexes in INDEXES.items():
                await db[name].create_indexes(list(indexes))

    # --- conversations ---------------------------------------------------------------------------------

    async def create_conversation(self, op: str, record: ConversationRecord) -> tuple[ConversationRecord, bool]:
        async with self._writing() as (db, writing):
            stands = await _insert_once(writing, db["conversations"], conversation_document(op, record))
            return conversation_record(stands), stands["op"] == op

    async def conversation(self, tenant_id: str, conversation_id: str) -> ConversationRecord | None:
        async with self._reading() as db:
            found = await db["conversations"].find_one({"_id": identity(tenant_id, conversation_id)})
            return None if found is None else conversation_record(found)

    async def list_conversations(
        self, tenant_id: str, user_id: str | None, *, limit: int, before: str | None = None
    ) -> ConversationPage:
        chosen = _all_of({"tenant": tenant_id}, _visible_to(user_id), _older_than(before))
        newest_first = [("updated_at", DESCENDING), ("conversation", DESCENDING)]
        async with self._reading() as db:
            found = await db["conversations"].find(chosen).sort(newest_first).limit(limit + 1).to_list(None)
        items = [conversation_record(document) for document in found[:limit]]
        more = len(found) > limit
        return ConversationPage(items, f"{items[-1].updated_at}.{items[-1].conversation_id}" if more else None)

    async def set_member(self, tenant_id: str, conversation_id: str, user_id: str, role: Role | None) -> bool:
        key = {"_id": identity(tenant_id, conversation_id)}
        member = {"user": user_id, "role": role}
        # Change the role that is there, or else add one where there is none: each is one write, and one of them
        # finds its document unless somebody else gives or takes the role of the same user in between.
        changes: list[tuple[Document, Document]] = [
            ({**key, "members.user": user_id}, {"$set": {"members.$.role": role}}),
            ({**key, "members.user": {"$ne": user_id}}, {"$push": {"members": member}}),
        ]
        if role is None:
            changes = [(key, {"$pull": {"members": {"user": user_id}}})]
        async with self._writing() as (db, writing):
            for chosen, change in changes * _INSERT_TRIES:
                update = db["conversations"].update_one(chosen, change, session=writing.session)
                if (await writing.do(update)).matched_count:
                    return True
            return False

    async def set_context(
        self, tenant_id: str, conversation_id: str, record: ContextRecord, *, keys: int
    ) -> ContextRecord | None:
        home = {"_id": identity(tenant_id, conversation_id)}
        async with self._writing() as (db, writing):
            # The conversation's list of keys decides how many there may be.
            has_room = {"$or": [{"context_keys": record.key}, {f"context_keys.{keys - 1}": {"$exists": False}}]}
            add = {"$addToSet": {"context_keys": record.key}}
            added = db["conversations"].update_one({**home, **has_room}, add, session=writing.session)
            has_fitted = (await writing.do(added)).matched_count
            of = await db["conversations"].find_one(home, {"op": True}, session=writing.session)
            if of is None:
                return None
            if not has_fitted:
                raise ContextFull
            mine = {"_id": identity(tenant_id, conversation_id, of["op"], record.key)}
            document = context_document(tenant_id, conversation_id, of["op"], record)
            older = {**mine, "version": {"$lt": record.version}}
            with suppress(DuplicateKeyError):  # the one that is there is not older
                change = db["context"].update_one(older, {"$set": document}, upsert=True, session=writing.session)
                await writing.do(change)
            stands = await db["context"].find_one(mine, session=writing.session)
            if await db["conversations"].find_one({**home, **of}, {"_id": True}, session=writing.session) is None:
                await writing.do(db["context"].delete_one(mine, session=writing.session))
                return None
            return None if stands is None else context_record(stands)

    async def context(self, tenant_id: str, conversation_id: str) -> Sequence[ContextRecord]:
        home = {"_id": identity(tenant_id, conversation_id)}
        async with self._reading() as db:
            of = await db["conversations"].find_one(home, {"op": True, "context_keys": True})
            if of is None or "context_keys" not in of:
                return ()
            ids = [identity(tenant_id, conversation_id, of["op"], key) for key in sorted(of["context_keys"])]
            found = await db["context"].find({"_id": {"$in": ids}}).sort([("key", ASCENDING)]).to_list(None)
            return [context_record(document) for document in found]

    async def place_context(self, tenant_id: str, conversation_id: str, record: ContextRecord) -> None:
        assert record.place is not None, "it is what is to be kept"
        epoch, seq = record.place
        mine = {"tenant": tenant_id, "conversation": conversation_id, "key": record.key, "op": record.op}
        async with self._writing() as (db, writing):
            kept = db["context"].update_one(mine, {"$set": {"epoch": epoch, "seq": seq}}, session=writing.session)
            await writing.do(kept)

    async def delete_conversation(self, tenant_id: str, conversation_id: str) -> None:
        key = {"tenant": tenant_id, "conversation": conversation_id}
        async with self._writing() as (db, writing):
            for name in ("feedback", "requests", "context", "summaries", "traces"):
                await writing.do(db[name].delete_many(key, session=writing.session))
            last = {"_id": identity(tenant_id, conversation_id)}
            await writing.do(db["conversations"].delete_one(last, session=writing.session))
            # What was shared meanwhile; whoever shares something from now on finds no conversation and takes it back.
            for name in ("context", "summaries"):
                await writing.do(db[name].delete_many(key, session=writing.session))

    async def expire(self, before_ms: int, *, limit: int) -> Sequence[tuple[str, str]]:
        expired: list[tuple[str, str]] = []
        after: tuple[int, str, str] | None = None
        async with self._reading() as db:
            while len(expired) < limit:
                page = await _unchanged_since(db["conversations"], before_ms, after)
                keys = [(document["tenant"], document["conversation"]) for document in page]
                busy = await _with_open_requests(db["requests"], keys)
                expired += [key for key in keys if key not in busy]
                if len(page) < _EXPIRY_PAGE:
                    break
                after = (page[-1]["updated_at"], *keys[-1])
        return expired[:limit]

    # --- requests --------------------------------------------------------------------------------------

    async def insert_request(self, op: str, record: RequestRecord) -> tuple[RequestRecord, bool]:
        async with self._writing() as (db, writing):
            # Two claims, one before a loss of the log and one after it, may have been given one place.
            talk = {"tenant": record.tenant_id, "conversation": record.conversation_id}
            in_the_way = {**talk, "ordinal": {"$gte": record.ordinal}}
            stands = await _insert_once(writing, db["requests"], request_document(op, record), in_the_way)
            if stands["state"] == "open":  # else its conversation knows of it, see end_request
                await _move_on(writing, db["conversations"], stands, stands["created_at"])
            return request_record(stands), stands["op"] == op

    async def request(self, tenant_id: str, request_id: str) -> RequestRecord | None:
        async with self._reading() as db:
            found = await db["requests"].find_one({"_id": identity(tenant_id, request_id)})
            return None if found is None else request_record(found)

    async def request_of(self, tenant_id: str, message_id: str) -> RequestRecord | None:
        async with self._reading() as db:
            found = await db["requests"].find_one({"tenant": tenant_id, "message_ids": message_id})
            return None if found is None else request_record(found)

    async def note_effects(self, tenant_id: str, request_id: str, effects: int) -> None:
        async with self._writing() as (db, writing):
            chosen = {"_id": identity(tenant_id, request_id), **_OPEN}
            await writing.do(db["requests"].update_one(chosen, {"$max": {"effects": effects}}, session=writing.session))

    async def amend_answer(
        self, tenant_id: str, request_id: str, answer: Message, *, presented: int
    ) -> RequestRecord | None:
        key = {"_id": identity(tenant_id, request_id), "state": {"$ne": "open"}}
        chosen = {**key, "$or": [{"presented": {"$lt": presented}}, {"presented": {"$exists": False}}]}
        change = {"$set": {**answer_fields(answer), "presented": presented}}
        async with self._writing() as (db, writing):
            await writing.do(db["requests"].update_one(chosen, change, session=writing.session))
            found = await db["requests"].find_one(key, session=writing.session)
            if found is None:
                return None
            if found.get("presented") == presented:  # by this call, or by one that died before it came to this
                covering = _covering(tenant_id, found["conversation"], found["ordinal"])
                await writing.do(db["summaries"].delete_many(covering, session=writing.session))
            return request_record(found)

    async def take_request(self, tenant_id: str, request_id: str, fence: int) -> RequestRecord | None:
        key = {"_id": identity(tenant_id, request_id)}
        async with self._writing() as (db, writing):
            # Also where none is found: a majority must have agreed on what is seen then.
            leave = db["requests"].update_one({**key, **_OPEN}, {"$max": {"fence": fence}}, session=writing.session)
            await writing.do(leave)
            found = await db["requests"].find_one(key, session=writing.session)
            return None if found is None else request_record(found)

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
        key = {"_id": identity(tenant_id, request_id)}
        fields = ending_fields(ending, answer, run, ended_at)
        refusable = ending["outcome"] not in ENDINGS_OF_CANCELLED
        async with self._writing() as (db, writing):
            requests = db["requests"]
            found = await requests.find_one(key, session=writing.session)
            if refusable and found is not None and found["state"] == "open" and "cancel" in found:
                return request_record(found)
            # The ending comes last: once it stands nobody may come back to write what belongs to it.
            rows = [usage_document(tenant_id, request_id, row, billing, ended_at) for row in usage]
            await _insert_usage(writing, db["usage"], rows)
            if found is not None and found["state"] != "open":
                return request_record(found)
            if found is not None:
                await _move_on(writing, db["conversations"], found, ended_at)
            # Also where none was found: a majority must have agreed that there is none.
            chosen = {**key, **_OPEN, **(_UNMARKED if refusable else {})}
            change = {"$set": fields, "$unset": {"checkpoint": ""}}
            end = requests.update_one(chosen, change, session=writing.session)
            by_me = (await writing.do(end)).matched_count == 1
            is_known = found is not None and (refusable or "cancel" in found)  # else it may have been marked since
            if by_me and found is not None and is_known:  # nothing but its checkpoint can have changed since
                return request_record({**found, **fields, "checkpoint": None})
            stands = await requests.find_one(key, session=writing.session)
            return None if stands is None else request_record(stands)

    async def park_request(self, tenant_id: str, request_id: str, *, checkpoint: Mapping[str, Any] | None) -> bool:
        chosen = {"_id": identity(tenant_id, request_id), **_OPEN}
        change: Document = {"$unset": {"checkpoint": ""}}
        if checkpoint is not None:
            change = {"$set": {"checkpoint": orjson.dumps(checkpoint)}}
        async with self._writing() as (db, writing):
            update = db["requests"].update_one(chosen, change, session=writing.session)
            return bool((await writing.do(update)).matched_count)

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
        key = {"_id": identity(tenant_id, request_id)}
        mark = cancel_mark(by, reason)
        is_kept = False
        async with self._writing() as (db, writing):
            for _ in range(_CANCEL_TRIES):
                found = await _mark(writing, db["requests"], key, None if any_user else user_id, mark)
                if found is None and is_kept:
                    return None
                if found is None:
                    # Whoever inserts it from here on finds this; who did so before is found by the next look.
                    early = {"_id": identity(tenant_id, request_id, user_id)}
                    change = keeping_early(tenant_id, request_id, user_id, mark, at)
                    await _upsert(writing, db["early_cancels"], early, change)
                    is_kept = True
                elif found["user"] != user_id and not any_user:
                    return None
                elif found["state"] != "open" or "cancel" in found:
                    return request_record(found)
                # else it was inserted after it could not be marked
        raise ArchiveUnavailable("a request is there and is not; it was inserted and deleted again and again")

    async def recorded_cancel(
        self, tenant_id: str, request_id: str, user_id: str, *, since: int
    ) -> Mapping[str, Any] | None:
        chosen = {"_id": identity(tenant_id, request_id, user_id), "at": {"$gte": since}}
        async with self._reading() as db:
            found = await db["early_cancels"].find_one(chosen)
        return None if found is None else found["cancel"]

    async def forget_cancels(self, before: int) -> None:
        async with self._writing() as (db, writing):
            forget = db["early_cancels"].delete_many({"at": {"$lt": before}}, session=writing.session)
            await writing.do(forget)

    async def open_requests(
        self, tenant_id: str | None = None, *, limit: int, after: tuple[int, str, str] | None = None
    ) -> Sequence[RequestRecord]:
        theirs = {} if tenant_id is None else {"tenant": tenant_id}
        chosen = {**_OPEN, **theirs, **_beyond(("created_at", "tenant", "request"), after)}
        by_age = [("created_at", ASCENDING), ("tenant", ASCENDING), ("request", ASCENDING)]
        async with self._reading() as db:
            found = await db["requests"].find(chosen).sort(by_age).limit(limit).to_list(None)
        return [request_record(document) for document in found]

    async def jobs(
        self, tenant_id: str | None = None, *, states: Sequence[str] = (), since_ms: int = 0, limit: int
    ) -> Sequence[RequestRecord]:
        chosen: Document = {"background": True, "created_at": {"$gte": since_ms}}
        if tenant_id is not None:
            chosen["tenant"] = tenant_id
        if states:
            chosen["state"] = {"$in": list(states)}
        by_age = [("created_at", DESCENDING), ("tenant", DESCENDING), ("request", DESCENDING)]
        async with self._reading(self._report_s) as db:
            found = await db["requests"].find(chosen).sort(by_age).limit(limit).to_list(None)
        return [request_record(document) for document in found]

    async def due_reports(self, op: str, now_ms: int, *, pauses_ms: Sequence[int], limit: int) -> Sequence[DueReport]:
        async with self._writing() as (db, writing):
            return await claim_reports(writing, db["requests"], op, now_ms, pauses_ms, limit)

    async def reported(self, tenant_id: str, request_id: str) -> None:
        async with self._writing() as (db, writing):
            await reported(writing, db["requests"], tenant_id, request_id)

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
        key = {"tenant": tenant_id, "conversation": conversation_id}
        walk = BranchWalk(
            leaf, limit=limit, max_bytes=max_bytes, below=below, up_to_ordinal=up_to_ordinal, without=without
        )
        window = min(max(limit, _WINDOW_LEAST), _WINDOW_MOST)
        async with self._reading() as db:
            await _walk(db["requests"], key, walk, window)
            items = await _in_full(db["requests"], tenant_id, walk.chosen)
        # A message that has gone since it was chosen went with its conversation.
        return MessagePage([]) if items is None else MessagePage(items[::-1], walk.next)

    async def message(self, tenant_id: str, conversation_id: str, message_id: str) -> Message | None:
        key = {"tenant": tenant_id, "conversation": conversation_id, "message_ids": message_id}
        async with self._reading() as db:
            found = await db["requests"].find_one(key, {"input": True, "answer": True, "answer_id": True})
        return None if found is None else message_in(found, is_answer=found["answer_id"] == message_id)

    # --- tenants ---------------------------------------------------------------------------------------

    async def tenant(self, tenant_id: str) -> TenantRecord | None:
        async with self._reading() as db:
            return tenant_record(await db["tenants"].find_one({"_id": identity(tenant_id)}))

    async def tenants(self, tenant_ids: Sequence[str] | None = None) -> Sequence[TenantRecord]:
        chosen: Document = {"settings": {"$ne": None}}
        if tenant_ids is not None:
            chosen["_id"] = {"$in": [identity(tenant_id) for tenant_id in tenant_ids]}
        async with self._reading() as db:
            return tenant_records(await db["tenants"].find(chosen).sort([("tenant", ASCENDING)]).to_list(None))

    async def tenant_versions(self, tenant_ids: Sequence[str]) -> Mapping[str, int]:
        chosen = {"_id": {"$in": [identity(tenant_id) for tenant_id in tenant_ids]}, "version": {"$gt": 0}}
        async with self._reading() as db:
            found = await db["tenants"].find(chosen, {"tenant": True, "version": True}).to_list(None)
        return {document["tenant"]: document["version"] for document in found}

    async def put_tenant(
        self, tenant_id: str, settings: Mapping[str, Any] | None, *, replaces: int, entry: AuditEntry
    ) -> tuple[TenantRecord | None, bool]:
        async with self._writing() as (db, writing):
            return await put_tenant(writing, db, tenant_id, settings, replaces, entry)

    async def add_audit(self, entry: AuditEntry) -> AuditEntry:
        async with self._writing() as (db, writing):
            return await add_audit(writing, db["audit"], entry)

    async def audit(self, tenant_id: str | None = None, *, limit: int, before: str | None = None) -> AuditPage:
        mark = page_mark(before)
        async with self._reading() as db:
            return await audit(db, tenant_id, limit, mark)

    # --- prompts ---------------------------------------------------------------------------------------

    async def prompt(self, tenant_id: str, name: str) -> PromptRecord | None:
        async with self._reading() as db:
            return prompt_record(await db["prompts"].find_one({"_id": identity(tenant_id, name)}))

    async def prompts(self, tenant_id: str) -> Sequence[PromptRecord]:
        async with self._reading() as db:
            found = await db["prompts"].find({"tenant": tenant_id}).sort([("name", ASCENDING)]).to_list(None)
        return prompt_records(found)

    async def prompt_revisions(self, keys: Sequence[PromptKey]) -> Mapping[PromptKey, int]:
        async with self._reading() as db:
            return await prompt_revisions(db, keys)

    async def prompt_version(self, tenant_id: str, name: str, version: int) -> PromptVersion | None:
        async with self._reading() as db:
            return await prompt_version(db, tenant_id, name, version)

    async def prompt_versions(self, tenant_id: str, name: str) -> Sequence[PromptVersion]:
        async with self._reading() as db:
            return await prompt_versions(db, tenant_id, name)

    async def put_prompt(
        self, record: PromptRecord, *, entry: AuditEntry, new: PromptVersion | None = None
    ) -> tuple[PromptRecord | None, bool]:
        async with self._writing() as (db, writing):
            return await put_prompt(writing, db, record, entry, new)

    # --- summaries -------------------------------------------------------------------------------------

    async def summaries(self, tenant_id: str, conversation_id: str, *, limit: int) -> Sequence[SummaryRecord]:
        chosen = {"tenant": tenant_id, "conversation": conversation_id}
        furthest_first = [("up_to", DESCENDING), ("leaf", DESCENDING)]
        async with self._reading() as db:
            found = await db["summaries"].find(chosen).sort(furthest_first).limit(limit).to_list(None)
        return [summary_record(document) for document in found]

    async def put_summary(self, record: SummaryRecord) -> bool:
        home = {"_id": identity(record.tenant_id, record.conversation_id)}
        mine = {"_id": identity(record.tenant_id, record.conversation_id, record.leaf)}
        async with self._writing() as (db, writing):
            await writing.upsert(db["summaries"], mine, {"$set": summary_document(record)})
            # Whoever deletes the conversation from now on finds it.
            if await db["conversations"].find_one(home, {"_id": True}, session=writing.session) is not None:
                return True
            await writing.do(db["summaries"].delete_one(mine, session=writing.session))
            return False

    async def drop_summaries(self, tenant_id: str, conversation_id: str, from_ordinal: int) -> None:
        async with self._writing() as (db, writing):
            covering = _covering(tenant_id, conversation_id, from_ordinal)
            await writing.do(db["summaries"].delete_many(covering, session=writing.session))

    # --- the rest --------------------------------------------------------------------------------------

    async def usage(self, tenant_id: str, request_id: str) -> Sequence[UsageRow]:
        key = {"tenant": tenant_id, "request": request_id}
        async with self._reading() as db:
            found = await db["usage"].find(key).sort([("step", ASCENDING), ("attempt", ASCENDING)]).to_list(None)
        return [usage_row(document) for document in found]

    async def spent(self, tenant_id: str, since_ms: int) -> Decimal:
        async with self._reading() as db:
            return spent(await db["usage"].aggregate(spending(tenant_id, since_ms)).to_list(None))

    async def usage_sums(
        self,
        by: Sequence[Dimension],
        *,
        tenant_id: str | None = None,
        since_ms: int = 0,
        until_ms: int | None = None,
    ) -> Sequence[UsageSum]:
        async with self._reading(self._report_s) as db:
            groups = await db["usage"].aggregate(summing(by, tenant_id, since_ms, until_ms)).to_list(None)
        return sums_of(by, groups)

    async def add_feedback(
        self, tenant_id: str, request_id: str, user_id: str, *, rating: int | str, comment: str | None, at: int
    ) -> bool:
        key = {"_id": identity(tenant_id, request_id)}
        async with self._writing() as (db, writing):
            found = await db["requests"].find_one(key, {"conversation": True}, session=writing.session)
            if found is None:
                return False
            said = {
                "conversation": found["conversation"],
                "rating": orjson.dumps(rating),
                "comment": comment,
                "at": at,
            }
            his = {"tenant": tenant_id, "request": request_id, "user": user_id}
            await _upsert(writing, db["feedback"], his, {"$set": said})
            return True

    async def add_trace(self, tenant_id: str, request_id: str, fence: int, record: Mapping[str, Any]) -> bool:
        key = {"_id": identity(tenant_id, request_id)}
        theirs = {"tenant": tenant_id, "request": request_id}
        async with self._writing() as (db, writing):
            of = await db["requests"].find_one(key, {"conversation": True}, session=writing.session)
            if of is None:
                return False
            document = trace_document(tenant_id, request_id, of["conversation"], fence, record)
            others = {**theirs, "fence": {"$ne": fence}}
            if await db["traces"].count_documents(others, session=writing.session) >= MOST_RUNS_TRACED:
                return False
            await _insert_once(writing, db["traces"], document)
            if await db["requests"].find_one(key, {"_id": True}, session=writing.session) is None:
                # Its conversation was deleted meanwhile: nothing of it may stay.
                await writing.do(db["traces"].delete_one({"_id": document["_id"]}, session=writing.session))
                return False
            return True

    async def traces(self, tenant_id: str, request_id: str) -> Sequence[dict[str, Any]]:
        key = {"tenant": tenant_id, "request": request_id}
        async with self._reading() as db:
            return trace_records(await db["traces"].find(key).sort([("fence", ASCENDING)]).to_list(None))

    # --- calls -----------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _reading(self, timeout_s: float | None = None) -> AsyncIterator[AsyncIOMotorDatabase[Document]]:
        """A call that writes nothing, within its time. Raises `ArchiveUnavailable` for whatever goes wrong in it."""
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            with pymongo.timeout(limit_s), anyio.fail_after(limit_s + _GRACE_S):
                yield self._database()
        except (PyMongoError, TimeoutError) as error:
            raise ArchiveUnavailable(_why(error), unknown=False) from error

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[tuple[AsyncIOMotorDatabase[Document], _Writing]]:
        """A call that writes, within its time. Raises `ArchiveUnavailable` for whatever goes wrong in it."""
        writing: _Writing | None = None
        try:
            with pymongo.timeout(self._timeout_s), anyio.fail_after(self._timeout_s + _GRACE_S):
                db = self._database()
                async with await db.client.start_session(causal_consistency=True) as session:
                    writing = _Writing(session)
                    yield db, writing
        except (PyMongoError, TimeoutError) as error:
            unknown = writing is not None and writing.sent > 0
            raise ArchiveUnavailable(_why(error), unknown=unknown) from error

    # For what other layers keep in the same database.
    reading, writing = _reading, _writing

    def _database(self) -> AsyncIOMotorDatabase[Document]:
        if self._client is None:
            raise ArchiveUnavailable("the archive is closed", unknown=False)
        # Whatever the address says: these are what the contract stands on.
        return self._client.get_database(
            self._name,
            write_concern=WriteConcern(w="majority", j=True),
            read_concern=ReadConcern("majority"),
            read_preference=ReadPreference.PRIMARY,
        )


# --- writes ----------------------------------------------------------------------------------------------


async def _insert_once(
    writing: _Writing, collection: Collection, document: Document, in_the_way: Document | None = None
) -> Document:
    """Insert unless something with that ``_id`` is there; returns what stands.

    When it is another index that forbids it, that is the newest by ordinal of what is ``in_the_way``.
    """
    for _ in range(_INSERT_TRIES):
        try:
            await writing.do(collection.insert_one(document, session=writing.session))
        except DuplicateKeyError:
            found = await collection.find_one({"_id": document["_id"]}, session=writing.session)
            if found is None and in_the_way is not None:
                newest_first = [("ordinal", DESCENDING)]
                found = await collection.find_one(in_the_way, sort=newest_first, session=writing.session)
            if found is not None:
                return found
        else:
            return document
    raise ArchiveUnavailable("a document is there and is not; it was deleted again and again")


async def _upsert(writing: _Writing, collection: Collection, key: Document, change: Document) -> None:
    """Change the document with that key, which is made when it is absent."""
    for tries_left in reversed(range(_INSERT_TRIES)):
        try:
            await writing.do(collection.update_one(key, change, upsert=True, session=writing.session))
        except DuplicateKeyError:  # two made it at once
            if not tries_left:
                raise
        else:
            return


async def _mark(
    writing: _Writing, requests: Collection, key: Document, user_id: str | None, mark: Document
) -> Document | None:
    """Put the mark on an open request, of this user if one is named, that has none. Returns what is there then.

    The write comes first also where it may find nothing to do: a majority must have agreed on what is seen then.
    """
    theirs = {} if user_id is None else {"user": user_id}
    chosen = {**key, **_OPEN, **_UNMARKED, **theirs}
    await writing.do(requests.update_one(chosen, {"$set": {"cancel": mark}}, session=writing.session))
    return await requests.find_one(key, session=writing.session)


async def _move_on(writing: _Writing, conversations: Collection, request: Mapping[str, Any], at: int) -> None:
    """Tell the conversation of its request. One that is absent, because it was deleted, stays absent."""
    key = {"_id": identity(request["tenant"], request["conversation"])}
    await writing.do(conversations.update_one(key, moving_on(request, at), session=writing.session))


async def _insert_usage(writing: _Writing, ledger: Collection, rows: list[Document]) -> None:
    """Insert the rows that are not there yet."""
    if not rows:
        return
    try:
        await writing.do(ledger.insert_many(rows, ordered=False, session=writing.session))
    except BulkWriteError as error:
        failed = error.details.get("writeErrors", ())
        if error.details.get("writeConcernErrors") or any(one.get("code") != _DUPLICATE for one in failed):
            raise


# --- looks -----------------------------------------------------------------------------------------------


def _covering(tenant_id: str, conversation_id: str, from_ordinal: int) -> Document:
    """Summaries that cover turns of this ordinal or a later one."""
    return {"tenant": tenant_id, "conversation": conversation_id, "up_to": {"$gte": from_ordinal}}


def _all_of(*conditions: Document) -> Document:
    """What meets all of them; an empty one admits everything."""
    said = [condition for condition in conditions if condition]
    return said[0] if len(said) == 1 else {"$and": said}


def _visible_to(user_id: str | None) -> Document:
    if user_id is None:
        return {}
    return {"$or": [{"owner": user_id}, {"visibility": "tenant"}, {"members.user": user_id}]}


def _older_than(before: str | None) -> Document:
    """What comes after a page's ``next``. Raises ValueError when it is none."""
    if before is None:
        return {}
    at, dot, conversation_id = before.partition(".")
    if not (dot and at.isascii() and at.isdigit() and conversation_id):
        raise ValueError("not the `next` of an earlier page")
    same_time = {"updated_at": int(at), "conversation": {"$lt": conversation_id}}
    return {"updated_at": {"$lte": int(at)}, "$or": [{"updated_at": {"$lt": int(at)}}, same_time]}


def _beyond(fields: tuple[str, str, str], after: tuple[int, str, str] | None) -> Document:
    """What follows ``after`` in the ascending order of the fields; the first bound is for the index."""
    if after is None:
        return {}
    first, second, third = fields
    return {
        first: {"$gte": after[0]},
        "$or": [
            {first: {"$gt": after[0]}},
            {first: after[0], second: {"$gt": after[1]}},
            {first: after[0], second: after[1], third: {"$gt": after[2]}},
        ],
    }


async def _unchanged_since(
    conversations: Collection, before_ms: int, after: tuple[int, str, str] | None
) -> list[Document]:
    order = ("updated_at", "tenant", "conversation")
    chosen = _all_of({"updated_at": {"$lt": before_ms}}, _beyond(order, after))
    by_age = [(field, ASCENDING) for field in order]
    found = conversations.find(chosen, dict.fromkeys(order, True)).sort(by_age).limit(_EXPIRY_PAGE)
    return await found.to_list(None)


async def _with_open_requests(requests: Collection, keys: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
    """Which of these conversations have a request that has not ended."""
    if not keys:
        return set()
    by_tenant: dict[str, list[str]] = {}
    for tenant, conversation in keys:
        by_tenant.setdefault(tenant, []).append(conversation)
    theirs = [{"tenant": tenant, "conversation": {"$in": names}} for tenant, names in by_tenant.items()]
    found = await requests.find({**_OPEN, "$or": theirs}, {"tenant": True, "conversation": True}).to_list(None)
    return {(document["tenant"], document["conversation"]) for document in found}


async def _walk(requests: Collection, key: Document, walk: BranchWalk, window: int) -> None:
    """Show the walk what it asks for, each time with the turns just below, among which most of the rest will be."""
    while (wanted := walk.advance()) is not None:
        found = await requests.find_one({**key, "message_ids": wanted}, OUTLINE)
        if found is None:
            if walk.ordinal is None:
                return
            found = await requests.find_one(
                {**key, "ordinal": {"$lt": walk.ordinal}}, OUTLINE, sort=[("ordinal", DESCENDING)]
            )
            if found is None:
                return
            walk.go_on_at(found["answer_id"])
        below = {"$gte": found["ordinal"] - window, "$lt": found["ordinal"]}
        neighbours = await requests.find({**key, "ordinal": below}, OUTLINE).to_list(None)
        walk.add(outline(document) for document in (*neighbours, found))


async def _in_full(requests: Collection, tenant_id: str, chosen: Sequence[Chosen]) -> list[Message] | None:
    """The chosen messages in their order, or None when one of them is not there any more."""
    if not chosen:
        return []
    ids = list({identity(tenant_id, message.request_id) for message in chosen})
    fields = {"request": True, "input": True, "answer": True}
    found = await requests.find({"_id": {"$in": ids}}, fields).to_list(None)
    by_id = {document["request"]: document for document in found}
    items = [message_in(by_id.get(message.request_id, {}), is_answer=message.is_answer) for message in chosen]
    whole = [message for message in items if message is not None]
    return whole if len(whole) == len(items) else None


def _why(error: Exception) -> str:
    """What went wrong, in words that hold neither an address's password nor anybody's data."""
    match error:
        case TimeoutError():
            return "MongoDB did not answer in time"
        case ServerSelectionTimeoutError():
            return "MongoDB cannot be reached, or has no primary"
        case OperationFailure():
            return f"MongoDB refused: {(error.details or {}).get('codeName') or error.code or type(error).__name__}"
        case _:
            return f"MongoDB did not answer: {type(error).__name__}"
