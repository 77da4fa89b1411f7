"""The `turnwire` command as people run it: with a pipe, in a terminal, and as a server. It is forked, see `program`;
with ``command`` a program is started from nothing.

result = await turnwire(folder, "check")                        to its end
async with terminal(folder, "chat", url) as screen: ...         with a keyboard and a screen of its own
async with serving(folder) as server: ...                       until it listens
workers_of(server.process)                                      with --workers: its workers, by index
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import pty
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from tests.support.nursery import Child, forked
from tests.support.program import Program, started

WAIT_S = 60.0
# Three processes one after the other, on a machine that is busy with other tests.
START_S = 60.0
_MODULE = "turnwire_server"
TURNWIRE = (sys.executable, "-m", _MODULE)
Running = asyncio.subprocess.Process | Program
# Colours, titles and modes that a terminal is sent besides the text.
_ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07]*\x07|[=>])")
CTRL_C, CTRL_D = "\x03", "\x04"


def environ(**more: str) -> dict[str, str]:
    """This process's environment without what would configure a server."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "TURNWIRE_"))}
    return {**kept, "TERM": "xterm", "COLUMNS": "200", "PYTHONUNBUFFERED": "1", **more}


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended."""

    code: int | None
    out: str
    err: str


async def turnwire(
    folder: Path, *arguments: str, typed: str = "", command: tuple[str, ...] | None = None, **variables: str
) -> Result:
    """Run a command to its end."""
    process: Running
    if command is None:
        process = await started(_MODULE, *arguments, folder=folder, environ=environ(**variables))
    else:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *command, *arguments, cwd=folder, env=environ(**variables), stdin=pipe, stdout=pipe, stderr=pipe
        )
    try:
        async with asyncio.timeout(WAIT_S):
            out, err = await process.communicate(typed.encode())
    finally:
        await end(process)
    return Result(process.returncode, out.decode(), err.decode())


async def end(process: Running) -> None:
    """Kill it if need be, and close what belongs to it."""
    if isinstance(process, Program):
        await process.end()
        return
    if process.returncode is None:
        process.kill()
    async with asyncio.timeout(WAIT_S):
        await process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                await stream.read()
    process._transport.close()  # type: ignore[attr-defined]


async def end_group(parent: Running) -> None:
    """Let a parent of workers kill them and clear up, as it does when it is told a second time."""
    async with asyncio.timeout(WAIT_S):
        while parent.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                parent.terminate()
            await asyncio.sleep(0.05)


class Terminal:
    """What stands on the screen, and the keyboard."""

    def __init__(self, master: int, process: Child) -> None:
        self.raw = ""
        self._master = master
        self._process = process
        self._more = asyncio.Event()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._read_to = 0
        asyncio.get_running_loop().add_reader(master, self._readable)

    @property
    def text(self) -> str:
        """Everything shown so far, without colours."""
        return _ESCAPES.sub("", self.raw).replace("\r", "")

    def type(self, text: str) -> None:
        """Press these keys."""
        os.write(self._master, text.encode())

    def enter(self, line: str) -> None:
        self.type(f"{line}\r")

    async def shows(self, text: str) -> None:
        """Wait until this stands on the screen, below what was waited for before."""
        try:
            async with asyncio.timeout(WAIT_S):
                while (found := self.text.find(text, self._read_to)) < 0:
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            raise AssertionError(
                f"{text!r} was not shown after {self.text[: self._read_to]!r}: {self.text!r}"
            ) from None
        self._read_to = found + len(text)

    async def gone(self) -> int:
        """Wait for the end of the command; its exit code."""
        async with asyncio.timeout(WAIT_S):
            return await self._process.gone()

    async def close(self) -> None:
        """Close the window; a command that still runs is killed."""
        asyncio.get_running_loop().remove_reader(self._master)
        if self._process.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
        await self.gone()
        os.close(self._master)

    def _readable(self) -> None:
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: the other side has closed
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._master)
        self.raw += self._decoder.decode(data, not data)
        self._more.set()


@asynccontextmanager
async def terminal(folder: Path, *arguments: str, **variables: str) -> AsyncIterator[Terminal]:
    """A command in a terminal; killed at the end of the block if it still runs."""
    master, slave = pty.openpty()
    try:
        process = await forked(
            _MODULE, arguments, (slave, slave, slave), environ=environ(**variables), folder=folder, terminal=True
        )
    finally:
        os.close(slave)
    screen = Terminal(master, process)
    try:
        yield screen
    finally:
        await screen.close()


class Serving:
    """A running `turnwire serve`."""

    def __init__(self, process: Running, said: str) -> None:
        self.process = process
        self.said = said
        """What it printed until it listened."""
        found = re.search(r"ws://[^/]+:(\d+)/v1", said)
        assert found is not None, said
        self.url, self.port = found[0], found[1]

    async def line(self) -> str:
        """The next line it prints."""
        assert self.process.stdout is not None
        async with asyncio.timeout(WAIT_S):
            return (await self.process.stdout.readline()).decode()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def interrupt(self) -> None:
        """As Ctrl-C on a terminal: to the whole process group. It has one of its own, see `serving`."""
        os.killpg(self.process.pid, signal.SIGINT)

    async def gone(self) -> int:
        """Wait for its end; its exit code."""
        async with asyncio.timeout(WAIT_S):
            return await self.process.wait()


@asynccontextmanager
async def serving(
    folder: Path, *arguments: str, port: str = "0", command: tuple[str, ...] | None = None, **variables: str
) -> AsyncIterator[Serving]:
    """`turnwire serve` in `folder`, once it listens; killed at the end of the block if it still runs.

    Its log goes to ``serve.log`` in ``folder``.
    """
    with (folder / "serve.log").open("ab") as log:
        process: Running
        serve = ("serve", "--port", port, *arguments)
        variables = environ(**variables)
        if command is None:
            process = await started(_MODULE, *serve, folder=folder, environ=variables, stderr=log, group=True)
        else:
            process = await asyncio.create_subprocess_exec(
                *command,
                *serve,
                cwd=folder,
                env=variables,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                process_group=0,
            )
    try:
        assert process.stdout is not None
        said = ""
        async with asyncio.timeout(START_S):
            while not said.rstrip().endswith("Ctrl-C stops it"):
                line = await process.stdout.readline()
                assert line, f"the server did not start: {said}{(folder / 'serve.log').read_text()}"
                said += line.decode()
        yield Serving(process, said)
    finally:
        await end(process)


def workers_of(parent: Running) -> dict[int, psutil.Process]:
    """The workers of a parent that have got as far as to share figures, by index."""
    by_pid = {child.pid: child for child in psutil.Process(parent.pid).children()}
    found = {int(file.stem.removeprefix("worker-")): file.read_text() for file in _worker_files(by_pid.values())}
    return {index: by_pid[int(pid)] for index, pid in sorted(found.items()) if pid and int(pid) in by_pid}


def figures_folder(workers: Iterable[psutil.Process]) -> Path:
    """The folder that these workers share, taken from what one of them has in memory."""
    for worker in workers:
        with contextlib.suppress(psutil.Error):
            for mapped in worker.memory_maps():
                if Path(mapped.path).match("turnwire-metrics-*/*.db"):
                    return Path(mapped.path).parent
    raise AssertionError("no worker shares figures")


def _worker_files(workers: Iterable[psutil.Process]) -> Iterable[Path]:
    return figures_folder(workers).glob("worker-*.pid")
