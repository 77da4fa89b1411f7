"""Requests whose end has yet to be reported: fields of their documents, and the steps on them; the driver stays in
`mongo`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .base import DueReport
from .mongo_documents import Document, identity, request_record
from .mongo_tenants import Writing


async def claim_reports(
    writing: Writing, requests: Any, op: str, now_ms: int, pauses_ms: Sequence[int], limit: int
) -> list[DueReport]:
    """See `Archive.due_reports`."""
    mine: Document = {"reports": True, "report_op": op}
    if await requests.find_one(mine, {"_id": True}, session=writing.session) is None:
        due = {
            "reports": True,
            "report_at": {"$lte": now_ms},
            "report_tries": {"$lt": len(pauses_ms)},
            "state": {"$ne": "open"},
        }
        fields = {"report_at": True, "report_tries": True}
        looked = requests.find(due, fields, session=writing.session).sort([("report_at", 1)]).limit(limit)
        for found in await looked.to_list(None):
            again = now_ms + pauses_ms[found["report_tries"]]
            change = {"$set": {"report_at": again, "report_op": op}, "$inc": {"report_tries": 1}}
            # Unless another node has been quicker.
            seen = {"_id": found["_id"], "reports": True, "report_at": found["report_at"]}
            await writing.do(requests.update_one(seen, change, session=writing.session))
    taken = await requests.find(mine, session=writing.session).to_list(None)
    return [DueReport(request_record(document), document["report_tries"]) for document in taken]


async def reported(writing: Writing, requests: Any, tenant_id: str, request_id: str) -> None:
    """See `Archive.reported`."""
    gone = {"$unset": {"reports": "", "report_at": "", "report_op": "", "report_tries": ""}}
    chosen = {"_id": identity(tenant_id, request_id)}
    await writing.do(requests.update_one(chosen, gone, session=writing.session))
