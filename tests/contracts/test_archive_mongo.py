"""The clustered archive keeps the contract of its port."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.support.unreliable import Fault

from turnwire_server.archive.base import Archive

from .archive import ArchiveContract, behind
from .engines import emptied, mongo_archive
from .kit import ArchiveKit, Clock


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kept() -> AsyncIterator[ArchiveKit]:
    """One database for all: to make the indexes takes longer than what is tried."""
    async with mongo_archive(Clock()) as kit:
        yield kit


class TestMongo(ArchiveContract):
    factory = staticmethod(mongo_archive)

    # A call that never arrives is the same for every engine; the embedded one is quicker to try it with.
    @pytest_asyncio.fixture(params=[Fault.NONE, Fault.TWICE, Fault.LOST], loop_scope="module")
    async def archive(self, request: pytest.FixtureRequest, kept: ArchiveKit) -> AsyncIterator[Archive]:
        yield behind(request.param, kept.archive)
        await emptied(kept.archive)
