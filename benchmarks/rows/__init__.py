"""The rows of the table beside the streaming runs: each measures one thing and notes figures at the stand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from benchmarks.rows import cancel, capacity, delay, fanout, first_token, history, resume, streams
from benchmarks.stand import Stand

ROWS: Mapping[str, Callable[[Stand], Awaitable[None]]] = {
    "streams": streams.measure,
    "history": history.measure,
    "delay": delay.measure,
    "fanout": fanout.measure,
    "first-token": first_token.measure,
    "cancel": cancel.measure,
    "resume": resume.measure,
    "capacity": capacity.measure,
}

__all__ = ["ROWS"]
