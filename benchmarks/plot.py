"""The plot: CPU per delta by kind, and by number of streams. An SVG written by hand, so that nothing is installed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.report import Results
from benchmarks.rows import streams

_COLOURS = {"bare": "#777777", "embedded": "#0072b2", "redis": "#d55e00"}
_PEER = "#bbbbbb"
_WIDTH, _HEIGHT, _LEFT, _TOP, _BAR, _GAP = 860, 420, 110, 50, 18, 6
_PANEL = 300
_RIGHT = _LEFT + _PANEL + 120


def plot(results: Results, path: Path) -> None:
    """Write what there is of both; nothing when neither was measured."""
    parts = [*_bars(results), *_lines(results)]
    if not parts:
        return
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif"'
    ground = f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>'
    path.write_text("\n".join([f'{head} font-size="12">', ground, *parts, "</svg>\n"]))
    print(f"drawn in {path}")


def _bars(results: Results) -> list[str]:
    """A bar for each kind and number of streams: the plan's, and as many as the peers keep up with."""
    most = [(run.kind, run.streams) for run in results.streaming if run.streams == results.plan["streams"]]
    counts = list(dict.fromkeys([*most, *results.with_peers]))
    bars = [(kind, count, median(results.of(kind, "us_per_delta", count))) for kind, count in counts]
    if not bars:
        return []
    scale = _PANEL / max(us for _, _, us in bars)
    parts = [_text(_LEFT, _TOP - 24, "CPU µs per delta, by server and its streams", bold=True)]
    for number, (kind, count, us) in enumerate(bars):
        y = _TOP + number * (_BAR + _GAP)
        fill = _COLOURS.get(kind, _PEER)
        parts.append(f'<rect x="{_LEFT}" y="{y}" width="{us * scale:.1f}" height="{_BAR}" fill="{fill}"/>')
        parts.append(_text(_LEFT - 6, y + 13, f"{kind} {count}", "end"))
        parts.append(_text(_LEFT + us * scale + 4, y + 13, f"{us:.0f}"))
    return parts


def _lines(results: Results) -> list[str]:
    """A line for each kind over the number of streams, which is drawn by its logarithm."""
    lines = {kind: [(at, _cost(results, kind, at)) for at in results.places(streams.ROW, kind)] for kind in _COLOURS}
    lines = {kind: points for kind, points in lines.items() if points}
    if not lines:
        return []
    counts = sorted({at for points in lines.values() for at, _ in points})
    top = max(us for points in lines.values() for _, us in points)
    bottom = _HEIGHT - 50

    def x(at: int) -> float:
        span = math.log(counts[-1] / counts[0]) or 1
        return _RIGHT + _PANEL * math.log(at / counts[0]) / span

    def y(us: float) -> float:
        return bottom - (bottom - _TOP) * us / top

    parts = [_text(_RIGHT, _TOP - 24, "CPU µs per delta, by the number of streams", bold=True)]
    parts.append(f'<path d="M{_RIGHT} {_TOP}V{bottom}H{_RIGHT + _PANEL}" fill="none" stroke="black"/>')
    parts += [_text(x(at), bottom + 16, str(at), "middle") for at in counts]
    parts += [_text(_RIGHT - 6, y(us) + 4, f"{us:.0f}", "end") for us in _steps(top)]
    for kind, points in lines.items():
        corners = " ".join(f"{x(at):.1f},{y(us):.1f}" for at, us in points)
        parts.append(f'<polyline points="{corners}" fill="none" stroke="{_COLOURS[kind]}" stroke-width="2"/>')
        parts += [f'<circle cx="{x(at):.1f}" cy="{y(us):.1f}" r="3" fill="{_COLOURS[kind]}"/>' for at, us in points]
        parts.append(_text(_RIGHT + _PANEL, _TOP + 18 * list(lines).index(kind), kind, "end", colour=_COLOURS[kind]))
    return parts


def _cost(results: Results, kind: str, at: int) -> float:
    return median(results.row(streams.ROW, kind, "CPU µs per delta", at))


def _steps(top: float) -> Sequence[float]:
    """Round figures from 0 to the top, some five of them."""
    step = 10 ** math.floor(math.log10(top))
    while top / step < 4:
        step /= 2
    return [number * step for number in range(int(top / step) + 1)]


def _text(x: float, y: float, text: str, anchor: str = "start", *, bold: bool = False, colour: str = "black") -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{weight}>{text}</text>'
