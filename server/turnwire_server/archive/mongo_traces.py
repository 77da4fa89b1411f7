"""Traces as BSON documents: pure. The record is JSON in bytes, since names of attributes hold dots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from .mongo_documents import Document, identity


def trace_document(
    tenant_id: str, request_id: str, conversation_id: str, fence: int, record: Mapping[str, Any]
) -> Document:
    return {
        "_id": identity(tenant_id, request_id, str(fence)),
        "tenant": tenant_id,
        "request": request_id,
        "conversation": conversation_id,
        "fence": fence,
        "record": orjson.dumps(record),
    }


def trace_records(documents: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [orjson.loads(document["record"]) for document in documents]
