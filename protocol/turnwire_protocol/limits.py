"""The limits of one connection and how the two that count over time are counted.

Values only; the settings of the server fill them in, `welcome` tells them to the client. Time comes in as
`now`, in seconds of any clock that does not go back.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

# Whoever waits exactly as long as told must not be refused for the last bit of a float.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class WireLimits:
    """Limits that the wire itself enforces."""

    # A frame beyond this closes with 1009. The WebSocket library enforces it first, before the frame is whole.
    frame_bytes: int = 1_048_576
    # UTF-16 units of one request's input, over all its parts.
    input_chars: int = 100_000
    # Bytes of one `metadata`, as JSON.
    metadata_bytes: int = 16_384
    # Bytes of one JSON value that goes into a prompt: `context`, `variables`, a key of the shared context, an
    # approval's arguments.
    context_bytes: int = 65_536
    # Bytes of all `tools` of one request, as JSON.
    tools_bytes: int = 65_536
    # Bytes of one user's presence `state`, as JSON.
    presence_bytes: int = 4_096
    # A second's worth may come at once. Typing indicators and interrupts stay far below.
    commands_per_s: float = 50.0
    errors_per_minute: int = 60
    resume_entries: int = 64
    hello_timeout_s: float = 10.0
    heartbeat_s: float = 20.0
    # How long a connection may stay when its token has expired.
    auth_grace_s: float = 60.0


class TokenBucket:
    """`rate` per second, with at most one second's worth (at least one) saved up."""

    __slots__ = ("_at", "_level", "_rate", "_size")

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._size = max(1.0, rate)
        self._level = self._size
        self._at = now

    def take(self, now: float) -> int | None:
        """None when there was one to take, else after how many milliseconds there will be."""
        self._level = min(self._size, self._level + max(0.0, now - self._at) * self._rate)
        self._at = now
        if self._level >= 1.0 - _ROUNDING:
            self._level -= 1.0
            return None
        return math.ceil((1.0 - self._level) / self._rate * 1000)


class ErrorWindow:
    """Counts errors of the last minute. Most connections never make one, so it starts empty."""

    __slots__ = ("_limit", "_times")

    def __init__(self, per_minute: int) -> None:
        self._limit = per_minute
        self._times: deque[float] | None = None

    def add(self, now: float) -> bool:
        """Counts one; says whether that was one too many."""
        if self._times is None:
            self._times = deque()
        while self._times and self._times[0] <= now - 60.0:
            self._times.popleft()
        self._times.append(now)
        return len(self._times) > self._limit
