"""Servers as processes of their own, to be killed and started again on the same data."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

START_S = 60.0


class ServerProcess:
    """One start of the server."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port
        self.url = f"ws://127.0.0.1:{port}/v1"

    async def kill(self) -> None:
        """`kill -9`, and wait until it is gone."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
        await self.gone()

    async def gone(self) -> int:
        """Wait for its end; the exit code."""
        async with asyncio.timeout(START_S):
            return await self.process.wait()

    async def terminate(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return await self.gone()


@asynccontextmanager
async def server_process(
    data_dir: Path, provider_url: str, *, port: int = 0, crash: str | None = None
) -> AsyncIterator[ServerProcess]:
    """A server that listens; killed at the end of the block if it still lives."""
    arguments = [str(data_dir), str(port), provider_url, *([crash] if crash else [])]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.crashing_server", *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(START_S):
            line = await process.stdout.readline()
        yield ServerProcess(process, int(line) if line.strip() else 0)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        # The pipe's transport closes with the loop only; read it to its end so that nothing warns.
        if process.stdout is not None:
            await process.stdout.read()
        process._transport.close()  # type: ignore[attr-defined]
