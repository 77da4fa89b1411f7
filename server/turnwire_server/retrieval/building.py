"""What takes longer to build than a caller may wait for is built all the same, once for all who ask, and is there for
the next one. A build ends by itself, since every call in it has a limit; nobody but its callers hears how."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Builds(Generic[K, V]):
    """Those under way, by what they are of."""

    def __init__(self) -> None:
        self._tasks: dict[K, asyncio.Task[V]] = {}

    def __repr__(self) -> str:
        return f"<Builds {len(self._tasks)} under way>"

    async def wait(self, key: K, build: Callable[[], Coroutine[Any, Any, V]]) -> V:
        """What the build of that key gives or raises, begun now unless it is under way. Who is cancelled stops to
        wait, and the build goes on: a task outside of any group, since it outlives the call that began it."""
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.get_running_loop().create_task(build())
            task.add_done_callback(lambda done: self._ended(key, done))
        return await asyncio.shield(task)

    def _ended(self, key: K, done: asyncio.Task[V]) -> None:
        del self._tasks[key]
        if not done.cancelled():
            done.exception()  # looked at, or Python would log that nobody has
