"""The parent of `turnwire serve --workers N`: starts the workers, keeps their number, and ends with them.

The parent serves nobody. It finds the port and holds it (bound, never listening, so it gets no connections), starts
each worker as a program of its own (`worker`), hands it the settings through its standard input, and starts it again
when it dies; meanwhile the other workers take its turns over, as other nodes would. Workers know nothing of each other.

A worker's standard input is also its life line: the parent asks for a drain through it, and when it ends without that,
the parent is dead and the worker drains as well. No signal is used: where one reaches the whole group of processes
(systemd sends one to each), a second from the parent would end the workers at once.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import pickle
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from turnwire_server.settings import Settings
from turnwire_server.telemetry.metrics import forget_worker

logger = logging.getLogger(__name__)

START_LIMIT_S = 60.0
"""Long enough for backends that fail over while the worker starts."""

COMMAND = (sys.executable, "-P", "-m", "turnwire_server.cli.worker")
DRAIN = b"d"
"""What the parent sends to a worker that is to drain."""

_REPORT_BYTES = 65_536
# The id alphabet of the wire (SPEC section 1); `welcome` carries the node's.
_ID_CHARS = 64
_PORT_TRIES = 10
# A worker that dies is started again almost at once, one that keeps dying every half minute.
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.5, 30.0
# Having run for this long a worker counts as sound: its next death is the first.
_SOUND_AFTER_S = 60.0


class CannotStart(Exception):
    """A worker did not come up; the text says why, as the server alone would have said it."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker is told through its standard input, before it begins."""

    settings: Settings
    index: int
    figures: Path
    """The folder of the figures that all workers share."""


class Supervisor:
    """Use once: `run` returns when all workers are gone."""

    def __init__(self, settings: Settings, count: int, *, command: Sequence[str] = COMMAND) -> None:
        self._settings = settings
        self._count = count
        self._command = command
        self._workers: list[_Worker] = []
        self._stop = anyio.Event()
        self._starting = anyio.CancelScope()
        self._figures: Path | None = None
        self._has_lost_one = False
        """Whether a worker that was asked to drain ended in another way."""

    async def run(self, started: Callable[[int], None], stopping: Callable[[], None]) -> int:
        """Start everything, call ``started`` with the port, and keep it running until a signal comes; the exit code.

        Raises OSError when the port cannot be had and `CannotStart` when a worker does not come up the first time.
        """
        server = self._settings.server
        with _reserved_port(server.host, server.port) as port, _figures_folder() as self._figures:
            self._workers = [_Worker(self._job(index, port), self._command) for index in range(self._count)]
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._watch, signals)
                    try:
                        await self._start_all()
                        if not self._stop.is_set():
                            started(port)
                            await self._keep_all(stopping)
                    finally:
                        await self._end_all()
                    tasks.cancel_scope.cancel()
        return 1 if self._has_lost_one else 0

    def _job(self, index: int, port: int) -> Job:
        assert self._figures is not None, "made by run"
        server = self._settings.server
        node_id = f"{server.node_id}-{index}"
        if len(node_id) > _ID_CHARS:
            raise CannotStart(f"server.node_id: too long: {node_id} would have more than {_ID_CHARS} characters")
        own = server.model_copy(update={"port": port, "node_id": node_id})
        return Job(self._settings.model_copy(update={"server": own}), index, self._figures)

    async def _watch(self, signals: AsyncIterator[signal.Signals]) -> None:
        """The first signal asks to drain, the second does not ask."""
        async for number in signals:
            if self._stop.is_set():
                for worker in self._workers:
                    worker.kill()
                if self._figures is not None:
                    shutil.rmtree(self._figures, ignore_errors=True)
                os._exit(128 + number)
            self._stop.set()
            self._starting.cancel()

    async def _start_all(self) -> None:
        """The first alone, so that what keeps all of them from starting is said once; then the others together."""
        first, *others = self._workers
        failures: list[CannotStart] = []

        async def start(worker: _Worker) -> None:
            try:
                await worker.start()
            except CannotStart as error:
                failures.append(error)
                self._starting.cancel()

        with self._starting:
            await start(first)
            async with anyio.create_task_group() as tasks:
                for worker in others:
                    tasks.start_soon(start, worker)
        if failures:
            raise failures[0]

    async def _keep_all(self, stopping: Callable[[], None]) -> None:
        async with anyio.create_task_group() as tasks:
            for worker in self._workers:
                tasks.start_soon(self._keep, worker)
            await self._stop.wait()
            stopping()
            for worker in self._workers:
                await worker.ask_to_drain()

    async def _keep(self, worker: _Worker) -> None:
        """Start this worker again whenever it is gone, until all are to stop."""
        deaths = 0
        while True:
            how = await worker.gone()
            if self._stop.is_set():
                if not worker.ended_well:
                    self._has_lost_one = True
                    logger.error("worker %s %s instead of draining", worker.name, how)
                return
            deaths = 1 if worker.ran_s >= _SOUND_AFTER_S else deaths + 1
            while not await self._started_again(worker, how, restart_delay_s(deaths)):
                if self._stop.is_set():
                    return
                deaths += 1
                how = "could not start"

    async def _started_again(self, worker: _Worker, how: str, delay_s: float) -> bool:
        logger.warning("worker %s %s; it is started again in %g s", worker.name, how, delay_s)
        with anyio.move_on_after(delay_s):
            await self._stop.wait()
        if self._stop.is_set():
            return False
        try:
            await worker.start()
        except CannotStart as error:
            if self._stop.is_set():
                return False
            # The others serve on, perhaps through an outage of the very backend that this one misses.
            logger.error("worker %s cannot start: %s", worker.name, error)
            return False
        logger.info("worker %s runs again", worker.name)
        if self._stop.is_set():  # it came too late to be asked with the others
            await worker.ask_to_drain()
        return True

    async def _end_all(self) -> None:
        """Wait for all to be gone; those that run are asked, those that still start are not."""
        with anyio.CancelScope(shield=True):
            for worker in self._workers:
                await worker.ask_to_drain()
            for worker in self._workers:
                await worker.gone()


def restart_delay_s(deaths: int) -> float:
    """How long to wait before a worker is started again that has died so many times in a row."""
    return min(_LONGEST_DELAY_S, _FIRST_DELAY_S * math.pow(2, min(deaths, 32) - 1))


class _Worker:
    """The worker of one index; one process after the other."""

    def __init__(self, job: Job, command: Sequence[str]) -> None:
        self._job = job
        self._command = command
        self.name = job.settings.server.node_id
        self.ended_well = True
        """Whether its last process has drained."""
        self._process: Process | None = None
        self._is_up = False
        self._began = 0.0
        self.ran_s = 0.0
        """How long its last process ran."""

    def __repr__(self) -> str:
        state = "gone" if self._process is None else "up" if self._is_up else "starting"
        return f"<_Worker {self.name} {state}>"

    async def start(self) -> None:
        """Returns once it listens. Raises `CannotStart`, and then it is gone."""
        self._is_up, self._began = False, time.monotonic()
        # A session of its own: a Ctrl-C in the terminal is for the parent, which then asks.
        try:
            self._process = await anyio.open_process(self._command, stderr=None, start_new_session=True)
        except OSError as refused:
            raise CannotStart(f"no process can be started: {refused.strerror}") from refused
        try:
            with anyio.fail_after(START_LIMIT_S):
                error = await self._tell_and_hear(self._process)
        except TimeoutError:
            error = f"it did not start within {START_LIMIT_S:g} s"
        except BaseException:
            self.kill()
            raise
        if error is None:
            self._is_up = True
            return
        self.kill()
        await self.gone()
        raise CannotStart(error)

    async def _tell_and_hear(self, process: Process) -> str | None:
        """Hand over the job; None once it listens, else what keeps it from that."""
        assert process.stdin is not None
        assert process.stdout is not None
        job = pickle.dumps(self._job)
        try:
            await process.stdin.send(struct.pack(">I", len(job)) + job)
            line = await BufferedByteReceiveStream(process.stdout).receive_until(b"\n", _REPORT_BYTES)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, anyio.IncompleteRead):
            return f"it {_how(await process.wait())} while it started; its log says why"
        report = json.loads(line)
        return None if report.get("error") is None else str(report["error"])

    async def gone(self) -> str:
        """Wait for its end and clear up after it; how it ended, in words. At once when there is no process."""
        if self._process is None:
            return "was not running"
        process = self._process
        code = await process.wait()
        if process is self._process:
            self._process, self._is_up = None, False
            self.ran_s, self.ended_well = time.monotonic() - self._began, code == 0
            forget_worker(self._job.figures, self._job.index)
            await process.aclose()
        return _how(code)

    async def ask_to_drain(self) -> None:
        """It lets its turns finish and ends. One that does not listen yet has nothing to finish and is killed."""
        if self._process is None:
            return
        if not self._is_up:
            self.kill()
            return
        assert self._process.stdin is not None
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await self._process.stdin.send(DRAIN)
            await self._process.stdin.aclose()

    def kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()


def _how(code: int) -> str:
    if code >= 0:
        return "has drained and ended" if code == 0 else f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


@contextmanager
def _figures_folder() -> Iterator[Path]:
    """A folder that only this user can read, gone at the end."""
    with tempfile.TemporaryDirectory(prefix="turnwire-metrics-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextmanager
def _reserved_port(host: str, port: int) -> Iterator[int]:
    """The port, bound on all addresses of ``host`` for as long as the block lasts: nobody else takes it while no worker
    listens. With port 0 a free one is found. Raises OSError when it cannot be had."""
    sockets: list[socket.socket] = []
    try:
        for tries_left in reversed(range(_PORT_TRIES)):
            try:
                sockets = _bind(host, port)
                break
            except OSError as error:
                # Free on the first address and taken on the second: another one is as good.
                if port != 0 or error.errno != errno.EADDRINUSE or not tries_left:
                    raise
        yield sockets[0].getsockname()[1]
    finally:
        for bound in sockets:
            bound.close()


def _bind(host: str, port: int) -> list[socket.socket]:
    bound: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(found):
            wanted = (address[0], port, *address[2:])
            # SO_REUSEPORT would let this group of workers in beside another server's: ask without it first.
            if port != 0:
                _socket(family, kind, protocol, wanted, shared=False).close()
            bound.append(_socket(family, kind, protocol, wanted, shared=True))
            port = bound[0].getsockname()[1]
    except BaseException:
        for each in bound:
            each.close()
        raise
    return bound


def _socket(family: int, kind: int, protocol: int, address: tuple[object, ...], *, shared: bool) -> socket.socket:
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:  # as asyncio does: :: is not also 0.0.0.0
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
    except BaseException:
        made.close()
        raise
    return made
