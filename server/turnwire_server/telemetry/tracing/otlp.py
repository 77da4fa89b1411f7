"""Traces to an OpenTelemetry collector, by OTLP over HTTP, from a thread of their own.

The queue is bounded and what does not fit is counted; a batch that the collector does not take (the exporter itself
tries again for a while) is counted as well. The only file that knows the OpenTelemetry SDK.
"""

from __future__ import annotations

import logging
import queue
import threading
import time

import anyio
import anyio.to_thread
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from turnwire_server import __version__
from turnwire_server.telemetry.metrics import Metrics
from turnwire_server.telemetry.tracing.spans import RunTrace, Span

logger = logging.getLogger(__name__)

MOST_WAITING = 4096
"""Spans that wait for the collector."""
_BATCH = 512
_GATHER_S = 0.5
_TIMEOUT_S = 10.0
_CLOSE_S = 5.0
_KINDS = {"internal": SpanKind.INTERNAL, "client": SpanKind.CLIENT, "server": SpanKind.SERVER}
_SCOPE = InstrumentationScope("turnwire", __version__)


class OtlpExporter:
    """`Exporter` to ``endpoint``, the collector's address without the path of traces."""

    def __init__(self, endpoint: str, headers: dict[str, str], metrics: Metrics, *, node_id: str) -> None:
        self._exporter = OTLPSpanExporter(
            endpoint=f"{endpoint.rstrip('/')}/v1/traces", headers=headers, timeout=_TIMEOUT_S
        )
        attributes = {"service.name": "turnwire", "service.version": __version__, "service.instance.id": node_id}
        self._resource = Resource(attributes)
        self._metrics = metrics
        self._waiting: queue.Queue[ReadableSpan] = queue.Queue(MOST_WAITING)
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="otlp", daemon=True)
        self._thread.start()

    def export(self, trace: RunTrace) -> None:
        for span in trace.spans:
            try:
                self._waiting.put_nowait(self._readable(trace, span))
            except queue.Full:
                self._metrics.trace_spans_dropped_total.labels("full").inc()

    async def aclose(self) -> None:
        self._is_closing.set()
        await anyio.to_thread.run_sync(self._thread.join, _CLOSE_S)
        await anyio.to_thread.run_sync(self._exporter.shutdown)

    def _run(self) -> None:
        while not (self._is_closing.is_set() and self._waiting.empty()):
            batch = self._batch()
            if not batch:
                continue
            try:
                is_taken = self._exporter.export(batch) is SpanExportResult.SUCCESS
            except Exception as error:  # a boundary: the thread must outlive whatever the library does
                logger.warning("spans were not exported: %s", type(error).__name__)
                is_taken = False
            if is_taken:
                self._metrics.trace_spans_exported_total.inc(len(batch))
            else:
                self._metrics.trace_spans_dropped_total.labels("refused").inc(len(batch))

    def _batch(self) -> list[ReadableSpan]:
        """What has come, gathered for a moment."""
        batch: list[ReadableSpan] = []
        until = time.monotonic() + _GATHER_S
        while len(batch) < _BATCH:
            left_s = 0.0 if self._is_closing.is_set() else max(until - time.monotonic(), 0.0)
            try:
                batch.append(self._waiting.get(timeout=left_s) if left_s else self._waiting.get_nowait())
            except queue.Empty:
                break
        return batch

    def _readable(self, trace: RunTrace, span: Span) -> ReadableSpan:
        def context(span_id: str, *, is_remote: bool) -> SpanContext:
            flags = TraceFlags(TraceFlags.SAMPLED)
            return SpanContext(int(trace.trace_id, 16), int(span_id, 16), is_remote, flags)

        ended = span.began if span.ended is None else span.ended
        return ReadableSpan(
            name=span.name,
            context=context(span.span_id, is_remote=False),
            parent=None if span.parent_id is None else context(span.parent_id, is_remote=span is trace.spans[0]),
            resource=self._resource,
            attributes=span.attributes,
            events=[Event(event.name, event.attributes, _ns(event.at)) for event in span.events],
            kind=_KINDS[span.kind],
            status=Status(StatusCode.UNSET) if span.error is None else Status(StatusCode.ERROR, span.error),
            start_time=_ns(span.began),
            end_time=_ns(ended),
            instrumentation_scope=_SCOPE,
        )


def _ns(seconds: float) -> int:
    return int(seconds * 1_000_000_000)
