"""The clustered log keeps the contract of its port."""

from __future__ import annotations

from hypothesis import settings

from .engines import redis_log
from .eventlog import EventLogContract
from .eventlog_machine import EventLogMachine


class TestRedis(EventLogContract):
    factory = staticmethod(redis_log)


class Machine(EventLogMachine):
    factory = staticmethod(redis_log)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
