"""The figures of one process, or of the processes that share a port, for Prometheus.

`Metrics` has a registry of its own, so that two servers in one process (tests) do not share figures. Others
set the figures; nothing here decides or measures. Labels have few values, known beforehand, and never hold
a tenant, a user or anything else that a client chose: one tenant must learn nothing of another here, and
Prometheus keeps a series per value for good.

With `turnwire serve --workers` a scrape reaches any one of the workers and must answer for all. Each worker then
calls `share_figures` before it makes its `Metrics`: its figures live in files of a common folder, and `render` sums
over the folder. The files are named by the worker's index, not by its process: a worker that is started again
counts on where the dead one stood, so no counter falls and no file is left over. What a dead worker held (open
connections, running turns) is taken out by its parent with `forget_worker`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    ProcessCollector,
    generate_latest,
    values,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from turnwire_protocol.codes import CloseCode

OTHER = "other"

# Codes of RFC 6455 that a closed connection may show; a peer may send any other number it likes.
_WEBSOCKET_CODES = frozenset({1000, 1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 1010, 1011, 1012, 1013})
_CLOSE_CODES = _WEBSOCKET_CODES | {int(code) for code in CloseCode}

# A batch of 50 takes SQLite 0.9 ms: fine steps below 10 ms, coarse ones where something is wrong.
_APPEND_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_FIRST_TOKEN_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 30, 60)
_WAIT_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TOOL_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_BATCH_EVENTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
# A renewal is one script; it is late when it takes a good part of lease_s / 3 (1.7 s by default).
_RENEWAL_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)

# How the figures of several workers become one: what each holds for itself is added up; of what all look at (the same
# Redis) the worst counts. "live" leaves out the dead.
_Together = Literal["livesum", "livemin", "livemax"]

# The client library finds its folder by this variable alone. Whether figures are shared is remembered here, since
# somebody may have set the variable for a program of their own.
_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_shared_folder: Path | None = None


class Metrics:
    """All figures as attributes, used as `metrics.turns_running.inc()`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        # Connections and commands. The gauge is not called turnwire_connections: a counter
        # turnwire_connections_total already owns that name.
        self.connections = self._gauge("connections_open", "WebSocket connections now open", "livesum")
        self.connections_total = self._counter(
            "connections_total", "WebSocket connections that ended, by close code", "close_code"
        )
        self.commands_total = self._counter(
            "commands_total", "Commands answered, by type and outcome (ok or the error's code)", "type", "outcome"
        )

        # Turns and their log.
        self.turns_running = self._gauge("turns_running", "Turns now running", "livesum")
        self.turns_queued = self._gauge(
            "turns_queued", "Turns now waiting for another of their conversation", "livesum"
        )
        self.turns_total = self._counter("turns_total", "Turns that ended, by outcome", "outcome")
        self.events_appended_total = self._counter("events_appended_total", "Events written to the log")
        self.append_batch_size = self._histogram(
            "append_batch_size", "Events written to the log by one group commit", _BATCH_EVENTS
        )
        self.append_seconds = self._histogram("append_seconds", "Seconds one group commit took", _APPEND_S)
        self.sqlite_queue = self._gauge("sqlite_queue", "Jobs that wait for the database's writer thread", "livesum")

        # Tenants. None has a label of its own: there may be many, and they are nobody else's business.
        self.quota_refusals_total = self._counter(
            "quota_refusals_total", "New requests refused for a tenant's limit or budget, by its name", "limit"
        )
        self.quota_errors_total = self._counter(
            "quota_errors_total", "Times that a tenant's use could not be counted or settled"
        )

        # Models.
        self.time_to_first_token_seconds = self._histogram(
            "time_to_first_token_seconds", "Seconds from a request's ack to its first delta", _FIRST_TOKEN_S
        )
        self.provider_attempts_total = self._counter(
            "provider_attempts_total", "Calls of a deployment, by outcome", "deployment", "outcome"
        )
        self.deployment_left_total = self._counter(
            "deployment_left_total", "Calls of a deployment that failed, by reason", "deployment", "reason"
        )
        self.deployment_skipped_total = self._counter(
            "deployment_skipped_total",
            "Times another deployment was asked because this one was left alone (open) or had no place (full)",
            "deployment",
            "reason",
        )
        self.deployment_open = self._gauge(
            "deployment_open",
            "1 while the deployment is left alone because its calls failed, else 0",
            "livemax",
            "deployment",
        )
        self.deployment_calls = self._gauge(
            "deployment_calls", "Calls of the deployment now under way", "livesum", "deployment"
        )
        self.deployment_wait_seconds = self._histogram(
            "deployment_wait_seconds",
            "Seconds a step waited until a deployment could be asked, where it had to",
            _WAIT_S,
        )
        self.tokens_total = self._counter(
            "tokens_total", "Tokens by deployment and kind (input, output, cached)", "deployment", "kind"
        )

        # Tools.
        self.tool_calls_total = self._counter(
            "tool_calls_total",
            "Tool calls that ended, by tool (mcp:<server> for those of an MCP server) and outcome",
            "tool",
            "outcome",
        )
        self.tool_seconds = self._histogram("tool_seconds", "Seconds a tool call took, retries included", _TOOL_S)
        self.mcp_server_up = self._gauge(
            "mcp_server_up", "1 while the MCP server answers and its tools are offered, else 0", "livemin", "server"
        )

        # Traces.
        self.traces_dropped_total = self._counter(
            "traces_dropped_total",
            "Traces of runs that were not kept (full: too many waited, archive: it did not take them, shutdown)",
            "reason",
        )
        self.trace_spans_exported_total = self._counter("trace_spans_exported_total", "Spans that the collector took")
        self.trace_spans_dropped_total = self._counter(
            "trace_spans_dropped_total",
            "Spans that were not exported (full: too many waited, refused: the collector did not take them)",
            "reason",
        )

        # Followers.
        self.followers = self._gauge("followers", "Connections following a conversation, each time counted", "livesum")
        self.catch_up_frames_total = self._counter(
            "catch_up_frames_total", "Frames written to connections that had fallen behind"
        )
        self.snapshots_total = self._counter("snapshots_total", "Snapshots sent")
        self.slow_consumers_total = self._counter(
            "slow_consumers_total", "Connections closed because they did not read"
        )

        # Whether the backends answer.
        self.readiness = self._gauge(
            "readiness", "1 when a check passed when /readyz was asked last, else 0", "livemin", "check"
        )
        self.log_available = self._gauge(
            "log_available", "1 when the log took a write when /readyz was asked last, else 0", "livemin", "backend"
        )
        self.unarchived_requests = self._gauge(
            "unarchived_requests", "Ended requests that the log keeps because the archive has not taken them", "livemax"
        )

        # Several nodes on one log.
        self.takeovers_total = self._counter(
            "takeovers_total", "Turns taken over from another owner, by reason", "reason"
        )
        self.handed_over_total = self._counter("handed_over_total", "Turns handed over to other nodes by a drain")
        self.turns_parked_total = self._counter(
            "turns_parked_total", "Turns parked because they wait, for people or for another try"
        )
        self.jobs_delayed_total = self._counter(
            "jobs_delayed_total", "Times that a request in the background failed and waits to be tried again"
        )
        self.job_reports_total = self._counter(
            "job_reports_total",
            "Ends of requests in the background told to the webhook, by outcome (taken, refused, given_up)",
            "outcome",
        )
        self.orphans_seen_total = self._counter(
            "orphans_seen_total", "Turns found without a living owner, whoever took them over"
        )
        self.lease_renewal_seconds = self._histogram(
            "lease_renewal_seconds", "Seconds one renewal of the leases took", _RENEWAL_S
        )
        self.lease_lost_total = self._counter(
            "lease_lost_total",
            "Times this node could not renew its leases in time, so that its turns may be taken over",
        )

        # A log that lost its data.
        self.incarnations_total = self._counter(
            "incarnations_total", "Times this node found that Redis had restarted or failed over"
        )
        self.reentries_total = self._counter(
            "reentries_total", "Turns put back by their owner into a log that lost them"
        )
        self.rebuilds_total = self._counter("rebuilds_total", "Partitions rebuilt from the archive")

        # Followers of turns that run elsewhere.
        self.pubsub_connected = self._gauge(
            "pubsub_connected", "1 while the subscription to Redis stands, else 0; always 0 without Redis", "livemin"
        )
        self.position_checks_total = self._counter(
            "position_checks_total", "Times the positions of followed conversations were compared with the log"
        )
        self.gaps_filled_total = self._counter(
            "gaps_filled_total", "Holes in what pub/sub brought that were read from the log"
        )
        self.redis_memory_used_ratio = self._gauge(
            "redis_memory_used_ratio",
            "Redis memory in use divided by its maxmemory; of a cluster the fullest",
            "livemax",
        )

        self._exposed = self.registry
        if _shared_folder is None:
            ProcessCollector(registry=self.registry)
        else:
            # The files hold the figures; the registry's own collectors would show this process's part alone.
            self._exposed = CollectorRegistry()
            MultiProcessCollector(self._exposed, str(_shared_folder))  # type: ignore[no-untyped-call]
            self._exposed.register(_Processes(_shared_folder))

    def connection_opened(self) -> None:
        """Counts a connection as open; `connection_closed` must follow once."""
        self.connections.inc()

    def connection_closed(self, close_code: int | None) -> None:
        """Counts a connection as ended. Codes that only a peer could have made up count as `other`."""
        self.connections.dec()
        known = close_code in _CLOSE_CODES
        self.connections_total.labels(close_code=str(close_code) if known else OTHER).inc()

    def render(self) -> tuple[str, bytes]:
        """The content type and the body of `GET /metrics`: of this process, or of all workers that share figures."""
        return CONTENT_TYPE_LATEST, generate_latest(self._exposed)

    def _gauge(self, name: str, text: str, together: _Together, *labels: str) -> Gauge:
        return Gauge(f"turnwire_{name}", text, labels, registry=self.registry, multiprocess_mode=together)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"turnwire_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"turnwire_{name}", text, buckets=buckets, registry=self.registry)


def share_figures(folder: Path, index: int) -> None:
    """From now on the figures of this process lie in `folder`, as those of worker `index`.

    Call it once in a process, before it makes any `Metrics`, and not before the parent has called `forget_worker` for
    the former worker of that index.
    """
    global _shared_folder
    _shared_folder = folder
    os.environ[_FOLDER_VARIABLE] = str(folder)
    values.ValueClass = values.MultiProcessValue(process_identifier=lambda: index)  # type: ignore[no-untyped-call]
    _pid_file(folder, index).write_text(str(os.getpid()), encoding="ascii")


def forget_worker(folder: Path, index: int) -> None:
    """Worker `index` is dead: what it held counts no longer, what it has counted stays."""
    mark_process_dead(index, str(folder))  # type: ignore[no-untyped-call]
    _pid_file(folder, index).unlink(missing_ok=True)


def _pid_file(folder: Path, index: int) -> Path:
    return folder / f"worker-{index}.pid"


class _Processes(Collector):
    """Memory, CPU time and files of each worker, as `ProcessCollector` has them, with the worker's index as a label.

    Not summed: a sum of CPU times falls when one worker is started again, which Prometheus takes for a reset of all.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        together: dict[str, Metric] = {}
        for index, pid in self._workers():
            for metric in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc]
                known = together.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                for sample in metric.samples:
                    known.add_sample(sample.name, {**sample.labels, "worker": index}, sample.value)
        return together.values()

    def _workers(self) -> Iterator[tuple[str, int]]:
        for file in sorted(self._folder.glob("worker-*.pid")):
            # A worker may die, and its file go, at any moment.
            with contextlib.suppress(OSError, ValueError):
                yield file.stem.removeprefix("worker-"), int(file.read_text(encoding="ascii"))
