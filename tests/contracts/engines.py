"""The engines that the contract suites run against."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.mongo import fresh_database
from tests.support.redis import shared_redis

from turnwire_server.archive import sqlite as archive_sqlite
from turnwire_server.archive.base import Archive
from turnwire_server.archive.mongo import MongoArchive
from turnwire_server.eventlog import sqlite as log_sqlite
from turnwire_server.eventlog.base import EventLog
from turnwire_server.eventlog.redis import RedisEventLog
from turnwire_server.sqlite import Database

from .kit import RECORDED_CANCEL_S, RESERVATION_S, RETENTION_S, ArchiveKit, Clock, LogKit

SCHEMA = [*log_sqlite.SCHEMA, *archive_sqlite.SCHEMA]


# Hundreds of small databases are made; waiting for a disk to have them would prove nothing here.
_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


@asynccontextmanager
async def sqlite_database(data_dir: Path | None = None) -> AsyncIterator[Database]:
    with tempfile.TemporaryDirectory(dir=_MEMORY) as fresh:
        database = Database(data_dir or Path(fresh))
        await database.open(SCHEMA)
        try:
            yield database
        finally:
            await database.aclose()


async def sqlite_log_on(database: Database, clock: Clock) -> EventLog:
    log = log_sqlite.SqliteEventLog(
        database,
        retention_s=RETENTION_S,
        reservation_s=RESERVATION_S,
        recorded_cancel_s=RECORDED_CANCEL_S,
        clock=clock,
    )
    await log.open()
    return log


@asynccontextmanager
async def sqlite_log(clock: Clock) -> AsyncIterator[LogKit]:
    """The embedded log. A restart is a new log on the open database; what the file survives is shown in faults."""
    async with sqlite_database() as database:
        yield LogKit(await sqlite_log_on(database, clock), clock, lambda: sqlite_log_on(database, clock))


@asynccontextmanager
async def sqlite_archive(clock: Clock) -> AsyncIterator[ArchiveKit]:
    async with sqlite_database() as database:
        yield ArchiveKit(archive_sqlite.SqliteArchive(database, clock=clock))


@asynccontextmanager
async def mongo_archive(clock: Clock) -> AsyncIterator[ArchiveKit]:
    async with fresh_database() as (url, name):
        archive = MongoArchive(url, name, timeout_s=20)
        await archive.open()
        try:
            yield ArchiveKit(archive)
        finally:
            await archive.aclose()


async def emptied(archive: Archive) -> None:
    """Nothing is in it any more; the indexes stay."""
    assert isinstance(archive, MongoArchive)
    async with archive._reading() as db:
        for name in await db.list_collection_names():
            await db[name].delete_many({})


@asynccontextmanager
async def redis_log(clock: Clock) -> AsyncIterator[LogKit]:
    """The clustered log, in a name space of its own on the server of this run. A restart gives up its leases first, as
    a server that ends in good order does; what becomes of those that do not is shown in faults."""
    url, prefix = shared_redis().url, f"t{uuid.uuid4().hex[:12]}"
    logs: list[RedisEventLog] = []

    async def begin() -> EventLog:
        if logs:
            await logs[-1].aclose()
        log = RedisEventLog(
            url,
            prefix=prefix,
            partitions=4,
            retention_s=RETENTION_S,
            reservation_s=RESERVATION_S,
            recorded_cancel_s=RECORDED_CANCEL_S,
            clock=clock,
        )
        await log.open()
        for doubt in await log.in_doubt():
            await log.settle(doubt)
        logs.append(log)
        return log

    try:
        yield LogKit(await begin(), clock, begin)
    finally:
        await logs[-1].aclose()
