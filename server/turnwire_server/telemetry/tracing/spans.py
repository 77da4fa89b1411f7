"""Spans as plain objects, and the ids that make all runs of a request one trace. Pure, but for random span ids.

Times are seconds since the Unix epoch. Names of attributes are those of OpenTelemetry's conventions for generative AI
where there is one, else they begin with ``turnwire.``.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field
from typing import Literal

Value = str | bool | int | float | list[str]
Kind = Literal["internal", "client", "server"]

MOST_SPANS = 256
"""Of one run. A turn of fifty steps with three attempts and two calls each fits; what comes after is counted."""
MOST_EVENTS = 32
"""Of one span."""


def trace_id_of(tenant_id: str, request_id: str, traceparent: str | None) -> str:
    """The trace of a request: the client's own if it has one, else one that every node finds for this request."""
    if traceparent is not None:
        return traceparent[3:35]
    return hashlib.sha256(f"{len(tenant_id)}:{tenant_id}{request_id}".encode()).hexdigest()[:32]


def parent_of(traceparent: str | None) -> str | None:
    """The client's span that a request belongs under."""
    return None if traceparent is None else traceparent[36:52]


def new_span_id() -> str:
    return f"{random.getrandbits(64) or 1:016x}"


@dataclass(frozen=True, slots=True)
class SpanEvent:
    """Something that happened within a span."""

    at: float
    name: str
    attributes: dict[str, Value]


@dataclass(slots=True, eq=False)
class Span:
    """One piece of work. ``ended`` is None while it is under way; ``error`` says in one word what went wrong."""

    name: str
    began: float
    parent_id: str | None = None
    kind: Kind = "internal"
    attributes: dict[str, Value] = field(default_factory=dict)
    span_id: str = field(default_factory=new_span_id)
    events: list[SpanEvent] = field(default_factory=list)
    ended: float | None = None
    error: str | None = None

    def put(self, **attributes: Value | None) -> None:
        """Add attributes of ours; those that are None are not known."""
        self.attributes.update({f"turnwire.{name}": value for name, value in attributes.items() if value is not None})

    def event(self, at: float, name: str, **attributes: Value | None) -> None:
        if len(self.events) < MOST_EVENTS:
            known = {f"turnwire.{key}": value for key, value in attributes.items() if value is not None}
            self.events.append(SpanEvent(at, name, known))

    def end(self, at: float, error: str | None = None) -> None:
        """It is over. A second end changes nothing."""
        if self.ended is None:
            self.ended, self.error = max(at, self.began), error


@dataclass(slots=True, eq=False)
class RunTrace:
    """The spans of one run of one request; the first is the run itself. ``fence`` tells the runs apart."""

    tenant_id: str
    request_id: str
    trace_id: str
    run: int
    fence: int
    detectors: tuple[str, ...] = ()
    """What else its tenant wants hidden, see `policy`."""
    spans: list[Span] = field(default_factory=list)
    left_out: int = 0
    """How many spans were one too many."""

    def begin(self, span: Span) -> Span:
        """Keep the span, if there is room; it may be used all the same if there is none."""
        if len(self.spans) < MOST_SPANS:
            self.spans.append(span)
        else:
            self.left_out += 1
        return span
