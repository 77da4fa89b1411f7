"""Processes of a benchmark and how they talk: one JSON object a line, orders in on stdin, answers out on stdout.

Every part runs in a process of its own, so that the operating system's own accounting says what it costs. A child ends
when its stdin closes, which also happens when its parent is killed: none is left over, and none that is not ours is
ever touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import resource
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import uvloop

Answer = dict[str, Any]
Order = Callable[[Answer], Awaitable[Answer]]

START_S = 90.0
"""LiteLLM's proxy imports for fifteen seconds where it has a core for itself."""
END_S = 10.0
_LINE_BYTES = 1 << 20
ROOT = Path(__file__).parents[1]


# --- the side of the parent ------------------------------------------------------------------------------


class Child:
    """A running child. `hello` is what it said when it was ready."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._accounts = psutil.Process(process.pid)
        self.hello: Answer = {}

    @property
    def pid(self) -> int:
        return self._process.pid

    async def read(self, wait_s: float) -> Answer:
        assert self._process.stdout is not None, "started with a pipe"
        async with asyncio.timeout(wait_s):
            line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"process {self.pid} ended, see above")
        answer: Answer = json.loads(line)
        return answer

    async def ask(self, order: str, *, wait_s: float = START_S, **values: Any) -> Answer:
        """Give an order and wait for its answer."""
        assert self._process.stdin is not None, "started with a pipe"
        self._process.stdin.write(json.dumps({"order": order, **values}).encode() + b"\n")
        return await self.read(wait_s)

    def cpu_s(self) -> tuple[float, float]:
        """User and system seconds so far, of all threads of the child and of the processes that it started.

        Processes that ended count with those that waited for them. One that ended and that nobody waited for, or whose
        parent ended first, is lost; none of the servers here has such.
        """
        while True:
            tree = [self._accounts, *self._accounts.children(recursive=True)]
            try:
                # From the root on: what ends in between is asked for itself, or is gone, and then all are asked again.
                times = [process.cpu_times() for process in tree]
            except psutil.NoSuchProcess:
                if not self._accounts.is_running():
                    raise
                continue
            return (
                sum(each.user + each.children_user for each in times),
                sum(each.system + each.children_system for each in times),
            )

    def waited_s(self) -> float:
        """Seconds its main thread was ready to run and had no CPU: other work on the machine. NaN where unknown."""
        try:
            return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[1]) / 1e9
        except (OSError, IndexError):
            return math.nan

    def rss_bytes(self) -> int:
        return int(self._accounts.memory_info().rss)

    async def end(self) -> None:
        """Close its stdin and wait; a child that does not end is killed, with what it started."""
        assert self._process.stdin is not None, "started with a pipe"
        self._process.stdin.close()
        try:
            async with asyncio.timeout(END_S):
                await self._process.wait()
        except TimeoutError:
            for process in [*self._accounts.children(recursive=True), self._accounts]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            await self._process.wait()


@dataclass(frozen=True, slots=True)
class Command:
    """What is started. It obeys the protocol of this file: a line of JSON when it is ready, the end with its stdin."""

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    """Beside this process's own environment."""
    cwd: Path = ROOT


def module(name: str, *arguments: str) -> Command:
    """`python -m benchmarks.<name>`."""
    return Command([sys.executable, "-m", f"benchmarks.{name}", *arguments])


@asynccontextmanager
async def child(command: Command) -> AsyncIterator[Child]:
    """The command's process inside the block, ready."""
    process = await asyncio.create_subprocess_exec(
        *command.argv,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=command.cwd,
        env={**os.environ, **command.env},
        limit=_LINE_BYTES,
    )
    started = Child(process)
    try:
        started.hello = await started.read(START_S)
        yield started
    finally:
        await started.end()


# --- the side of the child -------------------------------------------------------------------------------


def say(answer: Answer) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


async def obey(orders: Mapping[str, Order]) -> None:
    """Carry out orders until the parent closes stdin."""
    reader = asyncio.StreamReader(limit=_LINE_BYTES)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        while line := await reader.readline():
            message = json.loads(line)
            say(await orders[message["order"]](message))
    finally:
        transport.close()


def run(main: Awaitable[None]) -> None:
    """The child's main function: many sockets, uvloop."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    async def body() -> None:
        await main

    uvloop.run(body())
