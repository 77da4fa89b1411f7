"""The ledger as BSON documents, and what MongoDB is asked about it: pure, like `mongo_documents`.

MongoDB groups rows of equal cost and `sums` adds up: its own decimals are rounded to 34 digits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from .base import Billing, UsageRow
from .mongo_documents import Document
from .sums import DAY_MS, DIMENSIONS, Dimension, UsageSum, combined, cost_of, sum_usd

_FIELDS: dict[str, Any] = {dimension: f"${dimension}" for dimension in DIMENSIONS}
_FIELDS["day"] = {"$subtract": ["$at", {"$mod": ["$at", DAY_MS]}]}


def usage_document(tenant_id: str, request_id: str, row: UsageRow, billing: Billing, at: int) -> Document:
    """A row of the ledger with what it is summed by."""
    return {
        "tenant": tenant_id,
        "request": request_id,
        **{name: getattr(row, name) for name in UsageRow.__slots__},
        "user": billing.user_id,
        "conversation": billing.conversation_id,
        "route": billing.route,
        "feature": billing.feature,
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


def summing(by: Sequence[Dimension], tenant_id: str | None, since_ms: int, until_ms: int | None) -> list[Document]:
    """The pipeline whose answer `sums_of` reads."""
    chosen: Document = {} if tenant_id is None else {"tenant": tenant_id}
    chosen["at"] = {"$gte": since_ms} if until_ms is None else {"$gte": since_ms, "$lt": until_ms}
    key: Document = {dimension: _FIELDS[dimension] for dimension in by}
    key["cost_usd"] = "$cost_usd"
    tokens = {name: {"$sum": f"${name}"} for name in ("input_tokens", "output_tokens", "cached_tokens")}
    estimated = {"$sum": {"$cond": [{"$eq": ["$source", "estimated"]}, 1, 0]}}
    return [{"$match": chosen}, {"$group": {"_id": key, "attempts": {"$sum": 1}, "estimated": estimated, **tokens}}]


def sums_of(by: Sequence[Dimension], groups: Iterable[Mapping[str, Any]]) -> list[UsageSum]:
    """See `Archive.usage_sums`. Rows of earlier versions lack some of the fields."""
    return combined(
        by,
        (
            UsageSum(
                key=tuple(group["_id"].get(dimension) for dimension in by),
                attempts=group["attempts"],
                estimated=group["estimated"],
                input_tokens=group["input_tokens"],
                output_tokens=group["output_tokens"],
                cached_tokens=group["cached_tokens"],
                cost_usd=cost_of(group["_id"]["cost_usd"], group["attempts"]),
            )
            for group in groups
        ),
    )
