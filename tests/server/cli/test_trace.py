"""`turnwire trace`: the waterfall of a request, and what is said when there is none."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest
from tests.contracts.archive_conversations import made, talk
from tests.contracts.archive_requests import asked as requested
from tests.contracts.engines import SCHEMA
from tests.contracts.kit import op
from typer.testing import CliRunner, Result

from turnwire_server.archive.sqlite import SqliteArchive
from turnwire_server.cli import app
from turnwire_server.cli.trace import bar
from turnwire_server.sqlite import Database
from turnwire_server.telemetry.tracing import RunTrace, Span
from turnwire_server.telemetry.tracing.record import record_of


def traced() -> RunTrace:
    run = Span("invoke_agent fast", 100.0, "c" * 16, "server")
    run.put(outcome="completed", run=2, cost_usd=0.5)
    run.event(100.5, "turnwire.attempt.node_lost", step=1, deployment="[one]")
    run.end(102.0)
    chat = Span("chat m", 101.0, run.span_id, "client")
    chat.put(outcome="failed")
    chat.end(102.0, "rate_limited")
    return RunTrace("acme", "r1", "d" * 32, 2, 7, (), [run, chat], left_out=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("traces")

    async def fill() -> None:
        database = Database(folder / "data")
        await database.open(SCHEMA)
        archive = SqliteArchive(database)
        await made(archive, talk())
        await archive.insert_request(op(), requested("r1"))
        assert await archive.add_trace("acme", "r1", 7, record_of(traced()))
        await database.aclose()

    anyio.run(fill)
    return folder


def asked(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["trace", *arguments], env={"TURNWIRE_SERVER__DATA_DIR": str(folder / "data")})


def test_the_table_has_a_line_for_each_span_below_its_parent_and_one_for_each_event(folder: Path) -> None:
    result = asked(folder, "r1", "--tenant", "acme")
    assert result.exit_code == 0, result.output
    head, titles, run, lost, chat, left_out = result.stdout.splitlines()
    assert head == f"trace {'d' * 32}"
    assert titles.split() == ["span", "begins", "takes", "2,000", "ms"]
    assert run.split()[:5] == ["invoke_agent", "fast", "0", "2,000.0", "█" * 32]
    assert run.rstrip().endswith("completed · run 2 · $0.5")
    assert lost.split() == ["attempt.node_lost", "500", "·", "1", "[one]"]
    assert chat.index("chat") == run.index("invoke") + 2
    assert chat.split() == ["chat", "m", "1,000", "1,000.0", "█" * 16, "failed", "·", "rate_limited"]
    assert left_out == "3 more spans were not kept"


def test_json_is_the_whole_trace(folder: Path) -> None:
    found = json.loads(asked(folder, "r1", "--tenant", "acme", "--format", "json").stdout)
    assert (found["trace_id"], found["runs"], found["left_out"]) == ("d" * 32, 1, 3)
    assert [span["name"] for span in found["spans"]] == ["invoke_agent fast", "chat m"]


def test_of_another_tenant_and_of_nothing_there_is_no_trace(folder: Path, tmp_path: Path) -> None:
    assert asked(folder, "r1").exit_code == 1
    assert "there is no trace" in asked(folder, "r1").stderr
    assert "cannot be read" in asked(tmp_path, "r1").stderr


def test_a_bar_is_seen_and_never_longer_than_there_is_room() -> None:
    assert bar(0, 0, 100) == "█"
    assert bar(100, 0, 100) == " " * 31 + "█"
    assert len(bar(50, 100, 100)) == 32
