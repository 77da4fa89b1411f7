"""A trace as it is kept in the archive and shown: JSON of bounded size, a record a run, merged by its reader. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from turnwire_server.telemetry.tracing.spans import RunTrace, Span

MOST_BYTES = 65_536
"""Of one run's record. Spans of the end are left out first: what they are missing from says so."""


def record_of(trace: RunTrace) -> dict[str, Any]:
    """What is kept of a run. ``left_out`` is how many of its spans are not in it."""
    spans: list[dict[str, Any]] = []
    room = MOST_BYTES
    for span in trace.spans:
        encoded = _encoded(span)
        room -= len(orjson.dumps(encoded))
        if room < 0 and spans:
            break
        spans.append(encoded)
    left_out = trace.left_out + len(trace.spans) - len(spans)
    return {"trace_id": trace.trace_id, "run": trace.run, "left_out": left_out, "spans": spans}


def merged(records: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The runs of a request as one trace, by time; None without any."""
    if not records:
        return None
    spans = [{**span, "run": record["run"]} for record in records for span in record["spans"]]
    return {
        "trace_id": records[0]["trace_id"],
        "runs": len(records),
        "left_out": sum(record["left_out"] for record in records),
        "spans": sorted(spans, key=lambda span: span["began_ms"]),
    }


def _encoded(span: Span) -> dict[str, Any]:
    ended = span.began if span.ended is None else span.ended
    encoded: dict[str, Any] = {
        "name": span.name,
        "span_id": span.span_id,
        "parent_id": span.parent_id,
        "began_ms": round(span.began * 1000, 3),
        "duration_ms": round((ended - span.began) * 1000, 3),
        "attributes": span.attributes,
    }
    if span.events:
        encoded["events"] = [
            {"at_ms": round(event.at * 1000, 3), "name": event.name, "attributes": event.attributes}
            for event in span.events
        ]
    if span.error is not None:
        encoded["error"] = span.error
    return encoded
