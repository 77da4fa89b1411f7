"""`turnwire usage`: what the ledger in the archive adds up to, as a table or for another program.

It only reads, also beside a server that runs on the same data, and needs the archive alone: neither the log nor the
models have to be there.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, NoReturn, cast

import anyio
import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from turnwire_server.archive.base import ArchiveUnavailable
from turnwire_server.archive.sums import DIMENSIONS, Dimension, UsageSum, combined
from turnwire_server.cli.archive import reading_archive
from turnwire_server.cli.common import ConfigOption, fail, read_settings
from turnwire_server.gateway.usage import usd_text
from turnwire_server.settings import Settings
from turnwire_server.sqlite import DatabaseUnavailable

FIGURES = ("attempts", "estimated", "input_tokens", "cached_tokens", "output_tokens", "cost_usd")
"""The columns behind those that it is summed by."""

_AGO = re.compile(r"(\d{1,6})([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
# Wide enough for every column, since nobody's screen is known where the table is sent to a file or a program.
_PIPED_WIDTH = 200


class Format(StrEnum):
    """What is printed."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of the ledger. Times are in milliseconds since the Unix epoch."""

    by: Sequence[Dimension]
    tenant_id: str | None
    since_ms: int
    until_ms: int | None


def usage(
    tenant: Annotated[str | None, typer.Option(help="Of this tenant alone.", show_default=False)] = None,
    since: Annotated[
        str, typer.Option(help="From then on: a date (UTC), a time, or how long ago (7d, 24h; w, d, h, m).")
    ] = "30d",
    until: Annotated[str | None, typer.Option(help="Before then, in the same way.", show_default=False)] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(help=f"What to sum by, with commas or several times: {', '.join(DIMENSIONS)}."),
    ] = None,
    format_: Annotated[Format, typer.Option("--format", help="How to print it.")] = Format.TABLE,
    config: ConfigOption = None,
) -> None:
    """Print what was used and what it cost, from the ledger. Money is in USD, days are in UTC."""
    now = datetime.now(UTC)
    since_ms, until_ms = time_of("--since", since, now), None if until is None else time_of("--until", until, now)
    if until_ms is not None and until_ms <= since_ms:
        fail("--until: expected a time after --since", 2)
    question = Question(_dimensions(by or ["tenant"]), tenant, since_ms, until_ms)
    settings = read_settings(config)
    try:
        sums = anyio.run(_ask, settings, question)
    except (ArchiveUnavailable, DatabaseUnavailable) as error:
        cannot_be_read(error)
    match format_:
        case Format.TABLE:
            console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=_PIPED_WIDTH)
            console.print(as_table(question, sums))
        case Format.CSV:
            typer.echo(as_csv(question, sums), nl=False)
        case Format.JSON:
            typer.echo(as_json(question, sums))


def cannot_be_read(error: Exception) -> NoReturn:
    """The end of the command: the archive does not answer, or is of an earlier version."""
    hint = "; start this version's server on it once" if "no such " in str(error) else ""
    fail(f"the archive cannot be read: {error}{hint}")


def as_table(question: Question, sums: Sequence[UsageSum]) -> Table:
    """For people. What is not known shows as a dash; with several lines there is one of their sum."""
    table = Table(box=None, header_style="dim", show_footer=len(sums) > 1, footer_style="bold")
    whole = next(iter(combined([], _without_keys(sums))), None)
    for place, dimension in enumerate(question.by):
        table.add_column(dimension, footer="" if place else "all")
    for figure in FIGURES:
        heading = figure.removesuffix("_usd").replace("_tokens", "")
        footer = "" if whole is None else _shown(whole, figure)
        table.add_column(heading, footer=footer, justify="right")
    for one in sums:
        keys = [escape(value) if value is not None else "–" for value in one.key]
        table.add_row(*keys, *(_shown(one, figure) for figure in FIGURES))
    return table


def as_csv(question: Question, sums: Sequence[UsageSum]) -> str:
    """A line of headings and one for each sum; what is not known is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*question.by, *FIGURES])
    for one in sums:
        writer.writerow([*one.key, *_figures(one).values()])
    return out.getvalue()


def as_json(question: Question, sums: Sequence[UsageSum]) -> str:
    """One object: what was asked, and the sums. Money is a decimal string."""
    rows = [{**dict(zip(question.by, one.key, strict=True)), **_figures(one)} for one in sums]
    asked = {"tenant": question.tenant_id, "since": question.since_ms, "until": question.until_ms}
    return orjson.dumps({**asked, "by": list(question.by), "rows": rows}, option=orjson.OPT_INDENT_2).decode()


def _figures(one: UsageSum) -> dict[str, Any]:
    return {name: getattr(one, name) for name in FIGURES} | {"cost_usd": usd_text(one.cost_usd)}


def _shown(one: UsageSum, figure: str) -> str:
    return usd_text(one.cost_usd) if figure == "cost_usd" else f"{getattr(one, figure):,}"


def _without_keys(sums: Sequence[UsageSum]) -> list[UsageSum]:
    return [
        UsageSum((), one.attempts, one.estimated, one.input_tokens, one.output_tokens, one.cached_tokens, one.cost_usd)
        for one in sums
    ]


def _dimensions(said: Sequence[str]) -> list[Dimension]:
    names = [name.strip() for part in said for name in part.split(",")]
    for name in names:
        if name not in DIMENSIONS:
            fail(f"--by: expected some of {', '.join(DIMENSIONS)}, not {name!r}", 2)
    return cast(list[Dimension], list(dict.fromkeys(names)))


def when(said: str, now: datetime) -> int:
    """The time in milliseconds since the Unix epoch: a date, a time (in UTC if it does not say), or how long ago.
    Raises ValueError for anything else."""
    ago = _AGO.fullmatch(said)
    if ago is not None:
        time = now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    else:
        time = datetime.fromisoformat(said)
        time = time if time.tzinfo else time.replace(tzinfo=UTC)
    return max(0, int(time.timestamp() * 1000))


def time_of(option: str, said: str, now: datetime) -> int:
    """What `when` says, or the end of the command."""
    try:
        return when(said, now)
    except (ValueError, OverflowError):
        fail(f"{option}: expected a date (2026-01-31), a time (2026-01-31T12:00) or how long ago (7d), not {said!r}", 2)


async def _ask(settings: Settings, question: Question) -> Sequence[UsageSum]:
    async with reading_archive(settings) as archive:
        return await archive.usage_sums(
            question.by, tenant_id=question.tenant_id, since_ms=question.since_ms, until_ms=question.until_ms
        )
