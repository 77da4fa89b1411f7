"""A cache with a bound in bytes: those that were asked for longest ago go first."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Bounded(Generic[K, V]):
    """See the module. One event loop uses it."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._held = 0
        self._of: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Bounded {len(self._of)} of {self._held} bytes>"

    def get(self, key: K) -> V | None:
        found = self._of.get(key)
        if found is None:
            return None
        self._of.move_to_end(key)
        return found[0]

    def put(self, key: K, value: V, size: int) -> bool:
        """False, and it is not kept, where it alone is more than there may be."""
        self._drop(key)
        if size > self._most:
            return False
        while self._held + size > self._most:
            self._drop(next(iter(self._of)))
        self._of[key] = (value, size)
        self._held += size
        return True

    def _drop(self, key: K) -> None:
        _, size = self._of.pop(key, (None, 0))
        self._held -= size
