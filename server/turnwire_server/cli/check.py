"""`turnwire check`: would the server start with this configuration, and do its backends answer?

Each backend is asked twice: whether it takes a write now, with the time that took, and what it is (`describe` of the
two ports). What must not be is judged by the engines, which refuse to open; here it is only shown.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

import aiohttp
import anyio
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from turnwire_server.archive.base import ArchiveUnavailable
from turnwire_server.archive.mongo import MongoArchive
from turnwire_server.auth import build_authenticator
from turnwire_server.cli.archive import reading_archive
from turnwire_server.cli.common import ConfigOption, read_settings
from turnwire_server.eventlog.base import LogUnavailable
from turnwire_server.eventlog.redis import RedisEventLog
from turnwire_server.gateway.credentials import Credential
from turnwire_server.gateway.errors import ProviderError
from turnwire_server.orchestration.guards import Guards
from turnwire_server.settings import Deployment, McpServerSettings, Settings, SettingsError
from turnwire_server.sqlite import Database, DatabaseUnavailable, DataInUse
from turnwire_server.telemetry.redact import redactor
from turnwire_server.tools.modules import load_tools

_PROVIDER_TIMEOUT_S = 5
# A backend that fails over answers within this; one that does not is not to be waited for at a keyboard.
_BACKEND_TIMEOUT_S = 10
_LITTLE_SPACE_BYTES = 1024**3


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table, and what belongs to it on lines of its own."""

    what: str
    ok: bool
    said: str
    details: Mapping[str, str] = field(default_factory=dict)


class Backend(Protocol):
    """What of a port is needed here; `EventLog` and `Archive` have it."""

    async def ping(self) -> Sequence[str] | None:
        """Raise unless a write could be done now; returns what of it does not answer, in words."""

    async def describe(self) -> Mapping[str, str]:
        """What an operator wants to know of it, by name."""


OpenBackend = Callable[[], AbstractAsyncContextManager[Backend]]


def check(config: ConfigOption = None) -> None:
    """Check configuration and backends; exit code 1 when something would not work."""
    settings = read_settings(config)
    findings = anyio.run(_check, settings)
    Console(highlight=False).print(as_table(findings))
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def as_table(findings: Sequence[Finding]) -> Table:
    """The findings as they are shown."""
    table = Table("", "what", "result", box=None, header_style="dim")
    for finding in findings:
        mark = "[green]ok[/green]" if finding.ok else "[red]no[/red]"
        table.add_row(mark, escape(finding.what), escape(finding.said))
        for name, value in finding.details.items():
            table.add_row("", f"[dim]  {escape(name)}[/dim]", escape(value))
    return table


async def backend(what: str, open_backend: OpenBackend, *, timeout_s: float = _BACKEND_TIMEOUT_S) -> Finding:
    """A backend, opened as the server would open it, asked and closed again."""
    try:
        with anyio.fail_after(timeout_s):
            async with open_backend() as engine:
                return await _asked(what, engine)
    except (LogUnavailable, ArchiveUnavailable) as error:
        return Finding(what, False, str(error))
    except TimeoutError:
        return Finding(what, False, f"does not answer within {timeout_s:g} s")


async def _asked(what: str, engine: Backend) -> Finding:
    await engine.ping()  # connects and loads scripts; only the second shows how quick it is
    began = time.monotonic()
    missing = await engine.ping()
    answered_ms = (time.monotonic() - began) * 1000
    details = await engine.describe()
    if missing:
        return Finding(what, False, "; ".join(missing), details)
    return Finding(what, True, f"takes writes, answered in {answered_ms:.1f} ms", details)


async def _check(settings: Settings) -> list[Finding]:
    findings = [
        Finding("configuration", True, f"{len(settings.deployments)} deployments, {len(settings.routes)} routes"),
        *await _stores(settings),
        _auth(settings),
        _documents(settings),
    ]
    checks = [*map(_deployment, settings.deployments), *(_mcp_server(each, settings) for each in settings.mcp_servers)]
    findings += [*_tools(settings), *_guards(settings), *await _prompts(settings)]
    return findings + list(await asyncio.gather(*checks))


async def _stores(settings: Settings) -> list[Finding]:
    if settings.storage.redis_url is None:
        return [await _data(settings)]
    log, archive = await asyncio.gather(
        backend("log", lambda: _open_log(settings)), backend("archive", lambda: _open_archive(settings))
    )
    if log.details:
        log = replace(log, details={**log.details, "durability": settings.storage.redis_durability})
    return [log, archive]


@asynccontextmanager
async def _open_log(settings: Settings) -> AsyncIterator[Backend]:
    """As a node opens it, but owning nothing: no turn is taken over by a check."""
    storage, limits = settings.storage, settings.limits
    assert storage.redis_url is not None, "asked before"
    log = RedisEventLog(
        storage.redis_url.get_secret_value(),
        prefix=storage.redis_prefix,
        partitions=storage.partitions,
        durability=storage.redis_durability,
        timeout_s=storage.redis_timeout_s,
        retention_s=storage.retention_s,
        reservation_s=limits.reservation_s,
        recorded_cancel_s=limits.recorded_cancel_s,
    )
    try:
        await log.open()
        yield log
    finally:
        await log.aclose()


@asynccontextmanager
async def _open_archive(settings: Settings) -> AsyncIterator[Backend]:
    storage = settings.storage
    assert storage.mongo_url is not None, "set where redis_url is"
    archive = MongoArchive(
        storage.mongo_url.get_secret_value(), storage.mongo_database, timeout_s=storage.mongo_timeout_s
    )
    await archive.open()
    try:
        yield archive
    finally:
        await archive.aclose()


async def _data(settings: Settings) -> Finding:
    folder = settings.server.data_dir
    database = Database(folder)
    try:
        await database.open(())
        await database.write(lambda db: db.execute("SELECT 1").fetchone())
    except DataInUse:
        return Finding("data", True, f"{folder}: a server is using it")
    except DatabaseUnavailable as error:
        return Finding("data", False, str(error))
    finally:
        await database.aclose()
    free = shutil.disk_usage(folder).free
    enough = free > _LITTLE_SPACE_BYTES
    space = f"{free / 1024**3:.1f} GiB free" + ("" if enough else ", which is too little")
    return Finding("data", enough, f"{folder}: writable, {space}")


def _auth(settings: Settings) -> Finding:
    try:
        build_authenticator(settings)
    except (OSError, ValueError) as error:
        return Finding("access", False, str(error))
    said = "development, this machine only" if settings.auth.mode == "dev" else "signed tokens"
    return Finding("access", True, said)


def _documents(settings: Settings) -> Finding:
    """How documents are looked for, which the engine decides."""
    retrieval = settings.retrieval
    said = (
        "found by their words"
        if retrieval.embeddings is None
        else f"found by words and vectors of {retrieval.embeddings}"
    )
    if settings.storage.mongo_url is None:
        return Finding("documents", True, said)
    most = f"{retrieval.memory_bytes / 1024**2:.0f} MiB"
    return Finding("documents", True, f"{said}; words are ranked in this process's memory, {most} of it at most")


def _tools(settings: Settings) -> list[Finding]:
    if not settings.tools.modules:
        return []
    what = f"tools of {', '.join(settings.tools.modules)}"
    try:
        tools = load_tools(settings)
    except SettingsError as error:
        return [Finding(what, False, str(error))]
    return [Finding(what, True, ", ".join(tool.name for tool in tools))]


def _guards(settings: Settings) -> list[Finding]:
    if not settings.guards:
        return []
    try:
        Guards.load(settings.guards)
    except SettingsError as error:
        return [Finding("guards", False, str(error))]
    return [Finding("guards", True, ", ".join(guard.name for guard in settings.guards))]


async def _prompts(settings: Settings) -> list[Finding]:
    """Of the tenants that the configuration names: a prompt without a released version answers nobody."""
    named = {name: tenant.prompt for name, tenant in settings.tenants.items() if tenant.prompt is not None}
    if not named:
        return []
    findings = []
    try:
        async with reading_archive(settings) as archive:
            for tenant, prompt in named.items():
                record = await archive.prompt(tenant, prompt)
                released = None if record is None else record.released
                said = "has no released version" if released is None else f"version {released} is released"
                findings.append(Finding(f"prompt {prompt} of tenant {tenant}", released is not None, said))
    except (ArchiveUnavailable, DatabaseUnavailable) as error:
        findings.append(Finding("prompts", False, f"cannot be read: {error}"))
    return findings


async def _mcp_server(server: McpServerSettings, settings: Settings) -> Finding:
    from turnwire_server.tools.mcp import McpUnavailable  # as in app: slow to load
    from turnwire_server.tools.mcp_servers import probe

    what = f"MCP server {server.name}"
    try:
        tools = await probe(server, settings.limits, os.environ)
    except McpUnavailable as error:
        # What it says itself may repeat what it was given.
        return Finding(what, False, redactor(settings.secret_values(os.environ))(str(error)))
    names = {tool.name for tool in tools}
    if server.tools is not None and (missing := [name for name in server.tools if name not in names]):
        return Finding(what, False, f"has no tools called {', '.join(missing)}")
    return Finding(what, True, f"offers {len(server.tools or names)} tools")


async def _deployment(deployment: Deployment) -> Finding:
    what = f"model {deployment.name}"
    if deployment.kind == "demo":
        return Finding(what, True, "the built-in demonstration model")
    credential = Credential.of(deployment, os.environ)
    try:
        key = await credential.get()
    except ProviderError as error:
        return Finding(what, False, error.message)
    url = f"{(deployment.base_url or 'https://api.openai.com/v1').rstrip('/')}/models"
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        timeout = aiohttp.ClientTimeout(total=_PROVIDER_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url, headers=headers) as response:
            status = response.status
    except TimeoutError:
        return Finding(what, False, f"{url} did not answer within {_PROVIDER_TIMEOUT_S} s")
    except aiohttp.ClientError as error:
        return Finding(what, False, f"{url} cannot be reached: {error}")
    if status in (401, 403):
        return Finding(what, False, f"{url} refuses the key" if key else f"{url} wants a key; set api_key_env")
    if status >= 500:
        return Finding(what, False, f"{url} answers {status}")
    return Finding(what, True, f"{url} answers" + ("" if status < 400 else f" {status} (it lists no models)"))
