"""Embedded servers as processes of their own, to be killed and started again on the same data."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.nursery import Process, born

START_S = 60.0


class ServerProcess:
    """One start of the server."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.port = port
        self.url = f"ws://127.0.0.1:{port}/v1"

    async def kill(self) -> None:
        """`kill -9`, and wait until it is gone."""
        _send(self.process, signal.SIGKILL)
        await self.gone()

    async def gone(self) -> int:
        """Wait for its end; the exit code."""
        async with asyncio.timeout(START_S):
            return await self.process.gone()

    async def terminate(self) -> int:
        """SIGTERM; the exit code."""
        _send(self.process, signal.SIGTERM)
        return await self.gone()


def _send(process: Process, number: signal.Signals) -> None:
    if process.exit_code is None:
        with contextlib.suppress(ProcessLookupError):  # it has died by itself, and that is just on its way here
            os.kill(process.pid, number)


@asynccontextmanager
async def server_process(
    data_dir: Path, provider_url: str, *, port: int = 0, crash: str | None = None, **sections: Any
) -> AsyncIterator[ServerProcess]:
    """A server that listens; killed at the end of the block if it still lives. ``crash``: see `cluster_node`.
    ``sections`` stand in place of those of the configuration."""
    tree: dict[str, Any] = {
        "server": {"port": port, "data_dir": str(data_dir), "drain_s": 2, "node_id": "test-node"},
        "limits": {"commands_per_s": 10_000, "errors_per_minute": 10_000},
        "deployments": [{"name": "test", "model": "test-model", "base_url": provider_url}],
        "routes": [{"name": "default", "deployments": ["test"], "max_attempts": 1}],
        **sections,
    }
    arguments = [json.dumps(tree), "{}", *([json.dumps({"crash": crash})] if crash else [])]
    with (data_dir / "server.log").open("ab") as log:
        process = await born(arguments, log=log)
    try:
        async with asyncio.timeout(START_S):
            line = await process.line()
        yield ServerProcess(process, int(line) if line.strip() else 0)
    finally:
        _send(process, signal.SIGKILL)
        await process.gone()
