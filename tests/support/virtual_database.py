"""The embedded engines' database without its threads: writes and reads take time by the loop's clock.

The SQL, the transactions and the order of things are the real ones: a write waits for its turn, is carried out, and is
answered some time later, whether or not anybody still waits for it. Unrealistic in that each write has a transaction of
its own, and that the loop stands still while SQLite works, so that nothing else happens at that moment.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar, cast

from turnwire_server.sqlite import Database, DatabaseUnavailable, _answer, _Write

T = TypeVar("T")


class VirtualDatabase(Database):
    """As `Database`; each step takes ``delay()`` seconds on its way there, and again on the way back."""

    def __init__(self, data_dir: Path, delay: Callable[[], float]) -> None:
        super().__init__(data_dir)
        self._delay = delay
        self._free_at = 0.0
        self._is_open = False

    async def open(self, schema: Sequence[str], *, alone: bool = True) -> None:
        self._loop = asyncio.get_running_loop()
        self._open(schema, alone)
        self._is_open = True

    async def aclose(self) -> None:
        assert self._loop is not None, "opened before"
        await asyncio.sleep(max(self._free_at - self._loop.time(), 0))  # what is queued is carried out
        self._is_open = False
        for connection in self._connections:
            connection.close()
        self._connections.clear()
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if not self._is_open or self._loop is None:
            raise DatabaseUnavailable("the database is closed", unknown=False)
        write = _Write(work, self._loop.create_future())
        # Later than all before, however little: timers of one moment go off in no order.
        self._free_at = max(self._loop.time() + self._delay(), self._free_at) + 1e-6
        self._loop.call_at(self._free_at, self._carry_out, write)
        return cast(T, await write.future)

    def _carry_out(self, write: _Write) -> None:
        assert self._loop is not None, "opened before"
        self._transact([write])
        self._loop.call_later(self._delay(), _answer, [write])

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        await asyncio.sleep(self._delay())
        if not self._is_open:
            raise DatabaseUnavailable("the database is closed", unknown=False)
        try:
            return self._read(work)
        finally:
            await asyncio.sleep(self._delay())

    async def checkpoint(self) -> None:
        self._checkpoint()
