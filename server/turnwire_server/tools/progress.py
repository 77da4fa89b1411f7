"""Lets a tool report as often as it likes, and its turn hear of it ten times a second at most.

What comes in between replaces what waits, so the newest wins and nothing piles up, neither here nor in the event loop
when a thread reports a million times. What still waits when the tool ends is passed on then.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading

from .context import Progress

logger = logging.getLogger(__name__)

INTERVAL_S = 0.1
_MESSAGE_CHARS = 500


class ProgressGate:
    """For one call, made in the event loop. `report` may be called from any thread, all else from the loop."""

    def __init__(self, emit: Progress, interval_s: float = INTERVAL_S) -> None:
        self._emit = emit
        self._interval_s = interval_s
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._newest: tuple[float | None, str | None] | None = None
        self._is_scheduled = False
        self._is_closed = False
        self._next_at = -math.inf

    def report(self, fraction: float | None = None, message: str | None = None) -> None:
        """What a tool calls. Values that make no sense are left out, a message that is too long is cut."""
        report = _clean_fraction(fraction), _clean_message(message)
        if report == (None, None):
            return
        with self._lock:
            if self._is_closed:
                return
            self._newest = report
            if self._is_scheduled:
                return
            self._is_scheduled = True
        try:
            self._loop.call_soon_threadsafe(self._schedule)
        except RuntimeError:  # the loop has ended: so has everybody who could have heard it
            return

    def close(self) -> None:
        """The tool has ended, or nobody waits for it: pass on what waits, and nothing after it."""
        with self._lock:
            self._is_closed = True
        self._pass_on()

    def _schedule(self) -> None:
        self._loop.call_at(max(self._next_at, self._loop.time()), self._pass_on)

    def _pass_on(self) -> None:
        with self._lock:
            newest, self._newest = self._newest, None
            self._is_scheduled = False
        if newest is None:
            return
        self._next_at = self._loop.time() + self._interval_s
        try:
            self._emit(*newest)
        except Exception:
            logger.exception("a tool's progress could not be passed on")


def _clean_fraction(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return min(max(float(value), 0.0), 1.0)


def _clean_message(value: object) -> str | None:
    if not isinstance(value, str) or not value:
        return None
    # Half a surrogate pair has no UTF-8, and cutting may leave one.
    return value[:_MESSAGE_CHARS].encode("utf-8", "replace").decode()
