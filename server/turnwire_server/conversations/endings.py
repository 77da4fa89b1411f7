"""How turns end: from what happened to the outcome that is sealed, the last events, the stored answer. Pure.

An ending is decided once, stored with the seal as JSON, and then carried out by whoever gets to it, here or after a
crash; so everything that follows the seal is made from that JSON alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from turnwire_protocol import (
    Message,
    RequestEvent,
    TerminalEvent,
    event_from_wire,
    message_from_wire,
    text_length,
    to_wire,
)
from turnwire_server.archive.base import UsageRow

_OUTCOMES = {
    "completed": ("message.completed", "complete"),
    "cancelled": ("message.cancelled", "cancelled"),
    "incomplete": ("message.incomplete", "incomplete"),
    "failed": ("message.failed", "failed"),
}


@dataclass(frozen=True, slots=True)
class Draft:
    """How a turn would end: the outcome and the fields of its terminal event besides the message."""

    outcome: str
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> Any:
        return _OUTCOMES[self.outcome][1]


def completed(finish_reason: str) -> Draft:
    return Draft("completed", {"finish_reason": finish_reason})


def cancelled(by: str, reason: str | None) -> Draft:
    return Draft("cancelled", {"by": by, **({"reason": reason} if reason else {})})


def incomplete(reason: str) -> Draft:
    return Draft("incomplete", {"reason": reason})


def failed(code: str, message: str, *, retryable: bool) -> Draft:
    return Draft("failed", {"error": {"code": code, "message": message, "retryable": retryable}})


def seal_ending(
    draft: Draft, answer: Message, usage: Mapping[str, Any] | None, rows: Sequence[UsageRow]
) -> dict[str, Any]:
    """The ending as it is sealed. ``usage`` is absent for a request that never started."""
    return {
        "outcome": draft.outcome,
        "fields": dict(draft.fields),
        "answer": to_wire(answer),
        "usage": usage,
        "rows": [{name: getattr(row, name) for name in UsageRow.__slots__} for row in rows],
    }


def as_cancelled(ending: Mapping[str, Any], by: str, reason: str | None) -> dict[str, Any]:
    """The same work, ended by a cancel that was acknowledged before the ending was archived."""
    draft = cancelled(by, reason)
    answer = {**ending["answer"], "status": draft.status}
    return {**ending, "outcome": draft.outcome, "fields": dict(draft.fields), "answer": answer}


def answer_of(ending: Mapping[str, Any]) -> Message:
    """The stored answer."""
    return message_from_wire(ending["answer"])


def rows_of(ending: Mapping[str, Any]) -> list[UsageRow]:
    """The ledger rows."""
    return [UsageRow(**row) for row in ending["rows"]]


def last_events(
    ending: Mapping[str, Any], conversation_id: str, request_id: str, event_bytes: int
) -> list[RequestEvent]:
    """``usage.completed``, when there is usage, and the terminal event."""
    head = {"conversation_id": conversation_id, "request_id": request_id}
    out: list[RequestEvent] = []
    if ending["usage"] is not None:
        out.append(_event({"type": "usage.completed", **head, **ending["usage"]}))
    terminal = {"type": _OUTCOMES[ending["outcome"]][0], **head, **ending["fields"]}
    if len(orjson.dumps(ending["answer"])) <= event_bytes:
        terminal["message"] = ending["answer"]
    else:
        terminal["length"] = text_length(answer_of(ending).parts)
    event = _event(terminal)
    assert isinstance(event, TerminalEvent)
    return [*out, event]


def _event(fields: dict[str, Any]) -> RequestEvent:
    event = event_from_wire({**fields, "seq": 0, "ts": 0})
    assert isinstance(event, RequestEvent)
    return event
