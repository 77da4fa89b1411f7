"""One SQLite file, one writer thread with group commit, a few reader threads.

All writes of the process go through one thread. While a commit is under way the next writes gather; then one
transaction takes them all (``synchronous=FULL``: an answered write survives the death of the machine). A write
that fails inside a shared transaction is found by rolling back and running each on its own, so it fails alone.
The lock file keeps a second process out. The event log and the archive of the embedded engine both live in here;
this module knows neither.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

T = TypeVar("T")

# A transaction takes at most this many writes: about 10 ms of work, so that a burst does not starve the first.
_BATCH_LIMIT = 512
# The WAL is copied into the database when it has grown past this; a passive checkpoint blocks no writer.
_CHECKPOINT_BYTES = 4 * 1024 * 1024
_READERS = 3


class DataInUse(Exception):
    """Another process works on the same ``data_dir``."""


class DatabaseUnavailable(Exception):
    """A read or write failed; ``unknown`` tells that a write may have been done all the same."""

    def __init__(self, message: str, *, unknown: bool) -> None:
        super().__init__(message)
        self.unknown = unknown


@dataclass(slots=True)
class _Write:
    work: Callable[[sqlite3.Connection], Any]
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


class Database:
    """The file ``turnwire.db`` in ``data_dir``. Call `open` first and `aclose` last."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._path = data_dir / "turnwire.db"
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._readers: ThreadPoolExecutor | None = None
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._lock_fd: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reads_only = False
        self.rolled_back: Callable[[], None] = lambda: None
        """Called in the writer thread when a transaction has failed: nothing of it stands, as far as can be told."""
        self.committed: Callable[[], None] = lambda: None
        """Called in the writer thread when a transaction is on the disk: all reads that begin now see it."""

    def __repr__(self) -> str:
        return f"<Database {self._path.name} waiting={self._queue.qsize()}>"

    @property
    def waiting(self) -> int:
        """Writes that the writer thread has not taken yet."""
        return self._queue.qsize()

    async def open(self, schema: Sequence[str], *, alone: bool = True) -> None:
        """Lock the folder, open the file and run ``schema`` (statements that may find their work done).

        With ``alone`` False nothing is locked: for short writes beside a server that runs.
        Raises `DataInUse` when another process has it, `DatabaseUnavailable` when it cannot be opened.
        """
        self._loop = asyncio.get_running_loop()
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="turnwire-read")
        await self._loop.run_in_executor(self._readers, self._open, schema, alone)
        self._thread = threading.Thread(target=self._write_loop, name="turnwire-write", daemon=True)
        self._thread.start()

    async def open_for_reading(self) -> None:
        """Open a file that is there, for `read` alone, also while another process has it. Nothing is locked, made or
        changed. Raises `DatabaseUnavailable` when there is none or it cannot be read."""
        if not self._path.exists():
            raise DatabaseUnavailable(f"there is no {self._path}: no server has run on this data_dir", unknown=False)
        self._reads_only = True
        self._loop = asyncio.get_running_loop()
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="turnwire-read")

    async def aclose(self) -> None:
        """Answer what is queued, then close the file and unlock the folder."""
        if self._thread is not None:
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)
            self._thread = None
        if self._readers is not None:
            readers, self._readers = self._readers, None
            await asyncio.to_thread(readers.shutdown)
        for connection in self._connections:
            connection.close()
        self._connections.clear()
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``work`` in the writer thread; returns when its transaction is on the disk.

        ``work`` may run twice (the first time rolled back), so it must touch nothing but the connection.
        """
        if self._thread is None or self._loop is None:
            raise DatabaseUnavailable("the database is closed", unknown=False)
        write = _Write(work, self._loop.create_future())
        self._queue.put(write)
        return cast(T, await write.future)

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``work`` in a reader thread, inside one read transaction. It sees all answered writes."""
        if self._readers is None or self._loop is None:
            raise DatabaseUnavailable("the database is closed", unknown=False)
        return await self._loop.run_in_executor(self._readers, self._read, work)

    async def checkpoint(self) -> None:
        """Copy a grown WAL back into the database, beside the writer."""
        if self._readers is not None and self._loop is not None:
            await self._loop.run_in_executor(self._readers, self._checkpoint)

    # --- in threads ------------------------------------------------------------------------------------

    def _open(self, schema: Sequence[str], alone: bool) -> None:
        try:
            self._data_dir.mkdir(parents=True, exist_ok=True)
            if alone:
                self._lock()
        except OSError as error:
            raise DatabaseUnavailable(f"cannot use data_dir {self._data_dir}: {error}", unknown=False) from None
        try:
            connection = self._connect()
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("BEGIN IMMEDIATE")
            for statement in schema:
                _carry_out(connection, statement)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise DatabaseUnavailable(f"cannot open {self._path}: {error}", unknown=False) from None
        self._writer = connection

    def _lock(self) -> None:
        fd = os.open(self._data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise DataInUse(
                f"{self._data_dir} is in use by another turnwire process; stop it or set server.data_dir"
            ) from None
        self._lock_fd = fd

    def _connect(self) -> sqlite3.Connection:
        # Autocommit mode: transactions are begun by hand. Each connection stays with its thread, except that the
        # writer's is made before its thread and all are closed after their threads have ended.
        address = f"{self._path.resolve().as_uri()}?mode={'ro' if self._reads_only else 'rwc'}"
        connection = sqlite3.connect(
            address, uri=True, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA busy_timeout=5000")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        self._connections.append(connection)
        return connection

    def _write_loop(self) -> None:
        assert self._loop is not None
        while True:
            write = self._queue.get()
            if write is None:
                return
            batch = [write]
            stop = False
            while len(batch) < _BATCH_LIMIT:
                try:
                    write = self._queue.get_nowait()
                except queue.Empty:
                    break
                if write is None:
                    stop = True
                    break
                batch.append(write)
            self._transact(batch)
            with contextlib.suppress(RuntimeError):  # the loop has closed; nobody waits any more
                self._loop.call_soon_threadsafe(_answer, batch)
            if stop:
                return

    def _transact(self, batch: list[_Write]) -> None:
        connection = self._writer
        try:
            connection.execute("BEGIN IMMEDIATE")
            for write in batch:
                write.result = write.work(connection)
            connection.execute("COMMIT")
        except Exception as error:
            unknown = not self._rolled_back()
            self.rolled_back()
            if len(batch) > 1 and not unknown:
                for write in batch:
                    self._transact([write])
            else:
                for write in batch:
                    write.error = _unavailable(error, unknown)
        else:
            self.committed()

    def _rolled_back(self) -> bool:
        """True when the failed transaction has certainly left nothing behind."""
        try:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
        except sqlite3.Error:
            return False
        return not self._writer.in_transaction

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            connection = self._reader()
            connection.execute("BEGIN")
            try:
                return work(connection)
            finally:
                if connection.in_transaction:  # some errors end it
                    connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise DatabaseUnavailable(f"read failed: {error}", unknown=False) from error

    def _checkpoint(self) -> None:
        with contextlib.suppress(OSError, sqlite3.Error):
            if (self._data_dir / "turnwire.db-wal").stat().st_size > _CHECKPOINT_BYTES:
                self._reader().execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _reader(self) -> sqlite3.Connection:
        """The connection of this reader thread."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
            # A look may write what it will not keep (`eventlog.sqlite`), also while the disk is full.
            connection.execute("PRAGMA cache_spill=OFF")
        return connection


def _carry_out(connection: sqlite3.Connection, statement: str) -> None:
    try:
        connection.execute(statement)
    except sqlite3.OperationalError as error:
        # SQLite knows no ADD COLUMN IF NOT EXISTS.
        if not str(error).startswith("duplicate column name"):
            raise


def _unavailable(error: Exception, unknown: bool) -> BaseException:
    if isinstance(error, sqlite3.Error):
        return DatabaseUnavailable(f"write failed: {error}", unknown=unknown)
    return error


def _answer(batch: list[_Write]) -> None:
    for write in batch:
        if write.future.done():
            continue  # its caller was cancelled; the write stands
        if write.error is not None:
            write.future.set_exception(write.error)
        else:
            write.future.set_result(write.result)
