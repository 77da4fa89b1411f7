"""One entry of a conversation's log, and the encoding that the log stores.

The body of an entry is the JSON object of its event without `seq`, `ts` and `from_seq`; those are put in front
when a frame is made, so an event is encoded once and never again for JSON followers. Typed access decodes only
when somebody asks. Entries are made per token: slotted, no validation, no generic walk for deltas.
"""

from __future__ import annotations

from typing import Any

import orjson

from turnwire_protocol.events import (
    DELTA_TYPES,
    AnyLogEvent,
    LogEvent,
    OutputTextDelta,
    ReasoningDelta,
    UnknownEvent,
    event_from_wire,
)
from turnwire_protocol.model import to_wire

# The fields that every body begins with, in this order; `Entry.type` and `.request_id` count on it.
_HEAD = ("type", "conversation_id", "request_id")
_NOT_STORED = ("seq", "ts", "from_seq")
_TEXT_DELTAS: dict[str, type[OutputTextDelta] | type[ReasoningDelta]] = {
    "output_text.delta": OutputTextDelta,
    "reasoning.delta": ReasoningDelta,
}


def encode_body(event: LogEvent) -> bytes:
    """What the log stores of `event`: its JSON object without `seq`, `ts` and `from_seq`."""
    kind = type(event)
    if kind is OutputTextDelta or kind is ReasoningDelta:
        return orjson.dumps(
            {
                "type": event.type,
                "conversation_id": event.conversation_id,
                "request_id": event.request_id,  # type: ignore[attr-defined]
                "part": event.part,  # type: ignore[attr-defined]
                "offset": event.offset,  # type: ignore[attr-defined]
                "text": event.text,  # type: ignore[attr-defined]
            }
        )
    fields = to_wire(event)
    for name in _NOT_STORED:
        fields.pop(name, None)
    return orjson.dumps({name: fields[name] for name in _HEAD if name in fields} | fields)


class Entry:
    """An event at its place in the log. `from_seq` is set where it stands for a run of entries."""

    __slots__ = ("_event", "_names", "body", "from_seq", "seq", "ts")

    def __init__(self, seq: int, ts: int, body: bytes, from_seq: int | None = None) -> None:
        self.seq = seq
        self.ts = ts
        self.body = body
        self.from_seq = from_seq
        self._event: AnyLogEvent | UnknownEvent | None = None
        self._names: tuple[str, str | None] | None = None

    @classmethod
    def of(cls, event: LogEvent, seq: int, ts: int) -> Entry:
        """The entry of a new event; fills `seq` and `ts` of the event itself in."""
        entry = cls(seq, ts, encode_body(event), event.from_seq)
        event.seq = seq
        event.ts = ts
        entry._event = event  # type: ignore[assignment]
        return entry

    @property
    def first_seq(self) -> int:
        """The first seq that this entry stands for."""
        return self.seq if self.from_seq is None else self.from_seq

    @property
    def event(self) -> AnyLogEvent | UnknownEvent:
        """The typed event with `seq` and `ts`; decoded at the first call."""
        if self._event is None:
            self._event = self._decode()
        return self._event

    @property
    def type(self) -> str:
        return self._event.type if self._event is not None else self._head()[0]

    @property
    def request_id(self) -> str | None:
        """The request that the event belongs to, None for an event of the conversation itself."""
        if self._event is not None:
            return getattr(self._event, "request_id", None)
        return self._head()[1]

    @property
    def is_delta(self) -> bool:
        return self.type in DELTA_TYPES

    def fields(self) -> dict[str, Any]:
        """The whole wire object, for codecs that cannot use `body` as it is."""
        head: dict[str, Any] = {"seq": self.seq, "ts": self.ts}
        if self.from_seq is not None:
            head["from_seq"] = self.from_seq
        head.update(orjson.loads(self.body))
        return head

    def _head(self) -> tuple[str, str | None]:
        # {"type":"T","conversation_id":"C","request_id":"R",…: no id needs escaping, so the quotes can be
        # counted without parsing a body that may be long.
        if self._names is None:
            words = self.body.split(b'"', 12)
            request_id = words[11].decode() if len(words) > 11 and words[9] == b"request_id" else None
            self._names = (words[3].decode(), request_id)
        return self._names

    def _decode(self) -> AnyLogEvent | UnknownEvent:
        obj = orjson.loads(self.body)
        delta = _TEXT_DELTAS.get(obj["type"])
        if delta is not None:
            return delta(
                conversation_id=obj["conversation_id"],
                seq=self.seq,
                ts=self.ts,
                from_seq=self.from_seq,
                request_id=obj["request_id"],
                part=obj["part"],
                offset=obj["offset"],
                text=obj["text"],
            )
        obj["seq"] = self.seq
        obj["ts"] = self.ts
        if self.from_seq is not None:
            obj["from_seq"] = self.from_seq
        return event_from_wire(obj)  # type: ignore[return-value]

    def __repr__(self) -> str:
        return f"<Entry {self.seq} {self.type}>"
