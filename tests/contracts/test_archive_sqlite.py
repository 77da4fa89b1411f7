"""The embedded archive keeps the contract of its port."""

from __future__ import annotations

from .archive import ArchiveContract
from .engines import sqlite_archive


class TestSqlite(ArchiveContract):
    factory = staticmethod(sqlite_archive)
