"""`turnwire trace`: what became of one request, as a waterfall of its spans or for another program.

It only reads, as `turnwire usage` does, also beside a server that runs on the same data.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import anyio
import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from turnwire_server.archive.base import ArchiveUnavailable
from turnwire_server.cli.archive import Shape, reading_archive
from turnwire_server.cli.common import ConfigOption, fail, read_settings
from turnwire_server.settings import Settings
from turnwire_server.settings.tree import DEFAULT_TENANT
from turnwire_server.sqlite import DatabaseUnavailable
from turnwire_server.telemetry.tracing.record import merged

_BAR = 32
"""Characters of the whole time."""
_PIPED_WIDTH = 200
_SHOWN = {
    "turnwire.outcome": "",
    "turnwire.run": "run ",
    "turnwire.deployment": "",
    "turnwire.time_to_first_token_ms": "first token ",
    "gen_ai.usage.input_tokens": "in ",
    "gen_ai.usage.output_tokens": "out ",
    "turnwire.cost_usd": "$",
}
"""The attributes behind a bar, and what is written before them."""

Trace = Mapping[str, Any]


def trace(
    request_id: Annotated[str, typer.Argument(help="The request.", show_default=False)],
    tenant: Annotated[str, typer.Option(help="Its tenant.")] = DEFAULT_TENANT,
    shape: Annotated[Shape, typer.Option("--format", help="How to print it.")] = Shape.TABLE,
    config: ConfigOption = None,
) -> None:
    """Print the trace of a request: its runs, attempts and tool calls, when and how they ended and what they cost."""
    settings = read_settings(config)
    try:
        found = anyio.run(_ask, settings, tenant, request_id)
    except (ArchiveUnavailable, DatabaseUnavailable) as error:
        hint = "; start this version's server on it once" if "no such table" in str(error) else ""
        fail(f"the archive cannot be read: {error}{hint}")
    if found is None:
        fail(f"there is no trace of request {request_id!r} of tenant {tenant!r}")
    if shape is Shape.JSON:
        typer.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
        return
    console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=_PIPED_WIDTH)
    console.print(f"trace {found['trace_id']}", style="dim")
    console.print(as_table(found))
    if found["left_out"]:
        console.print(f"{found['left_out']} more spans were not kept", style="dim")


async def _ask(settings: Settings, tenant_id: str, request_id: str) -> dict[str, Any] | None:
    async with reading_archive(settings) as archive:
        return merged(list(await archive.traces(tenant_id, request_id)))


def as_table(found: Trace) -> Table:
    """A line a span, children below their parents, each with its place in the whole time."""
    spans = found["spans"]
    begin = min(span["began_ms"] for span in spans)
    whole = max(max(span["began_ms"] + span["duration_ms"] for span in spans) - begin, 0.001)
    table = Table(box=None, header_style="dim")
    table.add_column("span", no_wrap=True)
    table.add_column("begins", justify="right")
    table.add_column("takes", justify="right")
    table.add_column(f"{whole:,.0f} ms", width=_BAR, no_wrap=True)
    table.add_column("")
    for depth, span in _in_order(spans):
        style = "red" if "error" in span else "green"
        table.add_row(
            escape("  " * depth + span["name"]),
            f"{span['began_ms'] - begin:,.0f}",
            f"{span['duration_ms']:,.1f}",
            Text(bar(span["began_ms"] - begin, span["duration_ms"], whole), style=style),
            escape(_details(span)),
        )
        for event in span.get("events", ()):
            said = " ".join(str(value) for value in event["attributes"].values())
            at_ms = event["at_ms"] - begin
            mark = Text(" " * min(int(at_ms / whole * _BAR), _BAR - 1) + "·")
            name = escape("  " * (depth + 1) + event["name"].removeprefix("turnwire."))
            table.add_row(f"[dim]{name}[/dim]", f"{at_ms:,.0f}", "", mark, escape(said))
    return table


def bar(offset: float, duration: float, whole: float) -> str:
    """The span's place: at least one mark, never beyond the end."""
    first = min(int(offset / whole * _BAR), _BAR - 1)
    length = min(max(round(duration / whole * _BAR), 1), _BAR - first)
    return " " * first + "█" * length


def _in_order(spans: Sequence[Trace]) -> Iterator[tuple[int, Trace]]:
    """Spans with their depth; those whose parent is not here (a client's, or one left out) stand at the left."""
    here = {span["span_id"] for span in spans}
    children: dict[str | None, list[Trace]] = {}
    for span in spans:
        children.setdefault(span["parent_id"] if span["parent_id"] in here else None, []).append(span)

    def below(parent: str | None, depth: int) -> Iterator[tuple[int, Trace]]:
        for span in children.get(parent, ()):
            yield depth, span
            yield from below(span["span_id"], depth + 1)

    return below(None, 0)


def _details(span: Trace) -> str:
    known = span["attributes"]
    said = [f"{before}{known[name]}" for name, before in _SHOWN.items() if name in known]
    return " · ".join([*said, span["error"]] if "error" in span and span["error"] not in said else said)
