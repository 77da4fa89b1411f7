"""`turnwire usage`: what it prints of a ledger, and what it says when it is asked wrongly or finds nothing to read."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest
from tests.contracts.archive_requests import row
from tests.contracts.engines import SCHEMA, sqlite_database
from tests.contracts.kit import ending
from tests.server.cli.commands import turnwire
from tests.support.client import connected
from tests.support.mongo import fresh_database
from tests.support.server import running_server
from typer.testing import CliRunner, Result

from turnwire_server.archive.base import Archive, Billing
from turnwire_server.archive.mongo import MongoArchive
from turnwire_server.archive.sqlite import SqliteArchive
from turnwire_server.cli import app
from turnwire_server.cli.usage import when
from turnwire_server.sqlite import Database

DAY_MS = 86_400_000
JANUARY_31 = 20484 * DAY_MS


async def fill(archive: Archive) -> None:
    """Two tenants, two days."""

    async def end(tenant: str, name: str, billing: Billing, at: int, cost: str) -> None:
        await archive.end_request(
            tenant,
            name,
            ending=ending(),
            answer=None,
            usage=[row(1, 1, outcome="failed", source="estimated", cost_usd="0"), row(1, 2, cost_usd=cost)],
            billing=billing,
            run=1,
            ended_at=at,
        )

    await end("acme", "r1", Billing("ann", "talk", "fast", "summary"), JANUARY_31, "0.1")
    await end("acme", "r2", Billing("bob", "talk", "fast"), JANUARY_31 + DAY_MS, "0.0000002")
    await end("other", "r1", Billing("ann", "talk", "fast"), JANUARY_31, "1")


@asynccontextmanager
async def data(folder: Path) -> AsyncIterator[Database]:
    """The data of a server that does not run any more, or, inside the block, of one that does."""
    database = Database(folder / "data")
    await database.open(SCHEMA)
    try:
        await fill(SqliteArchive(database))
        yield database
    finally:
        await database.aclose()


def asked(folder: Path, *arguments: str, **variables: str) -> Result:
    """The command in this process: a new one would be the time of ten tests."""
    environ = {"TURNWIRE_SERVER__DATA_DIR": str(folder / "data"), **variables}
    return CliRunner().invoke(app, ["usage", "--since", "2026-01-01", *arguments], env=environ)


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder that was filled and left."""
    folder = tmp_path_factory.mktemp("ledger")

    async def make() -> None:
        async with data(folder):
            pass

    anyio.run(make)
    return folder


def test_a_table_has_a_line_for_each_sum_and_one_for_all(ledger: Path) -> None:
    result = asked(ledger)
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines() if line.strip()]
    assert lines == [
        ["tenant", "attempts", "estimated", "input", "cached", "output", "cost"],
        ["acme", "4", "2", "40", "0", "20", "0.1000002"],
        ["other", "2", "1", "20", "0", "10", "1"],
        ["all", "6", "3", "60", "0", "30", "1.1000002"],
    ]


def test_csv_has_headings_and_leaves_out_what_is_not_known(ledger: Path) -> None:
    result = asked(ledger, "--format", "csv", "--by", "day,feature", "--by", "user", "--tenant", "acme")
    assert list(csv.reader(io.StringIO(result.stdout))) == [
        [
            "day",
            "feature",
            "user",
            "attempts",
            "estimated",
            "input_tokens",
            "cached_tokens",
            "output_tokens",
            "cost_usd",
        ],
        ["2026-01-31", "summary", "ann", "2", "1", "20", "0", "10", "0.1"],
        ["2026-02-01", "", "bob", "2", "1", "20", "0", "10", "0.0000002"],
    ]


def test_json_says_what_was_asked_and_money_is_a_string(ledger: Path) -> None:
    result = asked(ledger, "--format", "json", "--by", "feature", "--tenant", "acme", "--until", "2026-02-01")
    assert json.loads(result.stdout) == {
        "tenant": "acme",
        "since": 1_767_225_600_000,
        "until": JANUARY_31 + DAY_MS,
        "by": ["feature"],
        "rows": [
            {
                "feature": "summary",
                "attempts": 2,
                "estimated": 1,
                "input_tokens": 20,
                "cached_tokens": 0,
                "output_tokens": 10,
                "cost_usd": "0.1",
            }
        ],
    }


def test_a_ledger_without_such_rows_prints_no_lines(ledger: Path) -> None:
    assert asked(ledger, "--tenant", "nobody", "--format", "json").stdout.count("attempts") == 0
    assert asked(ledger, "--tenant", "nobody", "--format", "csv").stdout.splitlines() == [
        "tenant,attempts,estimated,input_tokens,cached_tokens,output_tokens,cost_usd"
    ]
    assert asked(ledger, "--tenant", "nobody").exit_code == 0


@pytest.mark.parametrize(
    ("said", "is_at"),
    [
        ("2026-01-31", "2026-01-31T00:00:00+00:00"),
        ("2026-01-31T12:30", "2026-01-31T12:30:00+00:00"),
        ("2026-01-31T12:30:00+02:00", "2026-01-31T10:30:00+00:00"),
        ("2026-01-31T12:30:00Z", "2026-01-31T12:30:00+00:00"),
        ("90m", "2026-02-14T10:30:00+00:00"),
        ("24h", "2026-02-13T12:00:00+00:00"),
        ("7d", "2026-02-07T12:00:00+00:00"),
        ("2w", "2026-01-31T12:00:00+00:00"),
    ],
)
def test_times_are_dates_or_how_long_ago(said: str, is_at: str) -> None:
    now = datetime(2026, 2, 14, 12, tzinfo=UTC)
    assert when(said, now) == datetime.fromisoformat(is_at).timestamp() * 1000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--by", "weather"], "--by: expected some of tenant, user, route"),
        (["--since", "yesterday"], "--since: expected a date"),
        (["--until", "2026-13-01"], "--until: expected a date"),
        (["--until", "2025-01-01"], "--until: expected a time after --since"),
        (["--format", "xml"], "xml"),
    ],
)
def test_what_is_asked_wrongly_is_answered_with_what_was_expected(
    ledger: Path, arguments: list[str], words: str
) -> None:
    result = asked(ledger, *arguments)
    assert result.exit_code == 2
    assert words in result.output
    assert "Traceback" not in result.output


def test_a_folder_without_a_database_is_named_and_not_made(tmp_path: Path) -> None:
    result = asked(tmp_path)
    assert result.exit_code == 1
    assert f"there is no {tmp_path / 'data' / 'turnwire.db'}" in result.output.replace("\n", "")
    assert not (tmp_path / "data").exists()


async def test_a_database_of_an_earlier_version_is_said_to_be_one(tmp_path: Path) -> None:
    database = Database(tmp_path / "data")
    await database.open([statement for statement in SCHEMA if "ALTER TABLE usage" not in statement])
    await database.aclose()
    result = await turnwire(tmp_path, "usage", "--by", "feature", TURNWIRE_SERVER__DATA_DIR=str(tmp_path / "data"))
    assert result.code == 1
    assert "start this version's server on it once" in result.err


async def test_it_reads_while_a_server_runs_and_sees_what_it_has_just_written(tmp_path: Path) -> None:
    deployment = {"name": "demo", "kind": "demo", "model": "demo", "output_usd_per_mtok": "1"}
    before = time.time()
    async with running_server(tmp_path, deployments=[deployment]) as server, connected(server.url) as client:
        await client.create("r1", "c1", "hello", metadata={"feature": "greeting"})
        await client.terminal("r1")
        usage = await client.event("usage.completed")
        result = await turnwire(
            tmp_path,
            *("usage", "--by", "tenant,user,route,feature,deployment,outcome,source,day", "--format", "json"),
            TURNWIRE_SERVER__DATA_DIR=str(tmp_path),
        )
        assert result.code == 0, result.err
        (one,) = json.loads(result.out)["rows"]
        assert one.pop("day") in {time.strftime("%Y-%m-%d", time.gmtime(at)) for at in (before, time.time())}
        whom = {"tenant": "default", "user": "dev", "route": "default", "feature": "greeting", "deployment": "demo"}
        sums = {name: usage[name] for name in ("input_tokens", "cached_tokens", "output_tokens", "cost_usd")}
        assert one == {**whom, "outcome": "completed", "source": usage["source"], "attempts": 1, **sums, "estimated": 0}
        # It has left nothing behind that would keep the server from going on.
        await client.create("r2", "c1", "hello")
        await client.terminal("r2")


async def test_a_cluster_is_read_from_mongodb_alone(tmp_path: Path) -> None:
    async with fresh_database() as (url, name):
        archive = MongoArchive(url, name, timeout_s=20)
        await archive.open()
        await fill(archive)
        await archive.aclose()
        result = await turnwire(
            *(tmp_path, "usage", "--since", "2026-01-01", "--format", "csv"),
            TURNWIRE_STORAGE__MONGO_URL=url,
            TURNWIRE_STORAGE__MONGO_DATABASE=name,
            TURNWIRE_STORAGE__REDIS_URL="redis://127.0.0.1:1/0",
        )
    assert result.out.splitlines()[1:] == ["acme,4,2,40,0,20,0.1000002", "other,2,1,20,0,10,1"]


async def test_a_mongodb_that_cannot_be_reached_is_named_without_its_password(tmp_path: Path) -> None:
    result = await turnwire(
        *(tmp_path, "usage"),
        TURNWIRE_STORAGE__MONGO_URL="mongodb://somebody:hidden@127.0.0.1:1/",
        TURNWIRE_STORAGE__REDIS_URL="redis://127.0.0.1:1/0",
        TURNWIRE_STORAGE__MONGO_TIMEOUT_S="0.5",
    )
    assert result.code == 1
    assert "MongoDB cannot be reached" in result.err
    assert "127.0.0.1:1" in result.err
    assert "hidden" not in result.err
    assert "Traceback" not in result.err


async def test_opening_for_reading_changes_nothing() -> None:
    async with sqlite_database() as writing:
        reading = Database(writing._data_dir)
        await reading.open_for_reading()
        try:
            await fill(SqliteArchive(writing))
            assert len(await SqliteArchive(reading).usage_sums(["tenant"])) == 2
            with pytest.raises(Exception, match="closed"):
                await reading.write(lambda db: db.execute("DELETE FROM usage"))
            with pytest.raises(Exception, match="readonly"):
                await reading.read(lambda db: db.execute("DELETE FROM usage"))
        finally:
            await reading.aclose()
