"""The newest entries of one followed conversation, in memory, so that catching up seldom reads the log.

A tail has no holes: it holds the entries from ``first`` to ``end`` or, after something was missed, begins anew.
Its size is bounded per conversation and, through `TailBudget`, per node. What is no longer here is read from the
log by whoever needs it. No I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Sequence

from turnwire_protocol import Entry

# What an entry costs beside its body: the object, its list slot, its ints (measured with sys.getsizeof).
_ENTRY_OVERHEAD = 200


class TailBudget:
    """The bytes that all tails of the node hold together."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0

    @property
    def is_spent(self) -> bool:
        return self.used_bytes > self.limit_bytes


class Tail:
    """Entries ``first .. end`` of one epoch; empty when ``first == end + 1``."""

    __slots__ = ("_budget", "_entries", "_limit_bytes", "_size", "end", "epoch")

    def __init__(self, epoch: str, end: int, limit_bytes: int, budget: TailBudget) -> None:
        self.epoch = epoch
        self.end = end
        self._entries: list[Entry] = []
        self._limit_bytes = limit_bytes
        self._budget = budget
        self._size = 0

    def __repr__(self) -> str:
        return f"<Tail {self.epoch} {self.first}..{self.end} {self._size} bytes>"

    @property
    def first(self) -> int:
        return self.end - len(self._entries) + 1

    def extend(self, epoch: str, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Add what is new of ``entries``, and return it. A hole before them empties the tail first."""
        if epoch != self.epoch:
            self.clear()
            self.epoch = epoch
            self.end = entries[0].seq - 1
        fresh = [entry for entry in entries if entry.seq > self.end] if entries[0].seq <= self.end else entries
        if not fresh:
            return fresh
        if fresh[0].seq != self.end + 1:
            self.clear()
        size = 0
        for entry in fresh:
            size += len(entry.body) + _ENTRY_OVERHEAD
        self._entries.extend(fresh)
        self._grow(size)
        self.end = fresh[-1].seq
        if self._size > self._limit_bytes or self._budget.is_spent:
            self._shrink()
        return fresh

    def missed(self, epoch: str, end: int) -> None:
        """The log ends at ``end`` and not all before it was heard: what was missed is read from the log."""
        self.clear()
        self.epoch = epoch
        self.end = end

    def after(self, seq: int, max_bytes: int) -> Sequence[Entry] | None:
        """Entries after ``seq``, at least one if there is any; None when they are no longer here."""
        if seq >= self.end:
            return ()
        start = seq - self.first + 1
        if start < 0:
            return None
        size = 0
        for index in range(start, len(self._entries)):
            size += len(self._entries[index].body)
            if size > max_bytes and index > start:
                return self._entries[start:index]
        return self._entries[start:]

    def clear(self) -> None:
        """Forget all entries; ``end`` stays."""
        self._entries.clear()
        self._grow(-self._size)

    def _grow(self, size: int) -> None:
        self._size += size
        self._budget.used_bytes += size

    def _shrink(self) -> None:
        # Down to half, so that the cost of moving the list is paid once per many entries. A spent node budget
        # leaves each tail only a small piece: those who write pay, since only they come here.
        target = self._limit_bytes // (16 if self._budget.is_spent else 2)
        gone = count = 0
        for entry in self._entries:
            if self._size - gone <= target:
                break
            gone += len(entry.body) + _ENTRY_OVERHEAD
            count += 1
        del self._entries[:count]
        self._grow(-gone)
