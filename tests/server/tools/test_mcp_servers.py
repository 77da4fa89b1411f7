"""MCP servers of a node, over both transports: calls, cancels, servers that die, change, hang or are not there."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from tests.server.cli.commands import turnwire
from tests.server.tools.kit import a_call, until
from tests.support.mcp_server import COMMAND, ROOT, listening, running_http
from tests.support.redis import free_port

from turnwire_server.settings import Limits, build_settings
from turnwire_server.tools.executor import ToolCall, ToolExecutor, ToolResult
from turnwire_server.tools.mcp_servers import McpServers
from turnwire_server.tools.registry import ToolRegistry

WAIT_S = 30.0


@dataclass
class Node:
    """What of a node is needed here."""

    servers: McpServers
    executor: ToolExecutor

    def call(self, tool: str, arguments: dict[str, Any] | None = None, **more: Any) -> ToolCall:
        return a_call(self.servers.tools()[tool], arguments, **more)

    async def run(self, tool: str, arguments: dict[str, Any] | None = None, **more: Any) -> ToolResult:
        return await self.executor.run(self.call(tool, arguments, **more))

    async def cancelled(self, call: ToolCall, when: Callable[[], bool]) -> ToolResult:
        """Run it and cancel it when something holds."""
        async with anyio.create_task_group() as group:
            group.start_soon(self.executor.run, call)
            await until(when, anyio.sleep)
            call.cancel()
        assert call.result is not None
        return call.result


@asynccontextmanager
async def a_node(*servers: dict[str, Any], **limits: Any) -> AsyncIterator[Node]:
    settings = Limits(**{"mcp_start_s": WAIT_S, "mcp_connect_s": WAIT_S, "mcp_retry_s": 0.05, **limits})
    tables = build_settings({"mcp_servers": list(servers)}, dict(os.environ)).mcp_servers
    found = McpServers(tables, settings, os.environ)
    executor = ToolExecutor(ToolRegistry(more=found.tools), settings)
    async with asyncio.timeout(2 * WAIT_S), anyio.create_task_group() as group:
        await found.start(group)
        yield Node(found, executor)
        await executor.aclose()
        group.cancel_scope.cancel()


def a_program(**more: Any) -> dict[str, Any]:
    env = {"PYTHONPATH": str(ROOT), **more.pop("env", {})}
    return {"name": "test", "command": COMMAND[0], "args": [*COMMAND[1:], "stdio"], "env": env, **more}


@pytest.fixture(params=["stdio", "http"])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[dict[str, Any]]:
    """The settings of a server that runs, or will be run, and writes its notes where `notes` looks."""
    env = {"MCP_TEST_NOTES": str(tmp_path / "notes")}
    if request.param == "stdio":
        yield a_program(env=env)
        return
    async with AsyncExitStack() as stack:
        yield {"name": "test", "url": await stack.enter_async_context(running_http(env))}


def notes(folder: Path) -> list[str]:
    path = folder / "notes"
    return path.read_text().split() if path.exists() else []


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True) if "mcp_server" in str(child.cmdline())}


async def test_tools_are_listed_and_called(server: dict[str, Any]) -> None:
    async with a_node(server) as node:
        tools = node.servers.tools()
        assert {"test_add", "test_count", "test_fail"} <= tools.keys()
        assert not tools["test_add"].side_effect
        assert tools["test_count"].idempotent
        result = await node.run("test_add", {"a": 1, "b": 2})
        assert (result.outcome, result.output) == ("completed", {"result": 3})
        refused = await node.run("test_add", {"a": "one"})
        assert refused.outcome == "never_started"
        failed = await node.run("test_fail", {"why": "no paper"})
        assert failed.outcome == "failed"
        assert "no paper" in failed.error


async def test_progress_of_a_server_is_progress_of_the_call(server: dict[str, Any]) -> None:
    seen: list[tuple[float | None, str | None]] = []
    async with a_node(server) as node:
        await node.run("test_count", {"to": 4}, progress=lambda *report: seen.append(report))
    assert seen
    assert {(number / 4, f"at {number}") for number in range(1, 5)}.issuperset(seen)


async def test_calls_run_side_by_side(server: dict[str, Any], tmp_path: Path) -> None:
    async with a_node(server) as node:
        hanging = node.call("test_hang")
        async with anyio.create_task_group() as group:
            group.start_soon(node.executor.run, hanging)
            await until(lambda: notes(tmp_path) == ["hangs"], anyio.sleep)
            assert (await node.run("test_add", {"a": 1, "b": 2})).outcome == "completed"
            hanging.cancel()


async def test_a_cancel_reaches_the_server(server: dict[str, Any], tmp_path: Path) -> None:
    async with a_node(server) as node:
        result = await node.cancelled(node.call("test_hang"), lambda: notes(tmp_path) == ["hangs"])
        assert result.outcome == "cancelled"
        await until(lambda: notes(tmp_path) == ["hangs", "cancelled"], anyio.sleep)
        assert (await node.run("test_add", {"a": 1, "b": 2})).outcome == "completed", "the session goes on"


async def test_a_time_out_reaches_the_server(server: dict[str, Any], tmp_path: Path) -> None:
    async with a_node({**server, "timeout_s": 0.2}) as node:
        assert (await node.run("test_hang")).outcome == "timed_out"
        await until(lambda: notes(tmp_path) == ["hangs", "cancelled"], anyio.sleep)


async def test_a_server_that_learns_a_tool_offers_it(server: dict[str, Any]) -> None:
    # Listed again now and then as well: over HTTP of 2026 a server does not speak first.
    async with a_node(server, mcp_refresh_s=0.1) as node:
        await node.run("test_learn")
        await until(lambda: "test_learned" in node.servers.tools(), anyio.sleep)
        assert (await node.run("test_learned")).outcome == "completed"


async def test_a_server_that_dies_leaves_the_effect_unknown_and_comes_back(tmp_path: Path) -> None:
    async with a_node(a_program(env={"MCP_TEST_NOTES": str(tmp_path / "notes")})) as node:
        result = await node.run("test_die")
        assert result.outcome == "unknown"
        assert "its effect is unknown" in result.error
        await until(lambda: "test_add" in node.servers.tools(), anyio.sleep)
        assert (await node.run("test_add", {"a": 1, "b": 2})).outcome == "completed"


async def test_a_server_elsewhere_that_goes_away_is_not_offered_until_it_is_back() -> None:
    port = free_port()
    command = [*COMMAND, "http", str(port)]
    url = {"name": "far", "url": f"http://127.0.0.1:{port}/mcp"}
    async with AsyncExitStack() as stack:
        process = await stack.enter_async_context(listening(command, port))
        node = await stack.enter_async_context(a_node(url, mcp_refresh_s=0.1))
        kept = node.call("far_add", {"a": 1, "b": 2})
        process.kill()
        await until(lambda: not node.servers.tools(), anyio.sleep)
        result = await node.executor.run(kept)
        assert result.outcome == "failed"
        assert "could not reach" in result.error
        await stack.enter_async_context(listening(command, port))
        await until(lambda: "far_add" in node.servers.tools(), anyio.sleep)
        assert (await node.run("far_add", {"a": 1, "b": 2})).outcome == "completed"


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ({"command": "/no/such/program"}, "No such file or directory"),
        ({"command": "sh", "args": ["-c", "echo 'no licence' >&2; exit 1"]}, "it said: no licence"),
        ({"url": "http://127.0.0.1:9/mcp"}, "ConnectError"),
    ],
)
async def test_a_server_that_cannot_be_reached_harms_nobody(server: dict[str, Any], said: str) -> None:
    async with a_node({"name": "gone", **server}, a_program()) as node:
        gone, there = node.servers.servers
        assert (gone.is_up, there.is_up) == (False, True)
        assert said in gone.fault
        assert all(name.startswith("test_") for name in node.servers.tools())


async def test_a_server_that_says_nothing_does_not_delay_the_start() -> None:
    silent = {"name": "silent", "command": "sleep", "args": ["60"]}
    with anyio.fail_after(WAIT_S):
        async with a_node(silent, mcp_start_s=0.05) as node:
            assert not node.servers.servers[0].tried.is_set()


async def test_a_server_that_says_nothing_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    silent = {"name": "silent", "command": "sleep", "args": ["60"]}
    async with a_node(silent, mcp_connect_s=0.1) as node:
        assert "did not start, answer and list its tools within 0.1 s" in node.servers.servers[0].fault
    assert "MCP server silent is not available" in caplog.text


async def test_programs_end_with_the_node() -> None:
    before = children()
    async with a_node(a_program()):
        assert children() - before
    assert children() <= before


async def test_only_the_named_tools_are_offered(caplog: pytest.LogCaptureFixture) -> None:
    async with a_node(a_program(tools=["add", "multiply"])) as node:
        assert list(node.servers.tools()) == ["test_add"]
    assert "has no tools called multiply" in caplog.text


async def test_a_program_gets_its_variables_and_no_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("THE_TOKEN", "s3cret-of-the-tests")
    monkeypatch.setenv("OPENAI_API_KEY", "not-yours")
    async with a_node(a_program(env={"TOKEN": "Bearer ${THE_TOKEN}"})) as node:
        assert (await node.run("test_environment", {"name": "TOKEN"})).output == {
            "result": "Bearer s3cret-of-the-tests"
        }
        assert (await node.run("test_environment", {"name": "OPENAI_API_KEY"})).output == {"result": "not set"}
    own = [record for record in caplog.records if record.name.startswith("turnwire_server")]
    assert not any("s3cret" in record.getMessage() for record in own)


async def test_the_command_line_says_which_servers_answer(tmp_path: Path) -> None:
    args = ", ".join(f'"{each}"' for each in [*COMMAND[1:], "stdio"])
    (tmp_path / "turnwire.toml").write_text(
        f"""
        [[mcp_servers]]
        name = "test"
        command = "{COMMAND[0]}"
        args = [{args}]
        env = {{ PYTHONPATH = "{ROOT}" }}

        [[mcp_servers]]
        name = "broken"
        command = "sh"
        args = ["-c", "echo key is $KEY >&2; exit 1"]
        env = {{ KEY = "${{THE_KEY}}" }}
        """
    )
    checked = await turnwire(tmp_path, "check", THE_KEY="s3cret-of-the-tests")
    assert checked.code == 1
    assert "offers 7 tools" in checked.out
    assert "it said: key is [hidden]" in checked.out
    assert "s3cret" not in checked.out + checked.err
