"""Summaries as BSON documents; the driver stays in `mongo`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .mongo_documents import Document
from .summaries import SummaryRecord


def summary_document(record: SummaryRecord) -> Document:
    return {
        "tenant": record.tenant_id,
        "conversation": record.conversation_id,
        "leaf": record.leaf,
        "up_to": record.up_to,
        "version": record.version,
        "text": record.text,
        "created_at": record.created_at,
    }


def summary_record(document: Mapping[str, Any]) -> SummaryRecord:
    return SummaryRecord(
        tenant_id=document["tenant"],
        conversation_id=document["conversation"],
        leaf=document["leaf"],
        up_to=document["up_to"],
        version=document["version"],
        text=document["text"],
        created_at=document["created_at"],
    )
