"""How many runs of a tool there may be at once. A run keeps its place until it really ends, also when nobody waits.

The queue of those that wait is bounded by time (`limits.tool_queue_s`): whoever gets no place in it is not run.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Places:
    """A number of places, given in the order in which they were asked for."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = count
        self._waiting: deque[asyncio.Future[None]] = deque()

    def __repr__(self) -> str:
        return f"<Places free={self._free}/{self.count} waiting={len(self._waiting)}>"

    async def take(self) -> None:
        """Wait for a place; `give_back` must be called once. When cancelled no place was taken."""
        if self._free and not self._waiting:
            self._free -= 1
            return
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(ready)
        try:
            await ready
        except asyncio.CancelledError:
            if ready.done() and not ready.cancelled():
                self.give_back()  # it was given in the very moment
            raise

    def give_back(self) -> None:
        """Give a place back, to whoever has waited longest."""
        while self._waiting:
            ready = self._waiting.popleft()
            if not ready.done():
                ready.set_result(None)
                return
        self._free += 1
