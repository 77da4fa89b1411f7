"""The embedded log keeps the contract of its port."""

from __future__ import annotations

from .engines import sqlite_log
from .eventlog import EventLogContract


class TestSqlite(EventLogContract):
    factory = staticmethod(sqlite_log)
