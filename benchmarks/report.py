"""What was measured, as a table and as JSON. Medians over the runs; ratios pair by pair."""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.figures import Figure
from benchmarks.kinds import KINDS
from benchmarks.stand import KEPT_UP

# Above this share of its time without a CPU that it wanted, a server was kept waiting by other work.
_UNDISTURBED = 0.05


@dataclass(frozen=True, slots=True)
class Streaming:
    """One run. A delta is a token of the provider, however many of them one event or one frame carries."""

    kind: str
    streams: int
    us_per_delta: float
    system_us_per_delta: float
    deltas_per_s: float
    waited: float
    deltas_per_event: float
    deltas_per_frame: float
    delay_p50_ms: float
    delay_p99_ms: float

    def __str__(self) -> str:
        return (
            f"{self.kind:10} {self.streams:3} streams {self.us_per_delta:6.1f} µs a delta"
            f" ({self.system_us_per_delta:.1f} in the kernel), {self.deltas_per_s:.0f} a second,"
            f" delay {self.delay_p50_ms:.1f} ms (p99 {self.delay_p99_ms:.1f} ms),"
            f" {self.waited:.0%} of the time without a CPU"
        )


@dataclass(frozen=True, slots=True)
class Idle:
    """One run."""

    kind: str
    kb_per_connection: float

    def __str__(self) -> str:
        return f"{self.kind:10} {self.kb_per_connection:6.1f} kB an idle connection"


@dataclass(slots=True)
class Results:
    plan: dict[str, Any]
    streaming: list[Streaming] = field(default_factory=list)
    idle: list[Idle] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    """Of the rows."""
    failed: list[str] = field(default_factory=list)
    """Rows that could not be measured."""
    seconds: float = 0.0

    def of(self, kind: str, name: str, streams: int | None = None) -> list[float]:
        """A figure of all runs of this kind, in their order; with so many streams, by default the plan's."""
        wanted = streams or self.plan["streams"]
        runs: list[Any] = [*(run for run in self.streaming if run.streams == wanted), *self.idle]
        return [getattr(run, name) for run in runs if run.kind == kind and hasattr(run, name)]

    def row(self, row: str, kind: str, name: str, at: int = 0) -> list[float]:
        """A row's figure of all rounds."""
        wanted = (row, kind, name, at)
        return [each.value for each in self.figures if (each.row, each.kind, each.name, each.at) == wanted]

    def places(self, row: str, kind: str) -> list[int]:
        """With how many streams, messages or events the row was measured, the fewest first."""
        return sorted({each.at for each in self.figures if (each.row, each.kind) == (row, kind)})

    @property
    def kinds(self) -> list[str]:
        """Those that were measured, the yardstick first."""
        return list(dict.fromkeys(run.kind for run in self.streaming))

    def ratios(self, kind: str, name: str, *, beside: str = "bare", streams: int | None = None) -> list[float]:
        """This kind to the other, one of each round; none if this kind does not have the figure."""
        runs = self.of(kind, name, streams)
        return [one / other for one, other in zip(runs, self.of(beside, name, streams), strict=True)] if runs else []

    @property
    def with_peers(self) -> list[tuple[str, int]]:
        """The kinds that were measured with as many streams as a peer, and with how many."""
        counts = {run.streams for run in self.streaming if KINDS[run.kind].is_peer}
        return [
            (kind, count)
            for count in sorted(counts, reverse=True)
            for kind in dict.fromkeys(run.kind for run in self.streaming if run.streams == count)
        ]


def show(results: Results) -> None:
    """Print the tables, and a warning when the machine did not keep up."""
    console = Console(width=120)
    print(f"\nmedians, {results.seconds:.0f} s in all")
    if results.of("bare", "us_per_delta"):
        console.print(_beside_bare(results))
    if results.with_peers:
        console.print(_beside_peers(results))
    rate = results.plan["rate"]
    slow = [run for run in results.streaming if run.deltas_per_s < KEPT_UP * run.streams * rate]
    if slow:
        console.print(
            f"{len(slow)} runs ({', '.join(dict.fromkeys(run.kind for run in slow))}) did not keep up with {rate:g}"
            " deltas a second and stream: use their ratios with care."
        )
    disturbed = [run for run in results.streaming if run.waited > _UNDISTURBED]
    if disturbed:
        console.print(
            f"{len(disturbed)} of {len(results.streaming)} runs had to share their CPU with other work on the machine."
            " A server that waits batches more: such figures flatter its CPU and exaggerate its delay."
        )


def write(results: Results, aims: list[dict[str, object]], path: Path) -> None:
    """Everything as JSON: `aims` and ratios first, then each run."""
    machine = {"python": sys.version.split()[0], "system": platform.platform(), "machine": platform.machine()}
    names = ("us_per_delta", "kb_per_connection")
    ours = _ours(results)
    summary = {
        kind: {name: median(ratios) for name in names if (ratios := results.ratios(kind, name))} for kind in ours
    }
    beside = {
        f"{kind}, {streams} streams": {
            mine: median(results.ratios(mine, "us_per_delta", beside=kind, streams=streams)) for mine in ours
        }
        for kind, streams in results.with_peers
    }
    first = {"aims": aims, "ratios": summary, "cpu_beside_peers": beside, "machine": machine}
    path.write_text(json.dumps({**first, **asdict(results)}, indent=2) + "\n")
    print(f"written to {path}")


def _ours(results: Results) -> list[str]:
    """Turnwire's own kinds."""
    return [kind for kind in results.kinds[1:] if not KINDS[kind].is_peer]


def _beside_bare(results: Results) -> Table:
    """All figures of Turnwire's own kinds, with the plan's streams."""
    table = Table(title=f"\n{results.plan['streams']} streams", title_justify="left")
    table.add_column("")
    table.add_column("bare", justify="right")
    for kind in _ours(results):
        table.add_column(kind, justify="right")
        table.add_column("ratio (from – to)", justify="right")
    _row(table, results, "CPU µs per delta", "us_per_delta", "{:.1f}")
    _row(table, results, "  of it in the kernel", "system_us_per_delta", "{:.1f}")
    _row(table, results, "delay ms, p50", "delay_p50_ms", "{:.2f}")
    _row(table, results, "delay ms, p99", "delay_p99_ms", "{:.2f}")
    _row(table, results, "deltas per frame", "deltas_per_frame", "{:.2f}")
    if results.idle:
        _row(table, results, "kB RSS per idle connection", "kb_per_connection", "{:.1f}")
    return table


def _beside_peers(results: Results) -> Table:
    """A line for each server; what Turnwire costs beside it is told as medians of the rounds' ratios."""
    ours = _ours(results)
    table = Table(title="\nCPU and delay beside peers", title_justify="left")
    for title in ("", "streams", "of a core", "µs a delta", "to bare", *(f"{kind} to it" for kind in ours)):
        table.add_column(title, justify="right" if title else "left")
    table.add_column("delay ms (p99)", justify="right")
    for kind, streams in results.with_peers:
        cpu, rate = (results.of(kind, name, streams) for name in ("us_per_delta", "deltas_per_s"))
        ratios = [results.ratios(kind, "us_per_delta", streams=streams)]
        ratios += [results.ratios(mine, "us_per_delta", beside=kind, streams=streams) for mine in ours]
        late = [median(results.of(kind, name, streams)) for name in ("delay_p50_ms", "delay_p99_ms")]
        table.add_row(
            kind,
            str(streams),
            f"{median(us * per_s for us, per_s in zip(cpu, rate, strict=True)) / 1e6:.0%}",
            f"{median(cpu):.1f}",
            *(f"{median(each):.2f}" for each in ratios),
            f"{late[0]:.1f} ({late[1]:.1f})",
        )
    return table


def _row(table: Table, results: Results, label: str, name: str, form: str) -> None:
    cells = [form.format(median(results.of("bare", name)))]
    for kind in _ours(results):
        ratios = results.ratios(kind, name)
        cells.append(form.format(median(results.of(kind, name))))
        cells.append(f"{median(ratios):.2f} ({min(ratios):.2f} – {max(ratios):.2f})")
    table.add_row(label, *cells)
