"""The embedded archive keeps the contract of its port."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import orjson

from turnwire_protocol import to_wire
from turnwire_server.archive import sqlite as archive_sqlite
from turnwire_server.archive.base import Billing
from turnwire_server.sqlite import Database

from .archive import ArchiveContract
from .archive_cancels import ANN, cancel
from .archive_requests import asked, end
from .engines import sqlite_archive, sqlite_database


class TestSqlite(ArchiveContract):
    factory = staticmethod(sqlite_archive)


async def test_a_data_folder_from_before_there_were_cancels_opens_and_takes_them(tmp_path: Path) -> None:
    before = [statement for statement in archive_sqlite.SCHEMA if "cancel" not in statement]
    assert len(before) < len(archive_sqlite.SCHEMA)
    async with opened(tmp_path, before) as database:
        await database.write(
            lambda db: (
                db.execute(
                    "INSERT INTO requests VALUES ('acme', 'r1', 'talk', 'ann', 'print-r1', 1, '{}', 'u-r1', 'a-r1',"
                    " 100, 'open', 1, NULL, NULL, 'op')"
                ).rowcount
            )
        )
        message = orjson.dumps(to_wire(asked("r1").input))
        await database.write(
            lambda db: (
                db.execute(
                    "INSERT INTO messages VALUES ('acme', 'talk', 'u-r1', NULL, 'r1', 1, ?)", (message,)
                ).rowcount
            )
        )
    for _ in range(2):
        async with opened(tmp_path, archive_sqlite.SCHEMA) as database:
            archive = archive_sqlite.SqliteArchive(database)
            assert await cancel(archive, "r1") == replace(asked("r1", spec={}), cancel=ANN)


async def test_a_ledger_from_before_routes_and_features_is_gone_on_with(tmp_path: Path) -> None:
    before = [statement for statement in archive_sqlite.SCHEMA if "ALTER TABLE usage" not in statement]
    assert len(before) == len(archive_sqlite.SCHEMA) - 2
    async with opened(tmp_path, before) as database:
        await database.write(
            lambda db: (
                db.execute(
                    "INSERT INTO usage VALUES ('acme', 'r1', 1, 1, 'one', 'completed', 1, 2, 0, '0.1', 'provider',"
                    " 'ann', 'talk', 1000)"
                ).rowcount
            )
        )
    for _ in range(2):
        async with opened(tmp_path, archive_sqlite.SCHEMA) as database:
            archive = archive_sqlite.SqliteArchive(database)
            await end(archive, "r2", billing=Billing("ann", "talk", "fast", "summary"))
            sums = await archive.usage_sums(["user", "route", "feature"])
            assert [one.key for one in sums] == [("ann", None, None), ("ann", "fast", "summary")]


async def test_what_a_tenant_has_spent_in_a_day_is_read_from_an_index_alone() -> None:
    async with sqlite_database() as database:
        plan = await database.read(
            lambda db: [
                row["detail"]
                for row in db.execute(
                    "EXPLAIN QUERY PLAN SELECT cost_usd, count(*) FROM usage WHERE tenant = 'a' AND at >= 1"
                    " GROUP BY cost_usd"
                )
            ]
        )
    assert plan[0] == "SEARCH usage USING COVERING INDEX usage_by_time (tenant=? AND at>?)"


@asynccontextmanager
async def opened(data_dir: Path, schema: Sequence[str]) -> AsyncIterator[Database]:
    database = Database(data_dir)
    await database.open(schema)
    try:
        yield database
    finally:
        await database.aclose()
