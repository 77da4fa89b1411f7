"""The contract of the event log port, as one suite that runs against every engine.

    class TestRedis(EventLogContract):
        factory = staticmethod(redis_log)      # an async context manager: Clock -> LogKit

Each test runs four times: as the engine is, with every step carried out twice, with every first answer lost, and
with every first call not carried out; the caller repeats, and nothing may differ.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from tests.support.unreliable import LOG_STEPS, Fault, Repeating, unreliable_log

from turnwire_server.eventlog.base import EventLog

from .eventlog_control import Competing, Deciding, Noting
from .eventlog_ending import Finishing, Posting, Sealing
from .eventlog_handing import Disowning, HandingOver, Parking, Placing
from .eventlog_looking import Deleting, Looking, Trimming
from .eventlog_owning import Claiming, Rebuilding, Releasing, Reserving, TakingOver
from .eventlog_writing import Appending, Emitting, Hearing
from .kit import Clock, LogKit

LogFactory = Callable[[Clock], AbstractAsyncContextManager[LogKit]]
_FAULTS = [Fault.NONE, Fault.TWICE, Fault.LOST, Fault.MISSED]


class EventLogContract(
    Reserving,
    Claiming,
    Releasing,
    TakingOver,
    HandingOver,
    Parking,
    Disowning,
    Placing,
    Rebuilding,
    Appending,
    Emitting,
    Hearing,
    Competing,
    Posting,
    Deciding,
    Noting,
    Sealing,
    Finishing,
    Looking,
    Trimming,
    Deleting,
):
    """Derive, and give the factory."""

    factory: LogFactory

    @pytest.fixture(params=_FAULTS)
    async def kit(self, request: pytest.FixtureRequest) -> AsyncIterator[LogKit]:
        async with kit_behind(self.factory, request.param) as kit:
            yield kit


@asynccontextmanager
async def kit_behind(factory: LogFactory, fault: Fault) -> AsyncIterator[LogKit]:
    """A log behind the fault, after a restart too, with a caller that repeats."""
    async with factory(Clock()) as kit:
        restart = kit.restart

        async def restart_badly() -> EventLog:
            return badly(await restart(), fault)

        kit.log, kit.restart = badly(kit.log, fault), restart_badly
        yield kit


def badly(log: EventLog, fault: Fault) -> EventLog:
    """The log behind the fault, with a caller that repeats."""
    if fault is Fault.NONE:
        return log
    repeating: EventLog = Repeating(unreliable_log(log, fault), LOG_STEPS)  # type: ignore[assignment]
    return repeating
