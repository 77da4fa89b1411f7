"""`turnwire serve`: runs the server until it is told to stop, then lets it drain."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer
from rich.console import Console
from rich.table import Table

from turnwire_server import local_model
from turnwire_server.app import App, running
from turnwire_server.cli.common import ConfigOption, fail, read_settings
from turnwire_server.eventlog.base import LogUnavailable
from turnwire_server.settings import Settings
from turnwire_server.sqlite import DatabaseUnavailable, DataInUse
from turnwire_server.telemetry.logs import configure_logging

console = Console(highlight=False)


def serve(
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes any.", show_default="8787")] = None,
    workers: Annotated[int, typer.Option(help="Processes that share the port; more than one needs Redis.")] = 1,
    local: Annotated[
        bool,
        typer.Option("--local-model/--no-local-model", help="With no provider set, run a small model on this machine."),
    ] = False,
) -> None:
    """Run the server. It stops in good order on Ctrl-C or SIGTERM."""
    if workers != 1:
        fail("--workers: more than one process needs Redis, which is not part of this version", 2)
    named = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = read_settings(config, {"server": named})
    configure_logging(settings.server.log_level, secrets=settings.secret_values(os.environ))
    try:
        code = anyio.run(_serve, settings, config, named, local, backend_options={"use_uvloop": True})
    except Exception as error:
        fail(_in_words(error, settings))
    raise typer.Exit(code)


def _in_words(error: BaseException, settings: Settings) -> str:
    """What kept the server from starting, when it is something that a person can change; else it is raised again."""
    # Task groups wrap what happens in them.
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    match error:
        case DataInUse() | DatabaseUnavailable() | LogUnavailable():
            return str(error)
        case OSError():
            reason = os.strerror(error.errno) if error.errno else str(error)
            return f"cannot listen on {settings.server.host}:{settings.server.port}: {reason}"
    raise error


async def _serve(settings: Settings, config: Path | None, named: Mapping[str, Any], local: bool) -> int:
    async with AsyncExitStack() as stack:
        if local and _has_no_provider(settings):
            settings = await _with_local_model(settings, config, named, stack)
        async with anyio.create_task_group() as tasks:
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                stop = anyio.Event()
                async with running(settings) as app:
                    _announce(app)
                    tasks.start_soon(_watch, signals, stop)
                    await stop.wait()
                    console.print("[dim]going away: running turns may finish; once more ends at once[/dim]")
                tasks.cancel_scope.cancel()
    return 0


async def _watch(signals: Any, stop: anyio.Event) -> None:
    """The first signal asks to drain, the second does not ask."""
    async for number in signals:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()


def _has_no_provider(settings: Settings) -> bool:
    return all(deployment.kind == "demo" for deployment in settings.deployments)


async def _with_local_model(
    settings: Settings, config: Path | None, named: Mapping[str, Any], stack: AsyncExitStack
) -> Settings:
    """The settings with the model on this machine as their only deployment, when it can be started."""
    if not local_model.is_installed():
        console.print("[yellow]the local model is not installed here; the demonstration model answers instead[/yellow]")
        return settings
    console.print("[dim]starting the local model …[/dim]")
    try:
        model = await stack.enter_async_context(local_model.running_local_model())
    except local_model.LocalModelUnavailable as error:
        console.print(f"[yellow]the local model did not start ({error}); the demonstration model answers[/yellow]")
        return settings
    deployment = {"name": "local", "model": model.model, "base_url": model.base_url, "max_concurrency": 4}
    return read_settings(config, {"server": named, "deployments": [deployment]})


def _announce(app: App) -> None:
    settings = app.front.settings
    page = app.url.replace("ws://", "http://").removesuffix("v1")
    rows = Table.grid(padding=(0, 2))
    rows.add_row("[bold]Turnwire[/bold]", f"[bold cyan]{app.url}[/bold cyan]")
    if settings.server.playground:
        rows.add_row("playground", f"[cyan]{page}[/cyan]")
    rows.add_row("data", str(settings.server.data_dir.resolve()))
    rows.add_row("model", ", ".join(_model(deployment) for deployment in settings.deployments))
    who = "development: everybody on this machine is user 'dev'" if settings.auth.mode == "dev" else "signed tokens"
    rows.add_row("access", who)
    console.print(rows)
    if _has_no_provider(settings):
        console.print("[yellow]This is no real model. Set OPENAI_API_KEY or OPENAI_BASE_URL for one.[/yellow]")


def _model(deployment: Any) -> str:
    if deployment.kind == "demo":
        return "the built-in demonstration model"
    return f"{deployment.model} ({deployment.name}, {deployment.base_url or 'api.openai.com'})"
