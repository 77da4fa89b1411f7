"""`turnwire serve`: runs the server until it is told to stop, then lets it drain.

One process is the server itself; with ``--workers`` this process only looks after those in `workers`. What both have in
common is here: what is said at the start, what keeps a server from starting in words, the model on this machine.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import anyio
import typer
from rich.console import Console
from rich.table import Table

from turnwire_server import local_model
from turnwire_server.app import App, running
from turnwire_server.archive.base import ArchiveUnavailable
from turnwire_server.auth import dev_secret
from turnwire_server.cli.common import ConfigOption, fail, read_settings
from turnwire_server.cli.workers import CannotStart, Supervisor
from turnwire_server.eventlog.base import LogUnavailable
from turnwire_server.settings import Deployment, Settings, SettingsError
from turnwire_server.settings.load import DEMO_DEPLOYMENT
from turnwire_server.sqlite import DatabaseUnavailable, DataInUse
from turnwire_server.telemetry.logs import configure_logging

console = Console(highlight=False)

_ANY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound
# Answers that the small model on this machine can write at once without all of them crawling.
_LOCAL_MODEL_STREAMS = 4

# New objects, less those that are gone again, after which the collector looks at the young ones.
_COLLECT_AFTER = 20_000


def serve(
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes any.", show_default="8787")] = None,
    workers: Annotated[
        int, typer.Option(min=1, max=256, help="Processes that share the port; more than one needs Redis.")
    ] = 1,
    local: Annotated[
        bool,
        typer.Option("--local-model/--no-local-model", help="With no provider set, run a small model on this machine."),
    ] = False,
) -> None:
    """Run the server. It stops in good order on Ctrl-C or SIGTERM."""
    named = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = read_settings(config, {"server": named})
    if workers > 1:
        _check_workers(settings)
    configure_logging(settings.server.log_level, secrets=settings.secret_values(os.environ))
    _check_dev_secret(settings)
    try:
        code = anyio.run(_serve, settings, config, named, local, workers, backend_options={"use_uvloop": True})
    except Exception as error:
        fail(in_words(error, settings))
    raise typer.Exit(code)


def in_words(error: BaseException, settings: Settings) -> str:
    """What kept the server from starting, when it is something that a person can change; else it is raised again."""
    # Task groups wrap what happens in them.
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    server = settings.server
    match error:
        case (
            SettingsError()
            | DataInUse()
            | DatabaseUnavailable()
            | LogUnavailable()
            | ArchiveUnavailable()
            | CannotStart()
        ):
            return str(error)
        case socket.gaierror():
            return f"cannot listen on {server.host}: that is no address of this machine ({error.strerror})"
        case OSError():
            reason = os.strerror(error.errno) if error.errno else str(error)
            return f"cannot listen on {server.host}:{server.port}: {reason}"
    raise error from None  # without the groups around it


async def serve_one(
    settings: Settings, announce: Callable[[App], None], stop: anyio.Event, *, quiet: bool = False
) -> None:
    """This process as a server, from the start until ``stop`` is set or a signal comes, and through its drain.

    A second signal ends the process at once, which is safe: it is a crash. ``announce`` is called with the `App` once
    it listens.
    """
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_watch, signals, stop)
            async with running(settings) as app:
                spare_the_collector()
                announce(app)
                await stop.wait()
                if not quiet:
                    _say_farewell(app.front.hub.running_turns, settings)
            tasks.cancel_scope.cancel()


def spare_the_collector() -> None:
    """What a process has loaded by now stays: the collector need not look at it again and again. It comes less often,
    too: what a stream of deltas leaves behind is freed without it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 20, 20)


async def _serve(settings: Settings, config: Path | None, named: Mapping[str, Any], local: bool, workers: int) -> int:
    async with AsyncExitStack() as stack:
        if local and _is_left_open(settings):
            settings = await _with_local_model(settings, config, named, workers, stack)
        if workers == 1:
            await serve_one(settings, _announce_app, anyio.Event())
            return 0
        return await Supervisor(settings, workers).run(
            started=lambda port: _announce(settings, _url(settings, port), workers),
            stopping=lambda: _say_farewell(None, settings),
        )


async def _watch(signals: AsyncIterator[signal.Signals], stop: anyio.Event) -> None:
    """The first signal asks to drain, the second does not ask."""
    signalled = False
    async for number in signals:
        if signalled:
            os._exit(128 + number)
        signalled = True
        stop.set()


def _check_workers(settings: Settings) -> None:
    if settings.storage.redis_url is None:
        fail(
            "--workers: more than one process needs Redis for what they share; set storage.redis_url "
            "(TURNWIRE_STORAGE__REDIS_URL)",
            2,
        )
    if not hasattr(socket, "SO_REUSEPORT"):
        fail("--workers: this system cannot share a port among processes (SO_REUSEPORT)", 2)


def _check_dev_secret(settings: Settings) -> None:
    """A damaged secret is told before anything is opened."""
    if settings.auth.mode != "dev":
        return
    try:
        dev_secret(settings.server.data_dir)
    except ValueError as error:
        fail(str(error))
    except OSError as error:
        fail(f"cannot use {settings.server.data_dir}: {error.strerror}")


def _has_no_provider(settings: Settings) -> bool:
    return all(deployment.kind == "demo" for deployment in settings.deployments)


def _is_left_open(settings: Settings) -> bool:
    """Whether nobody has said which model answers, so that the demonstration model was filled in."""
    return _has_no_provider(settings) and [each.name for each in settings.deployments] == [DEMO_DEPLOYMENT]


async def _with_local_model(
    settings: Settings, config: Path | None, named: Mapping[str, Any], workers: int, stack: AsyncExitStack
) -> Settings:
    """The settings with the model on this machine as what answers, when it can be started.

    The demonstration model stays, on a route of its own: it shows what so small a model cannot do.
    """
    if not local_model.is_installed():
        console.print("[yellow]the local model is not installed here; the demonstration model answers instead[/yellow]")
        return settings
    console.print("[dim]starting the local model …[/dim]")
    try:
        model = await stack.enter_async_context(local_model.running_local_model())
    except local_model.LocalModelUnavailable as error:
        console.print(f"[yellow]the local model did not start ({error}); the demonstration model answers[/yellow]")
        return settings
    streams = max(1, _LOCAL_MODEL_STREAMS // workers)
    deployment = {"name": "local", "model": model.model, "base_url": model.base_url, "max_concurrency": streams}
    demo = {"name": DEMO_DEPLOYMENT, "kind": "demo"}
    routes = [{"name": name, "deployments": [name]} for name in ("local", DEMO_DEPLOYMENT)]
    return read_settings(config, {"server": named, "deployments": [deployment, demo], "routes": routes})


# --- what is said ---------------------------------------------------------------------------------------------------


def _announce_app(app: App) -> None:
    settings = app.front.settings
    _announce(settings, _url(settings, app.port))


def _announce(settings: Settings, url: str, workers: int = 1) -> None:
    rows = Table.grid(padding=(0, 2))
    rows.add_row("[bold]Turnwire[/bold]", f"[bold cyan]{url}[/bold cyan]")
    if settings.server.playground:
        rows.add_row("playground", f"[cyan]{url.replace('ws://', 'http://').removesuffix('v1')}[/cyan]")
    if workers > 1:
        rows.add_row("workers", f"{workers}, named {settings.server.node_id}-0 to -{workers - 1}")
    for what, where in _stores(settings):
        rows.add_row(what, where)
    rows.add_row("model", ", ".join(_model(deployment) for deployment in settings.deployments))
    rows.add_row("access", _access(settings))
    console.print(rows)
    if _has_no_provider(settings):
        console.print("[yellow]Set OPENAI_API_KEY or OPENAI_BASE_URL for a real model.[/yellow]")
    console.print("[dim]Ctrl-C stops it[/dim]")


def _say_farewell(running_turns: int | None, settings: Settings) -> None:
    count = "" if running_turns is None else f"{running_turns} "
    console.print(
        f"[dim]going away: {count}running turns have {settings.server.drain_s:g} s to finish; "
        "once more ends at once[/dim]"
    )


def _url(settings: Settings, port: int) -> str:
    """Where a client on this machine connects; an address such as 0.0.0.0 is none that `Host` may name."""
    host = "localhost" if settings.server.host in _ANY_ADDRESS else settings.server.host
    return f"ws://{f'[{host}]' if ':' in host else host}:{port}/v1"


def _stores(settings: Settings) -> list[tuple[str, str]]:
    addresses = (("log", "Redis", settings.storage.redis_url), ("archive", "MongoDB", settings.storage.mongo_url))
    found = [
        (what, f"{engine} at {_host_of(url.get_secret_value())}") for what, engine, url in addresses if url is not None
    ]
    if len(found) < len(addresses):
        found.append(("data", str(settings.server.data_dir.resolve())))
    return found


def _host_of(url: str) -> str:
    """Host and port, or several; what stands before and after them may be secret."""
    return urlsplit(url).netloc.rpartition("@")[2]


def _model(deployment: Deployment) -> str:
    if deployment.kind == "demo":
        return "the built-in demonstration model, which is no real one"
    return f"{deployment.model} at {_host_of(deployment.base_url or 'https://api.openai.com')} ({deployment.name})"


def _access(settings: Settings) -> str:
    auth = settings.auth
    if auth.mode == "dev":
        return "development: everybody on this machine is user 'dev' of tenant 'default'"
    sources = {"a shared secret": auth.jwt_secret, "a public key": auth.jwt_public_key, "a key set": auth.jwks_url}
    source = next(name for name, value in sources.items() if value is not None)
    return f"signed tokens (JWT), checked with {source}"
