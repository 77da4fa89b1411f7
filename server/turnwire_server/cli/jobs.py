"""`turnwire jobs`: requests in the background and how they ended, as the archive keeps them.

It only reads, also beside a server that runs on the same data. The archive knows what is open, not whether a node works
on it or it waits: that is the log's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import anyio
import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from turnwire_server.archive.base import ArchiveUnavailable, RequestRecord
from turnwire_server.cli.archive import Shape, reading_archive
from turnwire_server.cli.common import ConfigOption, read_settings
from turnwire_server.cli.usage import cannot_be_read, time_of
from turnwire_server.settings import Settings
from turnwire_server.sqlite import DatabaseUnavailable

# Wide enough for every column where nobody's screen is known.
_PIPED_WIDTH = 200


class State(StrEnum):
    """How far a request is."""

    OPEN = "open"
    COMPLETED = "completed"
    FAILED = "failed"
    INCOMPLETE = "incomplete"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    MERGED = "merged"


def jobs(
    tenant: Annotated[str | None, typer.Option(help="Of this tenant alone.", show_default=False)] = None,
    state: Annotated[list[State] | None, typer.Option(help="In this state; several times: in one of them.")] = None,
    since: Annotated[
        str, typer.Option(help="Created from then on: a date (UTC), a time, or how long ago (7d, 24h; w, d, h, m).")
    ] = "7d",
    limit: Annotated[int, typer.Option(help="The newest so many.", min=1)] = 100,
    shape: Annotated[Shape, typer.Option("--format", help="How to print it.")] = Shape.TABLE,
    config: ConfigOption = None,
) -> None:
    """Print the requests in the background, the newest last. Times are in UTC."""
    since_ms = time_of("--since", since, datetime.now(UTC))
    settings = read_settings(config)
    try:
        found = anyio.run(_ask, settings, tenant, state or [], since_ms, limit)
    except (ArchiveUnavailable, DatabaseUnavailable) as error:
        cannot_be_read(error)
    lines = [fields_of(record) for record in reversed(found)]
    if shape is Shape.JSON:
        typer.echo(orjson.dumps(lines, option=orjson.OPT_INDENT_2).decode())
        return
    table = Table("created", "ended", "tenant", "request", "conversation", "user", "state", "reason", box=None)
    for line in lines:
        times = [_shown(line["created_at"]), _shown(line["ended_at"])]
        names = [line[name] or "" for name in ("tenant_id", "request_id", "conversation_id", "user_id", "state")]
        table.add_row(*map(escape, (*times, *names, line["reason"] or "")))
    console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=_PIPED_WIDTH)
    console.print(table)


def fields_of(record: RequestRecord) -> dict[str, Any]:
    """What is printed of a request. ``reason`` is why it has not completed, ``answer`` how much of one it has, in
    characters."""
    ended = {} if record.ending is None else record.ending["fields"]
    return {
        "created_at": record.created_at,
        "ended_at": record.ended_at,
        "tenant_id": record.tenant_id,
        "request_id": record.request_id,
        "conversation_id": record.conversation_id,
        "user_id": record.user_id,
        "state": record.state,
        "reason": ended["error"]["code"] if "error" in ended else ended.get("reason"),
        "answer": sum(len(getattr(part, "text", "")) for part in record.answer.parts) if record.answer else 0,
    }


async def _ask(
    settings: Settings, tenant: str | None, states: Sequence[str], since_ms: int, limit: int
) -> Sequence[RequestRecord]:
    async with reading_archive(settings) as archive:
        return await archive.jobs(tenant, states=[str(state) for state in states], since_ms=since_ms, limit=limit)


def _shown(at: int | None) -> str:
    return "" if at is None else datetime.fromtimestamp(at / 1000, UTC).isoformat(" ", "seconds").removesuffix("+00:00")
