"""`turnwire check`: would the server start with this configuration, and do its backends answer?"""

from __future__ import annotations

import asyncio
import os
import shutil
from dataclasses import dataclass

import aiohttp
import anyio
import typer
from rich.console import Console
from rich.table import Table

from turnwire_server.auth import build_authenticator
from turnwire_server.cli.common import ConfigOption, read_settings
from turnwire_server.settings import Deployment, Settings
from turnwire_server.sqlite import Database, DatabaseUnavailable, DataInUse

_PROVIDER_TIMEOUT_S = 5
_LITTLE_SPACE_BYTES = 1024**3


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table."""

    what: str
    ok: bool
    said: str


def check(config: ConfigOption = None) -> None:
    """Check configuration and backends; exit code 1 when something would not work."""
    settings = read_settings(config)
    findings = anyio.run(_check, settings)
    table = Table("", "what", "result", box=None, header_style="dim")
    for finding in findings:
        table.add_row("[green]ok[/green]" if finding.ok else "[red]no[/red]", finding.what, finding.said)
    Console(highlight=False).print(table)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


async def _check(settings: Settings) -> list[Finding]:
    findings = [
        Finding("configuration", True, f"{len(settings.deployments)} deployments, {len(settings.routes)} routes"),
        await _data(settings),
        _auth(settings),
    ]
    return findings + list(await asyncio.gather(*(_deployment(each) for each in settings.deployments)))


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


async def _deployment(deployment: Deployment) -> Finding:
    what = f"model {deployment.name}"
    if deployment.kind == "demo":
        return Finding(what, True, "the built-in demonstration model")
    key = deployment.api_key(os.environ)
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
