"""The clustered archive keeps the contract of its port."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.support.unreliable import Fault

from turnwire_server.archive.base import Archive

from .archive import ArchiveContract, archive_behind
from .engines import mongo_archive


class TestMongo(ArchiveContract):
    factory = staticmethod(mongo_archive)

    # A call that never arrives is the same for every engine; the embedded one is quicker to try it with.
    @pytest.fixture(params=[Fault.NONE, Fault.TWICE, Fault.LOST])
    async def archive(self, request: pytest.FixtureRequest) -> AsyncIterator[Archive]:
        async with archive_behind(self.factory, request.param) as archive:
            yield archive
