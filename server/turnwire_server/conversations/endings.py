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

from .presented import Place, clamped, cut, end_of, length
from .spec import TurnSpec

_OUTCOMES = {
    "completed": ("message.completed", "complete"),
    "cancelled": ("message.cancelled", "cancelled"),
    "interrupted": ("message.interrupted", "interrupted"),
    "merged": ("message.merged", "complete"),
    "incomplete": ("message.incomplete", "incomplete"),
    "failed": ("message.failed", "failed"),
}


@dataclass(frozen=True, slots=True)
class Draft:
    """How a turn would end: the outcome and the fields of its terminal event besides the message."""

    outcome: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    place: Place | None = None
    generated: int = 0

    @property
    def status(self) -> Any:
        return _OUTCOMES[self.outcome][1]


def completed(finish_reason: str) -> Draft:
    return Draft("completed", {"finish_reason": finish_reason})


def cancelled(by: str, reason: str | None) -> Draft:
    return Draft("cancelled", {"by": by, **({"reason": reason} if reason else {})})


def interrupted(reason: str, place: Place | None = None, generated: int = 0) -> Draft:
    """``place`` is how far the interrupt said that the answer was presented, ``generated`` how much there was."""
    return Draft("interrupted", {"reason": reason}, place, generated)


def merged(into: str) -> Draft:
    return Draft("merged", {"into": into})


def incomplete(reason: str) -> Draft:
    return Draft("incomplete", {"reason": reason})


def failed(code: str, message: str, *, retryable: bool) -> Draft:
    return Draft("failed", {"error": {"code": code, "message": message, "retryable": retryable}})


def seal_ending(
    draft: Draft, answer: Message, usage: Mapping[str, Any] | None, rows: Sequence[UsageRow], route: str = ""
) -> dict[str, Any]:
    """The ending as it is sealed. ``usage`` is absent for a request that never started; ``route`` is the one that was
    chosen while it ran."""
    ending: dict[str, Any] = {
        "outcome": draft.outcome,
        "fields": dict(draft.fields),
        "answer": to_wire(answer),
        "usage": usage,
        "rows": [{name: getattr(row, name) for name in UsageRow.__slots__} for row in rows],
    }
    if route:
        ending["route"] = route
    if draft.outcome == "interrupted":
        ending["place"] = None if draft.place is None else draft.place.encode()
        ending["generated"] = draft.generated
    return ending


def unstarted(spec: TurnSpec, draft: Draft, now_ms: int, rows: Sequence[UsageRow] = ()) -> dict[str, Any]:
    """The ending of a request that never started: its answer is empty, but it is what later messages follow.

    ``rows`` are of what was begun and then forgotten by the log.
    """
    answer = Message(
        message_id=spec.answer_id,
        request_id=spec.request_id,
        role="assistant",
        status=draft.status,
        created_at=now_ms,
        parent_id=spec.input_id,
        ordinal=spec.ordinal,
    )
    return seal_ending(draft, answer, None, rows)


def settled(ending: Mapping[str, Any], presented: int) -> Mapping[str, Any]:
    """The ending, with what it needs of ``presented``, which the log kept until the seal: the same for everybody."""
    if ending["outcome"] != "interrupted":
        return {**ending, "reported": presented} if presented else ending
    if "sent" in ending["fields"]:
        return ending
    whole = message_from_wire(ending["answer"])
    reports = [number for number in (ending["place"], presented or None) if number is not None]
    end = end_of(whole.parts)
    place = clamped(whole.parts, Place.decode(max(reports))) if reports else end
    sent = length(whole.parts)
    fields = {
        **ending["fields"],
        "generated": max(ending["generated"], sent),
        "sent": sent,
        "presented": length(whole.parts, place),
        "basis": "reported" if reports else "assumed",
    }
    return {**ending, "fields": fields, "place": place.encode()}


def as_cancelled(ending: Mapping[str, Any], by: str, reason: str | None) -> dict[str, Any]:
    """The same work, ended by a cancel that was acknowledged before the ending was archived."""
    draft = cancelled(by, reason)
    answer = {**ending["answer"], "status": draft.status}
    return {**ending, "outcome": draft.outcome, "fields": dict(draft.fields), "answer": answer}


def answer_of(ending: Mapping[str, Any]) -> Message:
    """The stored answer: of one that was interrupted only what was presented."""
    whole = message_from_wire(ending["answer"])
    return cut(whole, Place.decode(ending["place"])) if ending["outcome"] == "interrupted" else whole


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
    answer = answer_of(ending)
    message = to_wire(answer)
    if len(orjson.dumps(message)) <= event_bytes:
        terminal["message"] = message
    else:
        terminal["length"] = text_length(answer.parts)
    event = _event(terminal)
    assert isinstance(event, TerminalEvent)
    return [*out, event]


def _event(fields: dict[str, Any]) -> RequestEvent:
    event = event_from_wire({**fields, "seq": 0, "ts": 0})
    assert isinstance(event, RequestEvent)
    return event
