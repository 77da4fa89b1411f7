"""The archive as commands need it: to read it, or to change what servers read, also while they run."""

from __future__ import annotations

import getpass
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

import anyio
import orjson

from turnwire_server.archive import sqlite_prompts, sqlite_tenants
from turnwire_server.archive.base import Archive, ArchiveUnavailable
from turnwire_server.archive.mongo import MongoArchive
from turnwire_server.archive.sqlite import SqliteArchive
from turnwire_server.cli.common import fail
from turnwire_server.settings import Settings
from turnwire_server.sqlite import Database, DatabaseUnavailable

T = TypeVar("T")

# Years of a busy server take a while to be read.
_REPORT_S = 120.0


class Shape(StrEnum):
    """What is printed."""

    TABLE = "table"
    JSON = "json"


def with_archive(settings: Settings, work: Callable[[Archive], Awaitable[T]]) -> T:
    """What ``work`` returns, or the end of the command where the archive does not answer."""

    async def run() -> T:
        async with opened_storage(settings, [*sqlite_tenants.SCHEMA, *sqlite_prompts.SCHEMA]) as storage:
            return await work(SqliteArchive(storage) if isinstance(storage, Database) else storage)

    try:
        return anyio.run(run)
    except (ArchiveUnavailable, DatabaseUnavailable) as error:
        fail(f"the archive does not answer: {error}")


@asynccontextmanager
async def reading_archive(settings: Settings) -> AsyncIterator[Archive]:
    """The archive, to be read alone. Nothing is made or changed."""
    async with opened_storage(settings) as storage:
        yield SqliteArchive(storage) if isinstance(storage, Database) else storage


@asynccontextmanager
async def opened_storage(
    settings: Settings, schema: Sequence[str] | None = None
) -> AsyncIterator[MongoArchive | Database]:
    """Where the servers of this configuration keep their records: in MongoDB, or in a file of SQLite, whose ``schema``
    is made where it is missing. Without one it is opened to be read alone."""
    storage = settings.storage
    if storage.mongo_url is not None:
        url, name = storage.mongo_url.get_secret_value(), storage.mongo_database
        mongo = MongoArchive(url, name, timeout_s=storage.mongo_timeout_s, report_s=_REPORT_S)
        try:
            await mongo.open(for_reading=schema is None)
            yield mongo
        finally:
            await mongo.aclose()
    else:
        database = Database(settings.server.data_dir)
        try:
            if schema is None:
                await database.open_for_reading()
            else:
                await database.open(schema, alone=False)
            yield database
        finally:
            await database.aclose()


def person() -> str:
    """Who runs this command, as the operating system knows it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may know its user by number only
        return f"uid {os.getuid()}"


def as_json(value: Any) -> str:
    """For programs to read."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


def when(at_ms: int) -> str:
    """A time for people to read; in milliseconds since the Unix epoch."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(sep=" ", timespec="seconds").replace("+00:00", "Z")
