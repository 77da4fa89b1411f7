"""Both engines that keep documents keep the contract of their port."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from turnwire_server.archive.mongo import MongoArchive
from turnwire_server.retrieval import sqlite as retrieval_sqlite
from turnwire_server.retrieval.mongo import MongoDocuments
from turnwire_server.retrieval.sqlite import SqliteDocuments
from turnwire_server.retrieval.store import DocumentStore

from .documents import DocumentsContract
from .engines import emptied, mongo_archive, sqlite_database
from .kit import Clock

MEMORY_BYTES = 1_000_000


class TestSqlite(DocumentsContract):
    @pytest_asyncio.fixture(loop_scope="module")
    async def store(self) -> AsyncIterator[DocumentStore]:
        async with sqlite_database() as database:
            for statement in retrieval_sqlite.SCHEMA:
                await database.write(lambda db, statement=statement: db.execute(statement).rowcount)  # type: ignore[misc]
            yield SqliteDocuments(database)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def archive() -> AsyncIterator[MongoArchive]:
    """One database for all: to make the indexes takes longer than what is tried."""
    async with mongo_archive(Clock()) as kit:
        assert isinstance(kit.archive, MongoArchive)
        yield kit.archive


class TestMongo(DocumentsContract):
    @pytest_asyncio.fixture(loop_scope="module")
    async def store(self, archive: MongoArchive) -> AsyncIterator[DocumentStore]:
        yield MongoDocuments(archive.reading, archive.writing, memory_bytes=MEMORY_BYTES)
        await emptied(archive)
