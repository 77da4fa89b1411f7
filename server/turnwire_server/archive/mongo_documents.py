"""Records of the port as BSON documents and back: pure, so that `mongo` holds the driver and nothing else does.

What is looked up by has fields of its own. Everything free in form (specs, messages, endings, metadata, checkpoints)
is JSON in bytes: its keys may hold dots, dollars or nothing at all, which BSON and update operators give a meaning.

Conversations, requests and early cancels are found by their ``_id``, made of the tenant's and their own. That index
is there anyway and unique: it is what decides that something is inserted once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from turnwire_protocol import Message, message_from_wire, to_wire

from .base import ContextRecord, ConversationRecord, RequestRecord
from .mongo_branches import Outline

Document = dict[str, Any]

_OUTLINED = ("request", "ordinal", "parent", "input_id", "answer_id", "input_bytes", "answer_bytes")
OUTLINE = {**dict.fromkeys(_OUTLINED, True), "_id": False}
"""The projection that `outline` reads."""


def identity(tenant_id: str, *names: str) -> str:
    """The ``_id`` of what the names mean to a tenant: as JSON, since two texts must never run into each other."""
    return orjson.dumps([tenant_id, *names]).decode()


def encode(message: Message) -> bytes:
    return orjson.dumps(to_wire(message))


def conversation_document(op: str, record: ConversationRecord) -> Document:
    """A new conversation, without members and requests. Members are a list because names make no keys."""
    return {
        "_id": identity(record.tenant_id, record.conversation_id),
        "tenant": record.tenant_id,
        "conversation": record.conversation_id,
        "owner": record.owner_id,
        "visibility": record.visibility,
        "title": record.title,
        "metadata": _dumped(record.metadata),
        "created_at": record.created_at,
        "updated_at": record.updated_at,
        "members": [],
        "ordinal": 0,
        "head": None,
        "op": op,
    }


def conversation_record(document: Mapping[str, Any]) -> ConversationRecord:
    return ConversationRecord(
        tenant_id=document["tenant"],
        conversation_id=document["conversation"],
        owner_id=document["owner"],
        visibility=document["visibility"],
        created_at=document["created_at"],
        updated_at=document["updated_at"],
        title=document["title"],
        metadata=_loaded(document["metadata"]),
        members={member["user"]: member["role"] for member in document["members"]},
        ordinal=document["ordinal"],
        head=document["head"],
    )


def context_document(tenant_id: str, conversation_id: str, of: str, record: ContextRecord) -> Document:
    """A key of shared context. ``of`` is the operation that made its conversation: one that takes the name later has
    nothing of it."""
    return {
        "tenant": tenant_id,
        "conversation": conversation_id,
        "of": of,
        "key": record.key,
        "version": record.version,
        "value": orjson.dumps(record.value),
        "by": record.by,
        "op": record.op,
        "epoch": None if record.place is None else record.place[0],
        "seq": None if record.place is None else record.place[1],
    }


def context_record(document: Mapping[str, Any]) -> ContextRecord:
    epoch = document["epoch"]
    return ContextRecord(
        key=document["key"],
        version=document["version"],
        value=orjson.loads(document["value"]),
        by=document["by"],
        op=document["op"],
        place=None if epoch is None else (epoch, document["seq"]),
    )


def request_document(op: str, record: RequestRecord) -> Document:
    """A new request with its input: the one document that decides. What follows from it is written after it."""
    user_message = encode(record.input)
    return {
        **({"background": True} if record.spec.get("background") else {}),
        **(
            {"reports": True, "report_at": 0, "report_op": "", "report_tries": 0} if record.spec.get("reported") else {}
        ),
        "_id": identity(record.tenant_id, record.request_id),
        "tenant": record.tenant_id,
        "request": record.request_id,
        "conversation": record.conversation_id,
        "user": record.user_id,
        "fingerprint": record.fingerprint,
        "ordinal": record.ordinal,
        "spec": orjson.dumps(record.spec),
        "parent": record.input.parent_id,
        "input_id": record.input.message_id,
        "answer_id": record.answer_id,
        "message_ids": [record.input.message_id, record.answer_id],
        "input": user_message,
        "input_bytes": len(user_message),
        "created_at": record.created_at,
        "title": record.title,
        "state": "open",
        "run": record.run,
        "fence": record.fence,
        "op": op,
    }


def request_record(document: Mapping[str, Any]) -> RequestRecord:
    return RequestRecord(
        tenant_id=document["tenant"],
        request_id=document["request"],
        conversation_id=document["conversation"],
        user_id=document["user"],
        fingerprint=document["fingerprint"],
        ordinal=document["ordinal"],
        spec=orjson.loads(document["spec"]),
        input=message_from_wire(orjson.loads(document["input"])),
        answer_id=document["answer_id"],
        created_at=document["created_at"],
        state=document["state"],
        run=document["run"],
        ended_at=document.get("ended_at"),
        ending=_loaded(document.get("ending")),
        answer=message_in(document, is_answer=True),
        checkpoint=_loaded(document.get("checkpoint")),
        cancel=document.get("cancel"),
        presented=document.get("presented", 0),
        effects=document.get("effects", 0),
        fence=document.get("fence", 0),
    )


def ending_fields(ending: Mapping[str, Any], answer: Message | None, run: int, ended_at: int) -> Document:
    """What an ending sets in the request's document."""
    fields: Document = {
        "state": ending["outcome"],
        "ending": orjson.dumps(ending),
        "run": run,
        "ended_at": ended_at,
    }
    return fields if answer is None else {**fields, **answer_fields(answer)}


def answer_fields(answer: Message) -> Document:
    """What a stored answer sets in the request's document."""
    encoded = encode(answer)
    return {"answer": encoded, "answer_bytes": len(encoded)}


def moving_on(request: Mapping[str, Any], at: int) -> list[Document]:
    """The update that tells a conversation of one of its requests; done again, or late, it changes nothing more."""
    is_newest = {"$lte": ["$ordinal", request["ordinal"]]}
    return [
        {
            "$set": {
                "updated_at": {"$max": ["$updated_at", at]},
                # Texts of people must not be taken for expressions: hence $literal.
                "title": {"$ifNull": ["$title", {"$literal": request["title"]}]},
                "head": {"$cond": [is_newest, {"$literal": request["answer_id"]}, "$head"]},
                "ordinal": {"$max": ["$ordinal", request["ordinal"]]},
            }
        }
    ]


def cancel_mark(by: str, reason: str | None) -> Document:
    """What stands in a request's document, or in that of an early cancel, as ``cancel``."""
    return {"by": by, "reason": reason}


def keeping_early(tenant_id: str, request_id: str, user_id: str, mark: Document, at: int) -> Document:
    """The upsert of a cancel whose request is not there; done again it changes at most its age."""
    first = {"tenant": tenant_id, "request": request_id, "user": user_id, "cancel": mark}
    return {"$setOnInsert": first, "$max": {"at": at}}


def outline(document: Mapping[str, Any]) -> Outline:
    return Outline(
        request_id=document["request"],
        ordinal=document["ordinal"],
        parent=document["parent"],
        input_id=document["input_id"],
        answer_id=document["answer_id"],
        input_bytes=document["input_bytes"],
        answer_bytes=document.get("answer_bytes"),
    )


def message_in(document: Mapping[str, Any], *, is_answer: bool) -> Message | None:
    """The answer or the input of a request; None for an answer that does not stand yet."""
    encoded = document.get("answer" if is_answer else "input")
    return None if encoded is None else message_from_wire(orjson.loads(encoded))


def _dumped(value: Mapping[str, Any] | None) -> bytes | None:
    return None if value is None else orjson.dumps(value)


def _loaded(encoded: bytes | None) -> Any:
    return None if encoded is None else orjson.loads(encoded)
