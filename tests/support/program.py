"""A program of the project as a process, with pipes or a terminal; there at once, see `nursery`.

program = await started("turnwire_server", "check", folder=…, environ=…)      with pipes
out, err = await program.communicate(b"typed")
program.pid, program.returncode; await program.wait(); program.kill()         as those of `asyncio.subprocess`
await program.end()                                                           killed if need be, and closed
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from tests.support.nursery import Child, forked

_END_S = 60.0


class Program:
    """One process. Made by `started`."""

    def __init__(
        self, child: Child, stdin: asyncio.WriteTransport, stdout: asyncio.StreamReader, stderr: asyncio.StreamReader
    ) -> None:
        self.pid = child.pid
        self.stdout = stdout
        self.stderr = stderr
        self._child = child
        self._stdin = stdin

    def __repr__(self) -> str:
        return f"<Program {self.pid} returncode={self.returncode}>"

    @property
    def returncode(self) -> int | None:
        """None while it lives; negative: the signal."""
        return self._child.exit_code

    async def wait(self) -> int:
        return await self._child.gone()

    async def communicate(self, typed: bytes = b"") -> tuple[bytes, bytes]:
        """Say this, and read until its end."""
        self._stdin.write(typed)
        self._stdin.write_eof()
        out, err, _ = await asyncio.gather(self.stdout.read(), self.stderr.read(), self.wait())
        return out, err

    def send_signal(self, number: signal.Signals) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it has died by itself, and that is just on its way here
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    async def end(self) -> None:
        """Kill it if need be, and close what belongs to it."""
        self.kill()
        async with asyncio.timeout(_END_S):
            await self.wait()
        for pipe in (self._stdin, self.stdout._transport, self.stderr._transport):  # type: ignore[attr-defined]
            pipe.close()


async def started(
    module: str,
    *arguments: str,
    folder: Path | None = None,
    environ: Mapping[str, str] | None = None,
    stderr: IO[bytes] | None = None,
    group: bool = False,
) -> Program:
    """``python -m module arguments`` with pipes; its errors go to ``stderr`` where that is given."""
    (its_in, stdin), (stdout, its_out), (error, its_error) = os.pipe(), os.pipe(), os.pipe()
    loop = asyncio.get_running_loop()
    try:
        files = (its_in, its_out, its_error if stderr is None else stderr.fileno())
        child = await forked(module, arguments, files, environ=environ, folder=folder, group=group)
    finally:
        for file in (its_in, its_out, its_error):
            os.close(file)
    writer, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(stdin, "wb", 0))
    return Program(child, writer, await _reader(stdout), await _reader(error))


async def _reader(file: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(file, "rb", 0)
    )
    return reader
