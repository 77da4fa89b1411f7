"""The ledger as BSON documents, and what MongoDB is asked about it: pure, like `mongo_documents`.

MongoDB groups rows of equal cost and `sums` adds up: its own decimals are rounded to 34 digits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from .base import UsageRow
from .mongo_documents import Document
from .sums import sum_usd


def usage_document(
    tenant_id: str, request_id: str, row: UsageRow, request: Mapping[str, Any] | None, at: int
) -> Document:
    """A row of the ledger with whose it is, as far as that is known."""
    owner = request or {}
    return {
        "tenant": tenant_id,
        "request": request_id,
        **{name: getattr(row, name) for name in UsageRow.__slots__},
        "user": owner.get("user"),
        "conversation": owner.get("conversation"),
        "at": at,
    }


def usage_row(document: Mapping[str, Any]) -> UsageRow:
    return UsageRow(**{name: document[name] for name in UsageRow.__slots__})


def spending(tenant_id: str, since_ms: int) -> list[Document]:
    """The pipeline whose answer `spent` reads; an index has all that it looks at."""
    chosen = {"tenant": tenant_id, "at": {"$gte": since_ms}}
    return [{"$match": chosen}, {"$group": {"_id": "$cost_usd", "count": {"$sum": 1}}}]


def spent(groups: Iterable[Mapping[str, Any]]) -> Decimal:
    return sum_usd((group["_id"], group["count"]) for group in groups)
