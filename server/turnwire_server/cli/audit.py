"""`turnwire audit`: what administrators and operators have done, as the archive keeps it."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from turnwire_server.archive.base import Archive
from turnwire_server.archive.tenants import AuditEntry
from turnwire_server.cli.archive import Shape, with_archive
from turnwire_server.cli.common import ConfigOption, read_settings

_PAGE = 500
# Wide enough for every column where nobody's screen is known.
_PIPED_WIDTH = 200


def audit(
    tenant: Annotated[str | None, typer.Option(help="Of this tenant alone.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(help="The newest so many.", min=1)] = 100,
    shape: Annotated[Shape, typer.Option("--format", help="How to print it.")] = Shape.TABLE,
    config: ConfigOption = None,
) -> None:
    """Print the audit log, the newest last. Times are in UTC."""
    entries = with_archive(read_settings(config), lambda archive: _newest(archive, tenant, limit))[::-1]
    if shape is Shape.JSON:
        typer.echo(orjson.dumps([_fields(entry) for entry in entries], option=orjson.OPT_INDENT_2).decode())
        return
    table = Table("time", "actor", "act", "tenant", "details", box=None, header_style="dim")
    for entry in entries:
        at = datetime.fromtimestamp(entry.at / 1000, UTC).isoformat(sep=" ", timespec="seconds").replace("+00:00", "Z")
        details = orjson.dumps(entry.details).decode() if entry.details else ""
        table.add_row(*map(escape, (at, entry.actor, entry.act, entry.tenant_id, details)))
    console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=_PIPED_WIDTH)
    console.print(table)


async def _newest(archive: Archive, tenant: str | None, limit: int) -> list[AuditEntry]:
    entries: list[AuditEntry] = []
    before: str | None = None
    while len(entries) < limit:
        page = await archive.audit(tenant, limit=min(_PAGE, limit - len(entries)), before=before)
        entries += page.items
        if (before := page.next) is None:
            break
    return entries


def _fields(entry: AuditEntry) -> dict[str, Any]:
    return {
        "at": entry.at,
        "actor": entry.actor,
        "act": entry.act,
        "tenant_id": entry.tenant_id,
        "details": entry.details,
    }
