"""Reading the whole archive after a round, past the server's own code: what is really stored, twice if it is."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pymongo
from tests.chaos.records import Archived, ArchivedRequest, Message, UsageLine

_USAGE = ("request", "step", "attempt", "outcome", "input_tokens", "output_tokens", "cost_usd", "source")


def read_sqlite(data_dir: Path) -> Archived:
    """The embedded archive. No server may have it open."""
    db = sqlite3.connect(data_dir / "turnwire.db")
    db.row_factory = sqlite3.Row
    try:
        documents = {row["message"]: row["doc"] for row in db.execute("SELECT message, doc FROM messages")}
        requests = [
            ArchivedRequest(
                request_id=row["request"],
                conversation_id=row["conversation"],
                state=row["state"],
                run=row["run"],
                input=_loaded(documents[row["input_id"]]) or {},
                answer=_loaded(documents[row["answer_id"]]),
                outcome=_outcome(_loaded(row["ending"])),
            )
            for row in db.execute("SELECT * FROM requests ORDER BY conversation, ordinal")
        ]
        usage = [_usage(row) for row in db.execute(f"SELECT {', '.join(_USAGE)} FROM usage")]
    finally:
        db.close()
    return Archived(requests, usage)


def read_mongo(url: str, database: str) -> Archived:
    """The clustered archive."""
    with pymongo.MongoClient[dict[str, Any]](url, serverSelectionTimeoutMS=5000) as client:
        db = client[database]
        requests = [
            ArchivedRequest(
                request_id=document["request"],
                conversation_id=document["conversation"],
                state=document["state"],
                run=document["run"],
                input=_loaded(document["input"]) or {},
                answer=_loaded(document.get("answer")),
                outcome=_outcome(_loaded(document.get("ending"))),
            )
            for document in db["requests"].find().sort([("conversation", 1), ("ordinal", 1)])
        ]
        usage = [_usage(document) for document in db["usage"].find()]
    return Archived(requests, usage)


def _usage(row: Mapping[str, Any] | sqlite3.Row) -> UsageLine:
    return UsageLine(**{"request_id" if name == "request" else name: row[name] for name in _USAGE})


def _loaded(encoded: bytes | str | None) -> Message | None:
    return None if encoded is None else orjson.loads(encoded)


def _outcome(ending: Message | None) -> str | None:
    return None if ending is None else ending["outcome"]
