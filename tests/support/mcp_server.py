"""An MCP server for tests, with tools that do what real ones rarely do: hang, die, change, report, tell on us.

`python -m tests.support.mcp_server stdio` or `… http PORT`. Where `MCP_TEST_NOTES` names a file, what happens to its
calls is written there, a word a line. Unrealistic in that it answers at once.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from tests.support.redis import die_with_parent, free_port

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "tests.support.mcp_server")

server = MCPServer("test")


def note(word: str) -> None:
    if path := os.environ.get("MCP_TEST_NOTES"):
        with open(path, "a", encoding="utf-8") as notes:
            notes.write(f"{word}\n")


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


@server.tool(annotations=ToolAnnotations(idempotent_hint=True, destructive_hint=False))
async def count(to: int, ctx: Context[Any, Any]) -> str:
    """Counts and says how far it is."""
    for number in range(1, to + 1):
        await ctx.report_progress(number, to, f"at {number}")
    return f"counted to {to}"


@server.tool()
def fail(why: str) -> str:
    """Fails."""
    raise ToolError(why)


@server.tool()
async def hang() -> str:
    """Never ends by itself."""
    note("hangs")
    try:
        await anyio.sleep_forever()
    finally:
        note("cancelled")
    return "never"


@server.tool()
def die() -> str:
    """Dies."""
    note("dies")
    os._exit(3)


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def environment(name: str) -> str:
    """A variable of its environment."""
    return os.environ.get(name, "not set")


@server.tool()
async def learn(ctx: Context[Any, Any]) -> str:
    """Gets one tool more, and says so."""

    def learned() -> str:
        """Was not there before."""
        return "new"

    server.add_tool(learned)
    await ctx.session.send_tool_list_changed()
    return "learned"


@asynccontextmanager
async def running_http(environ: Mapping[str, str] | None = None) -> AsyncIterator[str]:
    """The server over streamable HTTP; gives its address."""
    port = free_port()
    async with listening([*COMMAND, "http", str(port)], port, environ):
        yield f"http://127.0.0.1:{port}/mcp"


@asynccontextmanager
async def listening(
    command: list[str], port: int, environ: Mapping[str, str] | None = None
) -> AsyncIterator[subprocess.Popen[bytes]]:
    """A program that listens on the port inside the block."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **(environ or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=die_with_parent,
    )
    try:
        async with asyncio.timeout(60):
            while True:
                assert process.poll() is None, "it ended at once"
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    break
        yield process
    finally:
        process.kill()
        process.wait()


def main() -> None:
    if sys.argv[1] == "stdio":
        server.run("stdio")
    else:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[2]))


if __name__ == "__main__":
    main()
