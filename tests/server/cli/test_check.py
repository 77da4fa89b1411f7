"""`turnwire check`: what it says of backends, with stand-ins for what they answer, and the command as it is run."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from rich.console import Console
from tests.server.cli.commands import turnwire

from turnwire_server.archive.base import ArchiveUnavailable
from turnwire_server.cli.check import Finding, OpenBackend, as_table, backend
from turnwire_server.eventlog.base import LogUnavailable


class StandIn:
    """A backend that answers what it is told to. Unrealistic in that it answers at once."""

    def __init__(self, facts: Mapping[str, str], missing: Sequence[str] = (), fault: Exception | None = None) -> None:
        self.is_open = False
        self._facts = facts
        self._missing = missing
        self._fault = fault

    async def ping(self) -> Sequence[str]:
        assert self.is_open
        if self._fault is not None:
            raise self._fault
        return self._missing

    async def describe(self) -> Mapping[str, str]:
        assert self.is_open
        return self._facts

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[StandIn]:
        self.is_open = True
        try:
            yield self
        finally:
            self.is_open = False


FACTS = {"mode": "sentinel", "maxmemory-policy": "noeviction", "[main] 10.0.0.1:6379": "Redis 7.0.15"}


async def test_a_backend_that_answers_is_shown_with_what_it_is() -> None:
    log = StandIn(FACTS)
    found = await backend("log", log.opened)
    assert (found.what, found.ok, found.details) == ("log", True, FACTS)
    assert found.said.startswith("takes writes, answered in ")
    assert not log.is_open


async def test_a_backend_of_which_a_part_is_away_is_not_well() -> None:
    found = await backend("log", StandIn(FACTS, ["8 of 64 partitions do not answer: refused"]).opened)
    assert (found.ok, found.said) == (False, "8 of 64 partitions do not answer: refused")
    assert found.details == FACTS


@pytest.mark.parametrize("fault", [LogUnavailable("Redis does not answer"), ArchiveUnavailable("no primary")])
async def test_a_backend_that_does_not_answer_says_why(fault: Exception) -> None:
    found = await backend("log", StandIn(FACTS, fault=fault).opened)
    assert found == Finding("log", False, str(fault))


async def test_a_backend_that_hangs_is_not_waited_for() -> None:
    @asynccontextmanager
    async def hanging() -> AsyncIterator[StandIn]:
        await anyio.sleep_forever()
        yield StandIn({})

    opening: OpenBackend = hanging
    assert await backend("archive", opening, timeout_s=0.01) == Finding(
        "archive", False, "does not answer within 0.01 s"
    )


def test_the_table_shows_facts_below_their_backend_and_takes_nothing_for_markup() -> None:
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(as_table([Finding("log", True, "takes writes", FACTS), Finding("access", False, "[bold]no")]))
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert lines == [
        "what result",
        "ok log takes writes",
        "mode sentinel",
        "maxmemory-policy noeviction",
        "[main] 10.0.0.1:6379 Redis 7.0.15",
        "no access [bold]no",
    ]


async def test_the_embedded_server_is_checked_without_starting_it(tmp_path: Path) -> None:
    result = await turnwire(tmp_path, "check")
    assert result.code == 0
    assert "writable" in result.out
    assert "demonstration model" in result.out


async def test_guards_and_prompts_that_would_not_work_are_found(tmp_path: Path) -> None:
    (tmp_path / "turnwire.toml").write_text(
        """
[[guards]]
name = "manners"
kind = "python"
python = "no_such_module_here:look"
[[deployments]]
name = "demo"
kind = "demo"
[[routes]]
name = "default"
deployments = ["demo"]
guards = ["manners"]
[tenants.acme]
prompt = "desk"
"""
    )
    (tmp_path / "kind.txt").write_text("Be kind.\n")

    async def said(*arguments: str) -> tuple[int, str]:
        result = await turnwire(tmp_path, *arguments, "--config", "turnwire.toml")
        return result.code, " ".join(result.out.split())

    await said("prompt", "add", "acme", "desk", "kind.txt")
    code, out = await said("check")
    assert code == 1
    assert "no guards guards.0.python" in out
    assert "no prompt desk of tenant acme has no released version" in out
    await said("prompt", "release", "acme", "desk", "1")
    code, out = await said("check")
    assert "ok prompt desk of tenant acme version 1 is released" in out
