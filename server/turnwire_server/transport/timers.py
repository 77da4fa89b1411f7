"""One wheel for the timers of all connections: heartbeats, deadlines, expiries, to the tenth of a second.

A timer per connection in the event loop would be moved at every frame; here a connection stands in one slot and is
looked at when that slot comes round. If its time has moved meanwhile it is put into the slot where it belongs now.
"""

from __future__ import annotations

import time
from typing import Protocol

import anyio

_SLOT_S = 0.1


class Timed(Protocol):
    """Something with a next point in time, by the monotonic clock."""

    def next_timer(self) -> float | None: ...

    def handle_timer(self, now: float) -> None: ...


class TimerWheel:
    """Call `add` once; a member leaves by `discard` or by having no next timer."""

    def __init__(self) -> None:
        self._slots: dict[int, set[Timed]] = {}
        self._slot_of: dict[Timed, int] = {}
        self._now = int(time.monotonic() / _SLOT_S)

    def __len__(self) -> int:
        return len(self._slot_of)

    def add(self, timed: Timed) -> None:
        """Look at it when its time has come. To be called again when that time has moved forward."""
        when = timed.next_timer()
        if when is None:
            self.discard(timed)
            return
        slot = max(int(when / _SLOT_S) + 1, self._now + 1)
        known = self._slot_of.get(timed)
        if known is not None:
            if known <= slot:
                return  # it is looked at before, and moved on then
            self._slots[known].discard(timed)
        self._slot_of[timed] = slot
        self._slots.setdefault(slot, set()).add(timed)

    def discard(self, timed: Timed) -> None:
        slot = self._slot_of.pop(timed, None)
        if slot is not None:
            self._slots.get(slot, set()).discard(timed)

    def turn_to(self, now: float) -> None:
        """Handle everything that is due by ``now``."""
        last = int(now / _SLOT_S)
        while self._now < last:
            self._now += 1
            for timed in self._slots.pop(self._now, ()):
                self._slot_of.pop(timed, None)
                when = timed.next_timer()
                if when is not None and when <= now:
                    timed.handle_timer(now)
                self.add(timed)

    async def run(self) -> None:
        """Turn until cancelled."""
        while True:
            await anyio.sleep(_SLOT_S)
            self.turn_to(time.monotonic())
