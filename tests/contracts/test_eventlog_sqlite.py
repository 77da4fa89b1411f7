"""The embedded log keeps the contract of its port."""

from __future__ import annotations

from hypothesis import settings
from tests.support.examples import examples

from .engines import sqlite_log
from .eventlog import EventLogContract
from .eventlog_machine import EventLogMachine


class TestSqlite(EventLogContract):
    factory = staticmethod(sqlite_log)


class Machine(EventLogMachine):
    factory = staticmethod(sqlite_log)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=examples(30), stateful_step_count=40, deadline=None)
