"""The composition root: picks the engines, puts the parts together, owns the task groups and the order of the end.

Started by the command line and by tests alike. The way out is the way in, backwards: stop listening, let turns finish,
end what is left, close the connections, then the providers, the log and the archive, the database last.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import anyio

from turnwire_protocol import CloseCode, GoAway

from .archive.base import ArchiveUnavailable
from .auth import build_authenticator
from .conversations.alerts import Alerts
from .conversations.conclude import archive_late
from .conversations.hub import ConversationHub
from .conversations.patience import until_answered
from .conversations.quotas import Quotas
from .conversations.reports import Reports
from .conversations.requests import Requests
from .conversations.services import Services
from .conversations.threads import Threads
from .engines import Engines, OpenEngines, open_embedded
from .eventlog.base import LogUnavailable
from .eventlog.group_commit import GroupCommit
from .gateway.estimates import EstimatesByTenant
from .gateway.router import Router
from .orchestration.classify import Rules
from .orchestration.guards import Guards
from .retrieval.build import opened as open_retrieval
from .settings import Settings
from .telemetry import redactor
from .telemetry.metrics import Metrics
from .telemetry.tracing import Tracer
from .tenants import TenantDirectory
from .tools.demo import DEMO_TOOLS
from .tools.executor import ToolExecutor, ToolResult
from .tools.modules import load_tools
from .tools.registry import Tool, ToolRegistry
from .transport.flush import flush, look_again, tell
from .transport.frontend import Frontend
from .transport.listener import listening

logger = logging.getLogger(__name__)

_SWEEP_S = 5.0
# Connections are told to go over this share of the drain time, so that they do not come back all at once.
_GOAWAY_SPREAD = 0.5


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


async def open_engines_for(settings: Settings, stack: AsyncExitStack) -> Engines:
    """Clustered where the settings name servers, else embedded."""
    if settings.storage.redis_url is None:
        return await open_embedded(settings, stack)
    # Loaded only here: the drivers take a third of the time that an embedded server needs to start.
    from .clustered import open_clustered

    return await open_clustered(settings, stack)


@asynccontextmanager
async def running(
    settings: Settings, environ: Mapping[str, str] = os.environ, *, open_engines: OpenEngines = open_engines_for
) -> AsyncIterator[App]:
    """A server that listens inside the block and has drained when the block is left without an exception.

    ``open_engines`` pushes onto the stack it is given what has to be closed in the end.
    Raises OSError when the port is taken, ``DataInUse`` or ``DatabaseUnavailable`` when the data cannot be had,
    ``SettingsError`` when the configured tools cannot be loaded.
    """
    async with AsyncExitStack() as stack:
        services = await _open_services(settings, environ, open_engines, stack)
        background = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(background.cancel_scope.cancel)
        background.start_soon(services.commit.run, name="group commit")
        background.start_soon(services.tracer.run, name="traces")
        turns = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(turns.cancel_scope.cancel)
        hub = ConversationHub(services, turns, flush, tell, look_again)
        threads = Threads(hub)
        requests = Requests(hub, threads, background)
        front = Frontend(services, hub, requests, threads, build_authenticator(settings), background)
        hub.roles_changed, hub.deleted = front.recheck_roles, front.deleted
        taken = await until_answered(hub.take_over_orphans, "taking over")
        if taken:
            logger.info("took over %d unfinished requests", taken)
        background.start_soon(hub.keep, name="ownership")
        background.start_soon(services.log.run, hub, name="log")
        background.start_soon(services.router.run, name="router")
        background.start_soon(services.tenants.run, name="tenants")
        background.start_soon(services.quotas.alerts.run, name="budget alerts")
        background.start_soon(services.reports.run, name="ends of jobs")
        background.start_soon(front.wheel.run, name="timers")
        background.start_soon(_sweep, services, threads, name="sweeper")
        async with listening(front):
            app = App(front)
            logger.info("listening on %s", app.url)
            yield app
            await app.drain()


async def _open_services(
    settings: Settings, environ: Mapping[str, str], open_engines: OpenEngines, stack: AsyncExitStack
) -> Services:
    # Before anything is opened: what is wrong here keeps the server from starting.
    loaded = load_tools(settings)
    guards = Guards.load(settings.guards)
    engines = await open_engines(settings, stack)
    metrics = Metrics()
    router = Router.open(settings.deployments, settings.routes, environ, metrics=metrics, board=engines.board)
    stack.push_async_callback(router.aclose)
    engines.measure(metrics)
    tools = await _open_tools(settings, environ, loaded, metrics, stack)
    estimates = EstimatesByTenant.load(settings.deployments)
    counter = estimates.counter
    opened = open_retrieval(settings, engines.documents, counter, environ)
    retrieval = await stack.enter_async_context(opened)
    secrets = [
        None if section.webhook_secret_env is None else environ[section.webhook_secret_env]
        for section in (settings.alerts, settings.jobs)
    ]
    alerts = Alerts(settings.alerts, secrets[0], engines.archive)
    reports = Reports(settings.jobs, secrets[1], engines.archive, metrics)
    return Services(
        settings=settings,
        log=engines.log,
        archive=engines.archive,
        commit=GroupCommit(engines.log, _AppendMetrics(metrics)),
        router=router,
        tools=tools,
        counter=counter,
        estimates=estimates,
        metrics=metrics,
        tracer=_open_tracer(settings, environ, engines, metrics, stack),
        tenants=TenantDirectory(settings, engines.archive),
        quotas=Quotas(engines.quotas, engines.archive, router, counter, settings.limits, metrics, alerts),
        reports=reports,
        guards=guards,
        retrieval=retrieval,
        rules=Rules(settings.routes),
        checkpoint=engines.checkpoint,
    )


async def _open_tools(
    settings: Settings, environ: Mapping[str, str], loaded: Sequence[Tool], metrics: Metrics, stack: AsyncExitStack
) -> ToolExecutor:
    def ended(tool: Tool, result: ToolResult) -> None:
        name = tool.name if tool.where == "server" else f"{tool.where}:{tool.source}"
        metrics.tool_calls_total.labels(name, result.outcome).inc()
        metrics.tool_seconds.observe(result.duration_ms / 1000)

    registry = ToolRegistry(loaded, demo_tools=DEMO_TOOLS)
    if settings.mcp_servers:
        # Imported only where it is used: the client takes as long to load as all the rest of the server.
        from .tools.mcp_servers import McpServers

        servers = McpServers(
            settings.mcp_servers,
            settings.limits,
            environ,
            seen=lambda name, is_up: metrics.mcp_server_up.labels(name).set(is_up),
        )
        group = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(group.cancel_scope.cancel)
        await servers.start(group)
        registry = ToolRegistry(loaded, demo_tools=DEMO_TOOLS, more=servers.tools)
    tools = ToolExecutor(registry, settings.limits, ended=ended)
    stack.push_async_callback(tools.aclose)
    return tools


def _open_tracer(
    settings: Settings, environ: Mapping[str, str], engines: Engines, metrics: Metrics, stack: AsyncExitStack
) -> Tracer:
    telemetry, exporter = settings.telemetry, None
    if telemetry.otlp_endpoint is not None:
        # Imported only where it is used: the exporter takes as long to load as a third of the server.
        from .telemetry.tracing.otlp import OtlpExporter

        exporter = OtlpExporter(
            telemetry.otlp_endpoint, telemetry.otlp_headers(environ), metrics, node_id=settings.server.node_id
        )
    tracer = Tracer(
        engines.archive.add_trace if telemetry.trace_record else None,
        redactor(settings.secret_values(environ)),
        metrics,
        exporter,
        sample=telemetry.sample,
        captures_content=telemetry.capture_content,
    )
    stack.push_async_callback(tracer.aclose)
    return tracer


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


async def _sweep(services: Services, threads: Threads) -> None:
    """What has to be done now and then: late archiving, trimming the log, copying the WAL back, expiry."""
    while True:
        await anyio.sleep(_SWEEP_S)
        try:
            await services.checkpoint()
            if not await services.log.elect("sweep", 2 * _SWEEP_S):
                services.metrics.unarchived_requests.set(0)
            else:
                services.metrics.unarchived_requests.set(await archive_late(services))
                await services.log.trim()
                before = await services.log.now_ms() - int(services.settings.limits.recorded_cancel_s * 1000)
                await services.archive.forget_cancels(before)
                await threads.expire()
        except (LogUnavailable, ArchiveUnavailable) as error:
            logger.warning("the sweep was put off: %s", error)
        except Exception:
            logger.exception("the sweep failed; it is tried again")
