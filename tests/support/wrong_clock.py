"""A clock that can be put wrong, for a process that is to believe in it.

    wrong_clock.install()       before modules of the server are loaded: they keep the `time.time` that they found
    wrong_clock.put(-3600)      from now on it is an hour slow

The process's monotonic clock stays right, and so do those of all stores.
"""

from __future__ import annotations

import time

_right = time.time
_wrong_by_s = 0.0


class _Clock:
    """Not a function, which would be a method where a class has it as an attribute."""

    def __call__(self) -> float:
        return _right() + _wrong_by_s


def install() -> None:
    """Have `time.time` ask here; right at first."""
    time.time = _Clock()


def put(seconds: float) -> None:
    """From now on the clock is wrong by so much."""
    global _wrong_by_s
    assert isinstance(time.time, _Clock), "installed before"
    _wrong_by_s = seconds
