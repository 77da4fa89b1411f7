"""The journal of the embedded log: what was acknowledged is there, in order, once."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import anyio
import anyio.lowlevel
import pytest
from tests.support.examples import examples

from turnwire_protocol import encode_body
from turnwire_server.eventlog import sqlite_journal
from turnwire_server.eventlog.base import (
    LogUnavailable,
    Owned,
)
from turnwire_server.eventlog.sqlite import SqliteEventLog
from turnwire_server.sqlite import Database

from .engines import sqlite_database, sqlite_log_on
from .journal_model import Model
from .kit import Clock, LogKit, op, said


@asynccontextmanager
async def written(**texts: int) -> AsyncIterator[tuple[LogKit, Database, dict[str, Owned]]]:
    """Conversations with so many events in the journal each, a turn in each."""
    async with sqlite_database() as database:
        clock = Clock()
        log = await sqlite_log_on(database, clock)
        kit = LogKit(log, clock, lambda: sqlite_log_on(database, clock))
        owned = {talk: await kit.begin(talk, *map(str, range(many)), conversation=talk) for talk, many in texts.items()}
        yield kit, database, owned


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"_EVENTS_WAIT": 8, "_BATCHES_WAIT": 12, "_CUT": 3, "_ROWS": 5}.items():
        monkeypatch.setattr(sqlite_journal, name, value)


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("seed", range(examples(8)))
async def test_what_was_acknowledged_is_there_in_order_and_once(seed: int) -> None:
    folder = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=folder) as fresh, anyio.fail_after(60):
        await Model(seed, Path(fresh)).go()


async def test_readers_see_what_is_just_being_settled() -> None:
    """A step has settled the conversation, and its transaction is not on the disk yet: readers do not see the tables
    as they will be. They were told that nothing waits any more, and got a log that ends too early."""
    async with written(talk=3) as (kit, database, _), anyio.create_task_group() as tasks:
        settled, go_on = anyio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def step(_: sqlite3.Connection) -> None:
            loop.call_soon_threadsafe(settled.set)
            assert go_on.wait(5)

        log = cast(SqliteEventLog, kit.log)
        tasks.start_soon(log._write, step, kit.ref())
        found: list[list[str]] = []

        async def look() -> None:
            found.append(await kit.texts())

        with anyio.fail_after(5):
            await settled.wait()
            tasks.start_soon(look)
            while not found and not database.waiting:
                await anyio.lowlevel.checkpoint()
            go_on.set()
            while not found:
                await anyio.lowlevel.checkpoint()
        assert found == [["0", "1", "2"]]


async def test_a_step_that_is_undone_takes_nothing_from_readers() -> None:
    async with written(talk=3) as (kit, database, _):

        def step(db: sqlite3.Connection) -> None:
            cast(SqliteEventLog, kit.log)._journal.settle(db, None)
            raise ZeroDivisionError

        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                await database.write(step)
            assert await kit.texts() == ["0", "1", "2"]


@pytest.mark.usefixtures("small_limits")
async def test_no_conversation_waits_for_ever_behind_busier_ones() -> None:
    """The busy ones took every place of every batch: the others filled memory, and the journal was never cut."""
    async with written(**{f"t{i}": 1 for i in range(12)}) as (kit, database, owned):
        counts = dict.fromkeys(owned, 1)
        for _ in range(60):
            batch = []
            for talk, turn in owned.items():
                texts = ["x"] * (8 if talk < "t4" else 1)
                batch.append(kit.append(turn, counts[talk], *texts))
                counts[talk] += len(texts)
            await kit.log.append(batch)
        (rows,) = await database.read(lambda db: db.execute("SELECT count(*) FROM log_journal").fetchone())
        assert rows <= sqlite_journal._BATCHES_WAIT + sqlite_journal._CUT + len(owned)
        assert [len(await kit.texts(talk)) for talk in owned] == list(counts.values())


async def test_a_release_that_is_repeated_knows_what_its_successor_has_written() -> None:
    """The request is gone, and with it where to look: the successor came back with a count from before its events,
    and would have taken its next ones for a repeat."""
    async with written() as (kit, _, _):
        await kit.claim("r1")
        second = (await kit.claim("r2")).owned
        release = op()
        following = await kit.log.release(release, kit.request("r1"))
        assert following is not None
        assert following.request == second.request
        await kit.say(following, 0, "begin", "more")
        again = await kit.log.release(release, kit.request("r1"))
        assert again is not None
        assert again.n == 2


async def test_what_an_older_version_has_gone_on_without_is_left_out() -> None:
    """It knows no journal, and gave the seqs of what was in it to others. The rest would have come behind a hole."""
    async with written(talk=1) as (kit, database, owned):
        await kit.say(owned["talk"], 1, "lost", "lost")
        await kit.say(owned["talk"], 3, "lost too")

        def older(db: sqlite3.Connection) -> None:
            db.execute("INSERT INTO log_events VALUES (1, 1, 0, 1, 0, ?)", (encode_body(said(owned["talk"], "other")),))
            db.execute("INSERT INTO log_events VALUES (1, 2, 0, 1, 1, ?)", (encode_body(said(owned["talk"], "kind")),))
            db.execute("UPDATE log_conversations SET last_seq = 2")
            db.execute("UPDATE log_requests SET n = 2, last_seq = 2")

        await database.write(older)
        await kit.restarted()
        assert await kit.texts("talk") == ["other", "kind"]
        position = await kit.log.position(kit.ref("talk"))
        assert position.seq == 2
        await kit.say(owned["talk"], 2, "more")
        assert await kit.texts("talk") == ["other", "kind", "more"]


async def test_on_a_full_disk_all_that_waits_is_read() -> None:
    """More than SQLite keeps in memory of a transaction: it would write, and reading would fail with it."""
    async with written(talk=1) as (kit, database, owned):
        for n in range(1, 61):
            await kit.say(owned["talk"], n, str(n) + "x" * 100_000)
        wal = Path(database._path).with_name("turnwire.db-wal").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (wal, resource.RLIM_INFINITY))
        try:
            with pytest.raises(LogUnavailable):
                await kit.log.ping()
            page = await kit.log.read(kit.ref(), 0, limit=100, max_bytes=100_000_000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert len(page.entries) == 61
        assert (await kit.log.position(kit.ref())).seq == 61
