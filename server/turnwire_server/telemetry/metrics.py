"""The figures of one process, for Prometheus.

`Metrics` has a registry of its own, so that two servers in one process (tests) do not share figures. Others
set the figures; nothing here decides or measures. Labels have few values, known beforehand, and never hold
a tenant, a user or anything else that a client chose: one tenant must learn nothing of another here, and
Prometheus keeps a series per value for good.
"""

from __future__ import annotations

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from turnwire_protocol.codes import CloseCode

OTHER = "other"

# Codes of RFC 6455 that a closed connection may show; a peer may send any other number it likes.
_WEBSOCKET_CODES = frozenset({1000, 1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 1010, 1011, 1012, 1013})
_CLOSE_CODES = _WEBSOCKET_CODES | {int(code) for code in CloseCode}

# A batch of 50 takes SQLite 0.9 ms: fine steps below 10 ms, coarse ones where something is wrong.
_APPEND_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_FIRST_TOKEN_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 30, 60)
_BATCH_EVENTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Metrics:
    """All figures as attributes, used as `metrics.turns_running.inc()`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

        # Connections and commands. The gauge is not called turnwire_connections: a counter
        # turnwire_connections_total already owns that name.
        self.connections = self._gauge("connections_open", "WebSocket connections now open")
        self.connections_total = self._counter(
            "connections_total", "WebSocket connections that ended, by close code", "close_code"
        )
        self.commands_total = self._counter(
            "commands_total", "Commands answered, by type and outcome (ok or the error's code)", "type", "outcome"
        )

        # Turns and their log.
        self.turns_running = self._gauge("turns_running", "Turns now running")
        self.turns_queued = self._gauge("turns_queued", "Turns now waiting for another of their conversation")
        self.turns_total = self._counter("turns_total", "Turns that ended, by outcome", "outcome")
        self.events_appended_total = self._counter("events_appended_total", "Events written to the log")
        self.append_batch_size = self._histogram(
            "append_batch_size", "Events written to the log by one group commit", _BATCH_EVENTS
        )
        self.append_seconds = self._histogram("append_seconds", "Seconds one group commit took", _APPEND_S)
        self.sqlite_queue = self._gauge("sqlite_queue", "Jobs that wait for the database's writer thread")

        # Models.
        self.time_to_first_token_seconds = self._histogram(
            "time_to_first_token_seconds", "Seconds from a request's ack to its first delta", _FIRST_TOKEN_S
        )
        self.provider_attempts_total = self._counter(
            "provider_attempts_total", "Calls of a deployment, by outcome", "deployment", "outcome"
        )
        self.tokens_total = self._counter(
            "tokens_total", "Tokens by deployment and kind (input, output, cached)", "deployment", "kind"
        )

        # Followers.
        self.followers = self._gauge("followers", "Connections following a conversation, each time counted")
        self.catch_up_frames_total = self._counter(
            "catch_up_frames_total", "Frames written to connections that had fallen behind"
        )
        self.snapshots_total = self._counter("snapshots_total", "Snapshots sent")
        self.slow_consumers_total = self._counter(
            "slow_consumers_total", "Connections closed because they did not read"
        )

    def connection_opened(self) -> None:
        """Counts a connection as open; `connection_closed` must follow once."""
        self.connections.inc()

    def connection_closed(self, close_code: int | None) -> None:
        """Counts a connection as ended. Codes that only a peer could have made up count as `other`."""
        self.connections.dec()
        known = close_code in _CLOSE_CODES
        self.connections_total.labels(close_code=str(close_code) if known else OTHER).inc()

    def render(self) -> tuple[str, bytes]:
        """The content type and the body of `GET /metrics`."""
        return CONTENT_TYPE_LATEST, generate_latest(self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"turnwire_{name}", text, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"turnwire_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"turnwire_{name}", text, buckets=buckets, registry=self.registry)
