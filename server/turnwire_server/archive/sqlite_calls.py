"""Calls of the database as a port's: what it cannot do is that the archive is not available."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import TypeVar

from turnwire_server.sqlite import Database, DatabaseUnavailable

from .base import ArchiveUnavailable

Connection = sqlite3.Connection
T = TypeVar("T")


class SqliteCalls:
    """What engines on one `Database` have in common."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def _write(self, work: Callable[[Connection], T]) -> T:
        try:
            return await self._db.write(work)
        except DatabaseUnavailable as error:
            raise ArchiveUnavailable(str(error), unknown=error.unknown) from error

    async def _read(self, work: Callable[[Connection], T]) -> T:
        try:
            return await self._db.read(work)
        except DatabaseUnavailable as error:
            raise ArchiveUnavailable(str(error), unknown=error.unknown) from error
