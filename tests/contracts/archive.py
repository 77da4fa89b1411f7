"""The contract of the archive port, as one suite that runs against every engine.

    class TestMongo(ArchiveContract):
        factory = staticmethod(mongo_archive)      # an async context manager: Clock -> ArchiveKit

Like the suite of the log, each test runs plainly and under each fault of `tests.support.unreliable`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import pytest_asyncio
from tests.support.unreliable import ARCHIVE_STEPS, Fault, Repeating, unreliable_archive

from turnwire_server.archive.base import Archive

from .archive_cancels import Cancels, EarlyCancels
from .archive_context import Contexts
from .archive_conversations import Conversations, Members
from .archive_prompts import Prompts
from .archive_requests import Amending, Branches, Effects, Endings, Feedback, Fences, Parking, Requests
from .archive_summaries import Summaries
from .archive_tenants import Audit, Tenants
from .archive_traces import Traces
from .archive_usage import Spending, Sums
from .kit import ArchiveKit, Clock

ArchiveFactory = Callable[[Clock], AbstractAsyncContextManager[ArchiveKit]]


# One event loop for all tests of a module: an archive may be shared by them.
@pytest.mark.asyncio(loop_scope="module")
class ArchiveContract(
    Conversations,
    Members,
    Contexts,
    Requests,
    Fences,
    Parking,
    Endings,
    Effects,
    Amending,
    Cancels,
    EarlyCancels,
    Branches,
    Feedback,
    Traces,
    Spending,
    Sums,
    Tenants,
    Audit,
    Prompts,
    Summaries,
):
    """Derive, and give the factory."""

    factory: ArchiveFactory

    @pytest_asyncio.fixture(params=list(Fault), loop_scope="module")
    async def archive(self, request: pytest.FixtureRequest) -> AsyncIterator[Archive]:
        async with archive_behind(self.factory, request.param) as archive:
            yield archive


@asynccontextmanager
async def archive_behind(factory: ArchiveFactory, fault: Fault) -> AsyncIterator[Archive]:
    """An archive behind the fault, with a caller that repeats."""
    async with factory(Clock()) as kit:
        yield behind(fault, kit.archive)


def behind(fault: Fault, archive: Archive) -> Archive:
    """The same archive behind the fault, with a caller that repeats."""
    if fault is Fault.NONE:
        return archive
    return Repeating(unreliable_archive(archive, fault), ARCHIVE_STEPS)  # type: ignore[return-value]
