"""The composition root: picks the engines, puts the parts together, owns the task groups and the order of the end.

Started by the command line and by tests alike. The way out is the way in, backwards: stop listening, let turns finish,
end what is left, close the connections, then the providers, the log and the archive, the database last.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass

import anyio

from turnwire_protocol import CloseCode, GoAway

from .archive import sqlite as archive_sqlite
from .archive.base import Archive, ArchiveUnavailable
from .auth import build_authenticator
from .conversations.conclude import archive_ending
from .conversations.hub import ConversationHub
from .conversations.requests import Requests
from .conversations.services import Services
from .conversations.threads import Threads
from .eventlog import sqlite as log_sqlite
from .eventlog.base import EventLog, LogUnavailable
from .eventlog.group_commit import GroupCommit
from .gateway.router import Router
from .gateway.usage import TokenCounter
from .settings import Settings
from .sqlite import Database
from .telemetry.metrics import Metrics
from .tools.executor import ToolExecutor
from .tools.registry import DEMO_TOOLS
from .transport.flush import flush, tell
from .transport.frontend import Frontend
from .transport.listener import listening

logger = logging.getLogger(__name__)

_SWEEP_S = 5.0
# Connections are told to go over this share of the drain time, so that they do not come back all at once.
_GOAWAY_SPREAD = 0.5


@dataclass(frozen=True, slots=True)
class Engines:
    """What stands behind the two ports, and what the server wants to know of it besides.

    ``checkpoint`` is the storage's own housekeeping; ``waiting`` counts the writes it has not begun.
    """

    log: EventLog
    archive: Archive
    checkpoint: Callable[[], Awaitable[None]]
    waiting: Callable[[], int]


OpenEngines = Callable[[Settings, AsyncExitStack], Awaitable[Engines]]


class App:
    """A running server. `url` is where it listens."""

    def __init__(self, front: Frontend) -> None:
        self.front = front

    def __repr__(self) -> str:
        return f"<App {self.url} sessions={len(self.front.sessions)} turns={self.front.hub.running_turns}>"

    @property
    def port(self) -> int:
        assert self.front.port is not None, "set while listening"
        return self.front.port

    @property
    def url(self) -> str:
        host = self.front.settings.server.host
        return f"ws://{f'[{host}]' if ':' in host else host}:{self.port}/v1"

    async def drain(self) -> None:
        """Going away: tell all clients, take nothing new, let turns finish, end what is left truthfully."""
        settings = self.front.settings
        drain_s = settings.server.drain_s
        self.front.hub.is_draining = True
        for session in self.front.sessions:
            jitter = 1 - _GOAWAY_SPREAD * random.random()  # noqa: S311 - only spreads the load
            session.send(
                GoAway(reason="shutdown", deadline_ms=int(drain_s * jitter * 1000), retry_after_ms=int(jitter * 1000))
            )
        logger.info("draining: %d turns run", self.front.hub.running_turns)
        await self.front.hub.drain(drain_s)
        for session in tuple(self.front.sessions):
            session.close_with(CloseCode.GOING_AWAY)


async def open_embedded(settings: Settings, stack: AsyncExitStack) -> Engines:
    """The engines that need nothing but ``data_dir``: one SQLite file for the log and the archive."""
    limits = settings.limits
    database = Database(settings.server.data_dir)
    stack.push_async_callback(database.aclose)
    await database.open([*log_sqlite.SCHEMA, *archive_sqlite.SCHEMA])
    log = log_sqlite.SqliteEventLog(
        database,
        retention_s=settings.storage.retention_s,
        reservation_s=limits.reservation_s,
        recorded_cancel_s=limits.recorded_cancel_s,
    )
    await log.open()
    stack.push_async_callback(log.aclose)
    archive = archive_sqlite.SqliteArchive(database)
    return Engines(log, archive, database.checkpoint, lambda: database.waiting)


@asynccontextmanager
async def running(
    settings: Settings, environ: Mapping[str, str] = os.environ, *, open_engines: OpenEngines = open_embedded
) -> AsyncIterator[App]:
    """A server that listens inside the block and has drained when the block is left without an exception.

    ``open_engines`` pushes onto the stack it is given what has to be closed in the end.
    Raises OSError when the port is taken, ``DataInUse`` or ``DatabaseUnavailable`` when the data cannot be had.
    """
    async with AsyncExitStack() as stack:
        services = await _open_services(settings, environ, open_engines, stack)
        background = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(background.cancel_scope.cancel)
        background.start_soon(services.commit.run, name="group commit")
        turns = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(turns.cancel_scope.cancel)
        hub = ConversationHub(services, turns, flush, tell)
        threads = Threads(hub)
        requests = Requests(hub, threads, background)
        front = Frontend(services, hub, requests, threads, build_authenticator(settings), background)
        taken = await hub.take_over_orphans()
        if taken:
            logger.info("took over %d unfinished requests", taken)
        background.start_soon(front.wheel.run, name="timers")
        background.start_soon(_sweep, services, name="sweeper")
        async with listening(front):
            app = App(front)
            logger.info("listening on %s", app.url)
            yield app
            await app.drain()


async def _open_services(
    settings: Settings, environ: Mapping[str, str], open_engines: OpenEngines, stack: AsyncExitStack
) -> Services:
    limits = settings.limits
    engines = await open_engines(settings, stack)
    router = Router.open(settings.deployments, settings.routes, environ)
    stack.push_async_callback(router.aclose)
    metrics = Metrics()
    metrics.sqlite_queue.set_function(engines.waiting)
    return Services(
        settings=settings,
        log=engines.log,
        archive=engines.archive,
        commit=GroupCommit(engines.log, _AppendMetrics(metrics)),
        router=router,
        tools=ToolExecutor(
            {tool.name: tool for tool in DEMO_TOOLS},
            timeout_s=limits.tool_timeout_s,
            output_bytes=limits.tool_output_bytes,
        ),
        counter=TokenCounter.load(),
        metrics=metrics,
        checkpoint=engines.checkpoint,
    )


class _AppendMetrics:
    """Counts and times the group commits."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    @contextmanager
    def append(self, turns: int, events: int) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._metrics.append_seconds.observe(time.monotonic() - began)
        self._metrics.append_batch_size.observe(events)
        self._metrics.events_appended_total.inc(events)


async def _sweep(services: Services) -> None:
    """What has to be done now and then: late archiving, trimming the log, copying the WAL back."""
    while True:
        await anyio.sleep(_SWEEP_S)
        try:
            for owned in await services.log.unarchived():
                assert owned.ending is not None, "a finished request has one"
                await archive_ending(services, owned, owned.ending)
                await services.log.archived(owned.request)
            await services.log.trim()
            await services.checkpoint()
        except (LogUnavailable, ArchiveUnavailable) as error:
            logger.warning("the sweep was put off: %s", error)
        except Exception:
            logger.exception("the sweep failed; it is tried again")
