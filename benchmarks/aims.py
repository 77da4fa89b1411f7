"""What the server aims at, and what was found: one table over all parts of a run. Medians over the rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median

from rich.table import Table

from benchmarks.report import Results
from benchmarks.rows import cancel, capacity, delay, fanout, first_token, history, resume, streams

_OURS = ("embedded", "redis")
_CPU = "CPU µs per delta"
_OVER_PEERS = {"socketio": 0.6, "aisdk": 0.4, "chainlit": 0.25, "litellm": 0.15}
_NOT_RISING = 1.05
"""A cost that grows by less is taken for flat: runs differ by as much."""


@dataclass(frozen=True, slots=True)
class Aim:
    measure: str
    limits: Mapping[str, float]
    """By kind."""
    find: Callable[[Results, str], float | None]
    """The figure of a kind; None when it was not measured."""
    form: str = "{:.2f}"
    is_least: bool = False
    """The limit is the least that is wanted, not the most."""

    def is_met(self, kind: str, value: float) -> bool:
        return value >= self.limits[kind] if self.is_least else value <= self.limits[kind]

    def wanted(self) -> str:
        sign = "≥" if self.is_least else "≤"
        return " / ".join(f"{sign} {limit:g}" for limit in dict.fromkeys(self.limits.values()))


def both(limit: float) -> Mapping[str, float]:
    return dict.fromkeys(_OURS, limit)


# --- how figures are found --------------------------------------------------------------------------------


def _of_runs(name: str, beside: str = "", at: int | None = None) -> Callable[[Results, str], float | None]:
    """A figure of the streaming and idle runs, or its ratio to another kind's."""

    def find(results: Results, kind: str) -> float | None:
        if not beside:
            return _median(results.of(kind, name))
        count = at  # beside a peer, with as many streams as that was measured with; else the plan's
        if beside != "bare":
            count = next((count for peer, count in results.with_peers if peer == beside), None)
        if beside != "bare" and count is None:
            return None
        return _median(results.ratios(kind, name, beside=beside, streams=count))

    return find


def _of_row(row: str, name: str, at: int = 0) -> Callable[[Results, str], float | None]:
    return lambda results, kind: _median(results.row(row, kind, name, at))


def _ratio(row: str, name: str, beside: str) -> Callable[[Results, str], float | None]:
    return lambda results, kind: _median(
        [mine / other for mine, other in _pairs(results, row, name, kind, beside) if other]
    )


def _added(row: str, name: str, beside: str) -> Callable[[Results, str], float | None]:
    return lambda results, kind: _median([mine - other for mine, other in _pairs(results, row, name, kind, beside)])


def _growth(row: str) -> Callable[[Results, str], float | None]:
    """The dearest delta of the row to the one with the fewest streams or messages."""

    def find(results: Results, kind: str) -> float | None:
        costs = [median(results.row(row, kind, _CPU, at)) for at in results.places(row, kind)]
        return max(costs[1:]) / costs[0] if len(costs) > 1 else None

    return find


def _pairs(results: Results, row: str, name: str, kind: str, beside: str) -> Iterator[tuple[float, float]]:
    return zip(results.row(row, kind, name), results.row(row, beside, name), strict=False)


def _median(values: list[float]) -> float | None:
    return median(values) if values else None


AIMS = (
    Aim("CPU per delta, to the bare pipe's", both(1.25), _of_runs("us_per_delta", "bare")),
    *(Aim(f"  to {peer}'s", both(limit), _of_runs("us_per_delta", peer)) for peer, limit in _OVER_PEERS.items()),
    Aim(
        "streams that one core sustains, to the bare pipe's",
        both(0.8),
        _ratio(capacity.ROW, "streams", "bare"),
        is_least=True,
    ),
    *(
        Aim(
            f"delay with {delay.STREAMS} streams beyond the bare pipe's, {part} ms",
            {"embedded": embedded, "redis": redis},
            _added(delay.ROW, f"{part} ms", "bare"),
            "{:+.2f}",
        )
        for part, embedded, redis in (("p50", 1, 2), ("p99", 5, 10))
    ),
    Aim(
        "first token, later than from the SDK alone, p50 ms",
        {"embedded": 3, "redis": 5},
        _added(first_token.ROW, "p50 ms", first_token.DIRECT),
        "{:+.2f}",
    ),
    Aim("cancel to the provider's closed socket, p50 ms", both(3), _of_row(cancel.ROW, "p50 ms")),
    Aim("cancel to the provider's closed socket, p99 ms", both(20), _of_row(cancel.ROW, "p99 ms")),
    Aim("kB RSS per idle connection", both(20), _of_runs("kb_per_connection"), "{:.1f}"),
    Aim(
        "CPU per delivered delta, to websockets.broadcast",
        both(1.2),
        _ratio(fanout.ROW, "CPU µs per delivered delta", fanout.YARDSTICK),
    ),
    Aim(
        f"resume of {resume.FROM_LOG} missed events from the log, p50 ms",
        both(25),
        _of_row(resume.ROW, "from the log p50 ms", resume.FROM_LOG),
    ),
    Aim(
        f"resume of {resume.FROM_MEMORY} missed events from memory, p50 ms",
        both(25),
        _of_row(resume.ROW, "from the memory p50 ms", resume.FROM_MEMORY),
    ),
    Aim("CPU per delta as streams grow, dearest to fewest", both(_NOT_RISING), _growth(streams.ROW)),
    Aim("CPU per delta as history grows, dearest to shortest", both(_NOT_RISING), _growth(history.ROW)),
)


# --- what is shown ----------------------------------------------------------------------------------------


def found(results: Results) -> list[dict[str, object]]:
    """All that was measured, for the file."""
    return [
        {"measure": aim.measure.strip(), "aim": dict(aim.limits), "found": values, "met": _all_met(aim, values)}
        for aim in AIMS
        if (values := _values(aim, results))
    ]


def table(results: Results) -> Table:
    """Aim and result of all that was measured."""
    shown = Table(title="\nAims", title_justify="left")
    for title in ("", "aim", *_OURS, "met"):
        shown.add_column(title, justify="right" if title else "left")
    for aim in AIMS:
        if values := _values(aim, results):
            cells = [aim.form.format(values[kind]) if kind in values else "" for kind in _OURS]
            missed = [kind for kind, value in values.items() if not aim.is_met(kind, value)]
            shown.add_row(aim.measure, aim.wanted(), *cells, f"not {', '.join(missed)}" if missed else "yes")
    return shown


def _values(aim: Aim, results: Results) -> dict[str, float]:
    return {kind: value for kind in _OURS if (value := aim.find(results, kind)) is not None}


def _all_met(aim: Aim, values: Mapping[str, float]) -> bool:
    return all(aim.is_met(kind, value) for kind, value in values.items())
