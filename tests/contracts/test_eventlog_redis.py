"""The clustered log keeps the contract of its port."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hypothesis import settings
from tests.support.examples import examples
from tests.support.unreliable import Fault

from .engines import redis_log
from .eventlog import EventLogContract, kit_behind
from .eventlog_machine import EventLogMachine
from .kit import LogKit


class TestRedis(EventLogContract):
    factory = staticmethod(redis_log)

    # A call that never arrives is the same for every engine; the embedded one is quicker to try it with.
    @pytest.fixture(params=[Fault.NONE, Fault.TWICE, Fault.LOST])
    async def kit(self, request: pytest.FixtureRequest) -> AsyncIterator[LogKit]:
        async with kit_behind(self.factory, request.param) as kit:
            yield kit


class Machine(EventLogMachine):
    factory = staticmethod(redis_log)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=examples(15), stateful_step_count=40, deadline=None)
