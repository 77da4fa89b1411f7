"""The parent of workers: starts them, keeps them, ends with them. Real processes; see `apart` for what is not real."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import psutil
import pytest
from tests.server.cli.apart import FAULT
from tests.server.cli.commands import START_S, WAIT_S, end_group, environ, figures_folder, workers_of
from tests.support.client import connected
from tests.support.program import Program, started
from tests.support.provider import Gate, Script, running_provider

from turnwire_server.cli.workers import restart_delay_s

_POLL_S = 0.02


class Group:
    """A parent and its workers. `log` is what all of them wrote on standard error."""

    def __init__(self, process: Program, log: Path, port: int) -> None:
        self.process = process
        self.port = port
        self.url = f"ws://127.0.0.1:{port}/v1"
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def figures_folder(self) -> Path:
        return figures_folder(self.workers())

    async def logged(self, pattern: str, times: int = 1) -> None:
        await until(lambda: len(re.findall(pattern, self.log)) >= times)

    async def figures(self) -> dict[str, float]:
        """One scrape."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.port}/metrics") as response,
        ):
            body = await response.text()
        lines = (line.rsplit(" ", 1) for line in body.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in lines}

    async def gone(self) -> int:
        async with asyncio.timeout(WAIT_S):
            return await self.process.wait()


async def until(condition, wait_s: float = WAIT_S) -> None:  # type: ignore[no-untyped-def]
    async with asyncio.timeout(wait_s):
        while not condition():
            await asyncio.sleep(_POLL_S)


@asynccontextmanager
async def parent(folder: Path, count: int, *, port: int = 0, **variables: str) -> AsyncIterator[Program]:
    with (folder / "log").open("wb") as log:
        arguments = (str(folder / "data"), str(port), str(count))
        process = await started("tests.server.cli.apart", *arguments, environ=environ(**variables), stderr=log)
    try:
        yield process
    finally:
        await process.end()


@asynccontextmanager
async def group(folder: Path, count: int = 2, **variables: str) -> AsyncIterator[Group]:
    """Workers that listen; all are dead at the end of the block."""
    async with parent(folder, count, **variables) as process:
        async with asyncio.timeout(START_S):
            line = await process.stdout.readline()
        assert line, (folder / "log").read_text()
        started = Group(process, folder / "log", int(line))
        try:
            yield started
        finally:
            await end_group(process)


async def node_of(url: str) -> str:
    async with connected(url) as client:
        return str(client.welcome["node_id"])


async def test_workers_share_one_port_under_names_of_their_own(tmp_path: Path) -> None:
    async with group(tmp_path, 3) as workers:
        assert len(workers.workers()) == 3
        found = {await node_of(workers.url) for _ in range(60)}
        assert found == {"test-node-0", "test-node-1", "test-node-2"}
        await workers.logged('"node":"test-node-2"')


async def test_one_scrape_shows_the_sum_and_a_dead_worker_s_part_of_it_that_lasts(tmp_path: Path) -> None:
    async with group(tmp_path) as workers:
        assert await _answered(workers, "hello") == 0
        for _ in range(20):
            await node_of(workers.url)
        assert await _answered(workers, "hello") == 20
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(connected(workers.url)) for _ in range(12)]
            by_node = [client.welcome["node_id"] for client in clients]
            assert len(set(by_node)) == 2
            for _ in range(6):  # whichever worker answers
                figures = await workers.figures()
                assert figures["turnwire_connections_open"] == 12
                assert {f'process_resident_memory_bytes{{worker="{index}"}}' for index in (0, 1)} <= figures.keys()
            first = workers_of(workers.process)[0]
            first.kill()
            await workers.logged("test-node-0 was killed by SIGKILL")
            # Its connections are gone, what it had answered is not.
            assert (await workers.figures())["turnwire_connections_open"] == by_node.count("test-node-1")
            await workers.logged("worker test-node-0 runs again")
            assert await _answered(workers, "hello") == 32
            assert (await workers.figures())["turnwire_connections_open"] == by_node.count("test-node-1")
        assert all(_bounded(name) for name in await workers.figures())


async def _answered(workers: Group, command: str) -> float:
    figures = await workers.figures()
    return figures.get(f'turnwire_commands_total{{outcome="ok",type="{command}"}}', 0)


def _bounded(series: str) -> bool:
    labels = set(re.findall(r'[{,](\w+)="', series))
    return labels <= {
        *("type", "outcome", "deployment", "kind", "close_code", "le", "check", "backend", "reason", "worker"),
    }


async def test_a_signal_to_the_parent_drains_all_workers_and_it_waits_for_them(tmp_path: Path) -> None:
    async with running_provider() as provider, group(tmp_path, TURNWIRE_TEST_PROVIDER=provider.base_url) as workers:
        provider.script(Script.text("Hello", gate := Gate(), " there"))
        folder = workers.figures_folder()
        async with connected(workers.url) as client:
            await client.create("r1", "c1", "hello")
            await client.until(lambda: client.text("r1") == "Hello")
            workers.process.send_signal(signal.SIGINT)
            await client.event("goaway")
            await until(lambda: len(workers.workers()) == 1)  # the idle one is gone
            assert workers.process.returncode is None
            gate.open()
            assert (await client.terminal("r1"))["type"] == "message.completed"
        assert await workers.gone() == 0
        assert not folder.exists()


async def test_a_signal_to_the_whole_group_of_processes_is_one_signal(tmp_path: Path) -> None:
    # systemd sends SIGTERM to the parent and to every worker: to a worker that must not look like a second one.
    async with running_provider() as provider, group(tmp_path, TURNWIRE_TEST_PROVIDER=provider.base_url) as workers:
        provider.script(Script.text("Hello", gate := Gate(), " there"))
        async with connected(workers.url) as client:
            await client.create("r1", "c1", "hello")
            await client.until(lambda: client.text("r1") == "Hello")
            for process in (*workers.workers(), workers.process):
                process.send_signal(signal.SIGTERM)
            await client.event("goaway")
            gate.open()
            assert (await client.terminal("r1"))["type"] == "message.completed"
        assert await workers.gone() == 0


async def test_a_second_signal_ends_everything_at_once(tmp_path: Path) -> None:
    async with running_provider() as provider, group(tmp_path, TURNWIRE_TEST_PROVIDER=provider.base_url) as workers:
        provider.script(Script.text("Hello", Gate(), " there"))
        children, folder = workers.workers(), workers.figures_folder()
        async with connected(workers.url) as client:
            await client.create("r1", "c1", "hello")
            await client.until(lambda: client.text("r1") == "Hello")
            workers.process.send_signal(signal.SIGTERM)
            await client.event("goaway")
            workers.process.send_signal(signal.SIGTERM)
            assert await workers.gone() == 128 + signal.SIGTERM
        await until(lambda: not any(_lives(child) for child in children))
        assert not folder.exists()


def _lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


async def test_workers_drain_when_their_parent_is_killed(tmp_path: Path) -> None:
    async with running_provider() as provider, group(tmp_path, TURNWIRE_TEST_PROVIDER=provider.base_url) as workers:
        provider.script(Script.text("Hello", gate := Gate(), " there"))
        children, folder = workers.workers(), workers.figures_folder()
        async with connected(workers.url) as client:
            await client.create("r1", "c1", "hello")
            await client.until(lambda: client.text("r1") == "Hello")
            workers.process.kill()
            await client.event("goaway")
            gate.open()
            assert (await client.terminal("r1"))["type"] == "message.completed"
        await until(lambda: not any(_lives(child) for child in children))
        assert not folder.exists()


async def test_a_worker_that_still_starts_does_not_outlive_its_parent(tmp_path: Path) -> None:
    async with parent(tmp_path, 1, **{FAULT: "waits:0"}) as process:
        await until(lambda: "waits for its backend" in (tmp_path / "log").read_text())
        (child,) = psutil.Process(process.pid).children()
        process.kill()
        await until(lambda: not _lives(child))


async def test_a_worker_that_is_told_to_go_is_replaced_after_its_drain(tmp_path: Path) -> None:
    async with group(tmp_path) as workers:
        (first, second) = workers.workers()
        first.send_signal(signal.SIGTERM)
        await workers.logged("has drained and ended; it is started again in 0.5 s")
        await workers.logged("runs again")
        now = workers.workers()
        assert len(now) == 2
        assert second in now
        assert first not in now


async def test_a_worker_that_cannot_start_again_is_tried_ever_more_seldom_while_the_others_serve(
    tmp_path: Path,
) -> None:
    async with group(tmp_path, **{FAULT: "fails:0:again"}) as workers:
        first = workers_of(workers.process)[0]
        first.kill()
        await workers.logged("worker test-node-0 cannot start: Redis does not answer", times=2)
        await workers.logged("worker test-node-0 could not start; it is started again in 2 s")
        assert await node_of(workers.url) == "test-node-1"
        workers.process.send_signal(signal.SIGTERM)
        assert await workers.gone() == 0


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("fails:0", "Redis does not answer"),
        ("crashes:1", "it ended with exit code 7 while it started; its log says why"),
    ],
)
async def test_what_keeps_a_worker_from_starting_stops_the_whole_and_is_said_once(
    tmp_path: Path, fault: str, said: str
) -> None:
    async with parent(tmp_path, 3, **{FAULT: fault}) as process:
        async with asyncio.timeout(WAIT_S):
            out, _ = await process.communicate()
        assert (process.returncode, out) == (1, b"")
        log = (tmp_path / "log").read_text()
        assert log.count(said) == 1
        assert "started again" not in log
        assert "Traceback" not in log


async def test_a_stop_during_the_start_does_not_wait_for_the_start(tmp_path: Path) -> None:
    async with parent(tmp_path, 2, **{FAULT: "hangs:1"}) as process:
        await until(lambda: "test-node-0" in (tmp_path / "log").read_text())
        await until(lambda: len(psutil.Process(process.pid).children()) == 2)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(WAIT_S):
            assert await process.wait() == 0


async def test_a_port_that_another_has_is_refused_even_where_it_would_be_shared(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with parent(tmp_path, 2, port=port) as process:
            async with asyncio.timeout(WAIT_S):
                await process.wait()
        assert process.returncode == 1
        log = (tmp_path / "log").read_text()
        assert log == f"cannot listen on 127.0.0.1:{port}: {os.strerror(98)}\n"


async def test_the_port_stays_taken_while_a_worker_is_away(tmp_path: Path) -> None:
    async with group(tmp_path) as workers:
        for child in workers.workers():
            child.kill()
        await workers.logged("was killed", times=2)
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", workers.port))
        await workers.logged("runs again", times=2)
        assert await node_of(workers.url)


def test_a_worker_that_keeps_dying_waits_ever_longer_but_not_for_ever() -> None:
    assert [restart_delay_s(deaths) for deaths in (1, 2, 3, 7, 8, 10_000)] == [0.5, 1, 2, 30, 30, 30]


async def test_the_worker_program_alone_says_who_starts_it() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "turnwire_server.cli.worker"),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WAIT_S):
        _, said = await process.communicate()
    assert process.returncode == 1
    assert said.decode() == "this program is started by `turnwire serve --workers`\n"
