"""A real MCP server that others wrote, over both transports: `mcp-server-time`, alone and behind `mcp-proxy`.

They speak the protocol as it was before 2026, as most servers do. `make test` installs them.
"""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import orjson
import pytest
from tests.server.tools.test_mcp_servers import a_node
from tests.support.mcp_server import ROOT, listening
from tests.support.redis import free_port

BIN = ROOT / ".venv-mcp" / "bin"
SERVER = [str(BIN / "mcp-server-time"), "--local-timezone", "UTC"]


@pytest.fixture(params=["stdio", "http"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[dict[str, Any]]:
    if not (BIN / "mcp-proxy").exists():
        raise RuntimeError("the tests need MCP servers: run `make test`, or `make .venv-mcp/.installed`")
    if request.param == "stdio":
        yield {"name": "time", "command": SERVER[0], "args": SERVER[1:]}
        return
    port = free_port()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(listening([str(BIN / "mcp-proxy"), "--port", str(port), "--", *SERVER], port))
        yield {"name": "time", "url": f"http://127.0.0.1:{port}/mcp"}


async def test_its_tools_are_offered_with_their_schemas_and_hints(server: dict[str, Any]) -> None:
    async with a_node(server) as node:
        tools = node.servers.tools()
        assert sorted(tools) == ["time_convert_time", "time_get_current_time"]
        assert tools["time_get_current_time"].parameters["required"] == ["timezone"]
        assert tools["time_get_current_time"].description


async def test_its_tools_answer(server: dict[str, Any]) -> None:
    async with a_node(server) as node:
        result = await node.run("time_get_current_time", {"timezone": "Asia/Tokyo"})
        assert result.outcome == "completed"
        said = orjson.loads(result.output)
        assert said["timezone"] == "Asia/Tokyo"
        ago = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(said["datetime"])
        assert abs(ago) < datetime.timedelta(minutes=1)


async def test_what_it_refuses_is_told_to_the_model(server: dict[str, Any]) -> None:
    async with a_node(server) as node:
        failed = await node.run("time_get_current_time", {"timezone": "Middle/Earth"})
        assert failed.outcome == "failed"
        assert "Invalid timezone" in failed.error
        unfit = await node.run("time_get_current_time", {})
        assert unfit.outcome == "never_started"
        assert "'timezone' is a required property" in unfit.error
