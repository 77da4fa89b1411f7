"""Tenants and the audit log as BSON documents, and the steps on them; the driver stays in `mongo`.

A change of a tenant and its entry in the audit log are one write: the entry stands in the tenant's document, untold,
until it is in the log as well. Whoever changes the tenant next brings it there first, and who reads the log looks at
both, so a death in between leaves nothing to be seen.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import orjson

from .base import ArchiveUnavailable
from .mongo_documents import Document, identity
from .tenants import AuditEntry, AuditPage, TenantRecord, page_of

T = TypeVar("T")

# One that changes, one that looks what has become of it, and some for others who come in between.
_TRIES = 5
UNTOLD: Document = {"untold": {"$exists": True}}
WITH_ENTRIES = ("tenants", "prompts")
"""Collections whose documents may have entries that are untold."""


class Writing(Protocol):
    """What `mongo` gives to a call that writes."""

    session: Any

    async def do(self, write: Awaitable[T]) -> T: ...

    async def upsert(self, collection: Any, key: Document, change: Document) -> None: ...


async def put_tenant(
    writing: Writing,
    db: Any,
    tenant_id: str,
    settings: Mapping[str, Any] | None,
    replaces: int,
    entry: AuditEntry,
) -> tuple[TenantRecord | None, bool]:
    """See `TenantArchive.put_tenant`."""
    key = {"_id": identity(tenant_id)}
    blank = {"tenant": tenant_id, "version": 0, "settings": None, "changed_at": entry.at, "changed_by": entry.actor}
    change = {
        "version": replaces + 1,
        "settings": None if settings is None else orjson.dumps(settings),
        "changed_at": entry.at,
        "changed_by": entry.actor,
        "untold": entry_document(entry),
    }
    stands, done = await put_with_entry(
        writing, db, db["tenants"], key, blank, {"$set": change}, replaces=replaces, op=entry.op
    )
    return tenant_record(stands), done


async def put_with_entry(
    writing: Writing,
    db: Any,
    collection: Any,
    key: Document,
    blank: Document,
    change: Document,
    *,
    replaces: int,
    op: str,
) -> tuple[Document | None, bool]:
    """Make a change, which has an entry for the audit log ``untold`` in it, of the document whose ``version`` is
    ``replaces``. ``blank`` is what stands, as version 0, before the first. Returns what stands, and whether it was
    done."""
    await writing.upsert(collection, key, {"$setOnInsert": blank})
    for _ in range(_TRIES):
        stands = await collection.find_one(key, session=writing.session)
        if stands is not None and "untold" in stands:
            await _tell(writing, db, collection, key, stands["untold"])
        if await db["audit"].find_one({"_id": op}, {"_id": True}, session=writing.session) is not None:
            return stands, True
        if stands is None or stands["version"] != replaces:
            return stands, False
        # The entry of the version that is replaced has just been told.
        replacing = {**key, "version": replaces}
        await writing.do(collection.update_one(replacing, change, session=writing.session))
    raise ArchiveUnavailable("a document is changed by others again and again")


async def _tell(writing: Writing, db: Any, collection: Any, key: Document, untold: Document) -> None:
    await writing.upsert(db["audit"], {"_id": untold["op"]}, {"$setOnInsert": untold})
    told = {**key, "untold.op": untold["op"]}
    await writing.do(collection.update_one(told, {"$unset": {"untold": ""}}, session=writing.session))


async def add_audit(writing: Writing, log: Any, entry: AuditEntry) -> AuditEntry:
    """See `TenantArchive.add_audit`."""
    key = {"_id": entry.op}
    await writing.upsert(log, key, {"$setOnInsert": entry_document(entry)})
    return audit_entry(await log.find_one(key, session=writing.session))


async def audit(db: Any, tenant_id: str | None, limit: int, before: tuple[int, str] | None) -> AuditPage:
    """See `TenantArchive.audit`."""
    theirs: Document = {} if tenant_id is None else {"tenant": tenant_id}
    # First what is untold: an entry that is told in between is then found twice rather than not at all.
    untold = [
        document
        for name in WITH_ENTRIES
        for document in await db[name].find({**UNTOLD, **theirs}, {"untold": True}).to_list(None)
    ]
    older: Document = {}
    if before is not None:
        at, op = before
        older = {"$or": [{"at": {"$lt": at}}, {"at": at, "op": {"$lt": op}}]}
    chosen = {"$and": [theirs, older]} if theirs and older else theirs or older
    told = await db["audit"].find(chosen).sort([("at", -1), ("op", -1)]).limit(limit + 1).to_list(None)
    known = {document["op"]: audit_entry(document) for document in (*(one["untold"] for one in untold), *told)}
    items = [entry for entry in known.values() if before is None or (entry.at, entry.op) < before]
    return page_of(sorted(items, key=lambda entry: (entry.at, entry.op), reverse=True), limit)


def tenant_record(document: Mapping[str, Any] | None) -> TenantRecord | None:
    """None also for a document that was made for a change which did not come."""
    if document is None or not document["version"]:
        return None
    return TenantRecord(
        tenant_id=document["tenant"],
        version=document["version"],
        settings=None if document["settings"] is None else orjson.loads(document["settings"]),
        changed_at=document["changed_at"],
        changed_by=document["changed_by"],
    )


def tenant_records(documents: Sequence[Mapping[str, Any]]) -> list[TenantRecord]:
    return [record for record in map(tenant_record, documents) if record is not None]


def entry_document(entry: AuditEntry) -> Document:
    """``op`` is a field as well: entries are sorted by it, also where they have not got an ``_id`` yet."""
    return {
        "op": entry.op,
        "at": entry.at,
        "actor": entry.actor,
        "act": entry.act,
        "tenant": entry.tenant_id,
        "details": orjson.dumps(entry.details),
    }


def audit_entry(document: Mapping[str, Any]) -> AuditEntry:
    return AuditEntry(
        op=document["op"],
        at=document["at"],
        actor=document["actor"],
        act=document["act"],
        tenant_id=document["tenant"],
        details=orjson.loads(document["details"]),
    )
