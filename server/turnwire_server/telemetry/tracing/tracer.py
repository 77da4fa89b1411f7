"""The node's traces on their way into the archive and out of the house.

`take` is called at the end of a run and returns at once; a task of its own redacts, keeps and exports, one trace after
the other. What does not fit into the queue, or cannot be kept, is counted and gone: a trace is never worth a turn.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import anyio

from turnwire_server.telemetry.metrics import Metrics
from turnwire_server.telemetry.tracing.policy import Redact, redact_trace
from turnwire_server.telemetry.tracing.record import record_of
from turnwire_server.telemetry.tracing.spans import RunTrace

logger = logging.getLogger(__name__)

MOST_WAITING = 1024
"""Traces that wait to be kept; when the archive is away for long, newer ones are dropped."""
_KEEP_S = 5.0
_DRAIN_S = 5.0

Keep = Callable[[str, str, int, Mapping[str, Any]], Awaitable[bool]]
"""Puts a run's record into the archive: tenant, request, fence, record."""


class Exporter(Protocol):
    """Where traces go besides."""

    def export(self, trace: RunTrace) -> None:
        """Take it along; returns at once. It has been redacted."""

    async def aclose(self) -> None:
        """Deliver what is in hand, within a time, and stop."""


class Tracer:
    """One of a node. ``keep`` is None where no records are wanted, ``sample`` the share of traces that is exported;
    ``secrets`` hides what no trace may hold."""

    def __init__(
        self,
        keep: Keep | None,
        secrets: Redact,
        metrics: Metrics,
        exporter: Exporter | None = None,
        *,
        sample: float = 1.0,
        captures_content: bool = False,
    ) -> None:
        self.captures_content = captures_content
        """Whether spans hold what was said."""
        self._keep = keep
        self._sample = sample
        self._secrets = secrets
        self._metrics = metrics
        self._exporter = exporter
        self._waiting: deque[RunTrace] = deque()
        self._added = anyio.Event()

    @property
    def is_on(self) -> bool:
        """Whether anybody wants traces."""
        return self._keep is not None or self._exporter is not None

    def take(self, trace: RunTrace) -> None:
        """A run has ended."""
        if not self.is_on:
            return
        if len(self._waiting) >= MOST_WAITING:
            self._metrics.traces_dropped_total.labels("full").inc()
            return
        self._waiting.append(trace)
        self._added.set()

    async def run(self) -> None:
        """Keep and export what comes, until cancelled."""
        while True:
            while self._waiting:
                await self._carry_out(self._waiting.popleft())
            self._added = anyio.Event()
            await self._added.wait()

    async def aclose(self) -> None:
        """What is left, within a time. `run` has ended."""
        with anyio.move_on_after(_DRAIN_S, shield=True):
            while self._waiting:
                await self._carry_out(self._waiting.popleft())
        if self._waiting:
            self._metrics.traces_dropped_total.labels("shutdown").inc(len(self._waiting))
            logger.warning("%d traces were not kept", len(self._waiting))
        if self._exporter is not None:
            await self._exporter.aclose()

    async def _carry_out(self, trace: RunTrace) -> None:
        try:
            redact_trace(trace, self._secrets)
            if self._exporter is not None and _is_sampled(trace.trace_id, self._sample):
                self._exporter.export(trace)
            if self._keep is not None:
                with anyio.fail_after(_KEEP_S):
                    await self._keep(trace.tenant_id, trace.request_id, trace.fence, record_of(trace))
        except Exception as error:
            # A boundary: an archive that is away, or a fault of ours, must cost a trace and nothing else.
            self._metrics.traces_dropped_total.labels("archive").inc()
            logger.warning("the trace of request %s was not kept: %s", trace.request_id, type(error).__name__)


def _is_sampled(trace_id: str, share: float) -> bool:
    """The same for all runs of a trace on all nodes."""
    return int(trace_id[-14:], 16) < share * 2**56
