"""The archive as administrators' commands need it: to change what the server reads, also while it runs."""

from __future__ import annotations

import getpass
import os
from collections.abc import AsyncIterator, Awaitable, Callable
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


class Shape(StrEnum):
    """What is printed."""

    TABLE = "table"
    JSON = "json"


def with_archive(settings: Settings, work: Callable[[Archive], Awaitable[T]]) -> T:
    """What ``work`` returns, or the end of the command where the archive does not answer."""

    async def run() -> T:
        async with _opened(settings) as archive:
            return await work(archive)

    try:
        return anyio.run(run)
    except (ArchiveUnavailable, DatabaseUnavailable) as error:
        fail(f"the archive does not answer: {error}")


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[Archive]:
    storage = settings.storage
    if storage.mongo_url is not None:
        url, name = storage.mongo_url.get_secret_value(), storage.mongo_database
        mongo = MongoArchive(url, name, timeout_s=storage.mongo_timeout_s)
        try:
            await mongo.open()
            yield mongo
        finally:
            await mongo.aclose()
    else:
        database = Database(settings.server.data_dir)
        try:
            await database.open([*sqlite_tenants.SCHEMA, *sqlite_prompts.SCHEMA], alone=False)
            yield SqliteArchive(database)
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
