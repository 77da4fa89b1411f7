"""Prompts as BSON documents, and the steps on them; the driver stays in `mongo`.

A change is one write, of the prompt's document, with its entry in the audit log untold in it, as a tenant's is. The
text of a new version is written before that, under the name of its operation, and the prompt's document lists these
names in the order of the versions: what nobody lists is not there, so a refused or broken operation leaves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from .mongo_documents import Document, identity
from .mongo_tenants import Writing, entry_document, put_with_entry
from .prompts import PromptKey, PromptRecord, PromptVersion
from .tenants import AuditEntry


async def put_prompt(
    writing: Writing, db: Any, record: PromptRecord, entry: AuditEntry, new: PromptVersion | None
) -> tuple[PromptRecord | None, bool]:
    """See `PromptArchive.put_prompt`."""
    key = {"_id": identity(record.tenant_id, record.name)}
    if new is not None:
        text = {"_id": identity(record.tenant_id, record.name, entry.op)}
        await writing.upsert(db["prompt_versions"], text, {"$setOnInsert": _version_document(new)})
    blank = {"tenant": record.tenant_id, "name": record.name, "version": 0, "texts": []}
    fields = {
        "version": record.revision,
        "released": record.released,
        "candidate": record.candidate,
        "share": record.share,
        "changed_at": record.changed_at,
        "changed_by": record.changed_by,
        "untold": entry_document(entry),
    }
    change: Document = {"$set": fields}
    if new is not None:
        change["$push"] = {"texts": entry.op}
    stands, done = await put_with_entry(
        writing, db, db["prompts"], key, blank, change, replaces=record.revision - 1, op=entry.op
    )
    return prompt_record(stands), done


async def prompt_revisions(db: Any, keys: Sequence[PromptKey]) -> dict[PromptKey, int]:
    chosen = {"_id": {"$in": [identity(*key) for key in keys]}, "version": {"$gt": 0}}
    found = await db["prompts"].find(chosen, {"tenant": True, "name": True, "version": True}).to_list(None)
    return {(document["tenant"], document["name"]): document["version"] for document in found}


async def prompt_version(db: Any, tenant_id: str, name: str, version: int) -> PromptVersion | None:
    prompt = await db["prompts"].find_one({"_id": identity(tenant_id, name)}, {"texts": True})
    texts = () if prompt is None else prompt["texts"]
    if not 1 <= version <= len(texts):
        return None
    found = await db["prompt_versions"].find_one({"_id": identity(tenant_id, name, texts[version - 1])})
    return None if found is None else _version_record(found)


async def prompt_versions(db: Any, tenant_id: str, name: str) -> list[PromptVersion]:
    prompt = await db["prompts"].find_one({"_id": identity(tenant_id, name)}, {"texts": True})
    ids = [] if prompt is None else [identity(tenant_id, name, op) for op in prompt["texts"]]
    found = await db["prompt_versions"].find({"_id": {"$in": ids}}).to_list(None)
    return sorted(map(_version_record, found), key=lambda version: version.version)


def prompt_record(document: Mapping[str, Any] | None) -> PromptRecord | None:
    """None also for a document that was made for a change which did not come."""
    if document is None or not document["version"]:
        return None
    return PromptRecord(
        tenant_id=document["tenant"],
        name=document["name"],
        revision=document["version"],
        versions=len(document["texts"]),
        released=document["released"],
        candidate=document["candidate"],
        share=document["share"],
        changed_at=document["changed_at"],
        changed_by=document["changed_by"],
    )


def prompt_records(documents: Sequence[Mapping[str, Any]]) -> list[PromptRecord]:
    return [record for record in map(prompt_record, documents) if record is not None]


def _version_document(new: PromptVersion) -> Document:
    return {
        "tenant": new.tenant_id,
        "name": new.name,
        "version": new.version,
        "text": new.text,
        "variables": orjson.dumps(new.variables),
        "note": new.note,
        "created_at": new.created_at,
        "created_by": new.created_by,
    }


def _version_record(document: Mapping[str, Any]) -> PromptVersion:
    return PromptVersion(
        tenant_id=document["tenant"],
        name=document["name"],
        version=document["version"],
        text=document["text"],
        variables=orjson.loads(document["variables"]),
        note=document["note"],
        created_at=document["created_at"],
        created_by=document["created_by"],
    )
