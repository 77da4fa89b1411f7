"""The clustered archive keeps the contract of its port."""

from __future__ import annotations

from .archive import ArchiveContract
from .engines import mongo_archive


class TestMongo(ArchiveContract):
    factory = staticmethod(mongo_archive)
