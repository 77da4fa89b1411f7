"""How CPU per delta and delay change with the number of streams."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from benchmarks.plan import DELAY_STREAMS
from benchmarks.processes import Child
from benchmarks.stand import Stand, settled, window

ROW = "streams"


async def measure(stand: Stand) -> None:
    plan = stand.plan
    kinds = ["bare", *stand.kinds]
    for number in range(plan.delay_rounds):
        for kind in kinds[:: -1 if number % 2 else 1]:
            try:
                await _run(stand, kind, (DELAY_STREAMS,) if number else plan.counts)
            except RuntimeError as error:
                # Where two cores are too few for the most streams, the figures with fewer are worth having.
                print(f"  {ROW}, {kind}: {error}", flush=True)


async def _run(stand: Stand, kind: str, counts: Sequence[int]) -> None:
    """With so many streams, and then with more of them on the same server."""
    async with stand.running(kind, "crowd") as (server, crowd):
        begun = 0
        for count in counts:
            await crowd.ask("streams", count=count - begun, text="Write on and on.")
            begun = count
            await _measure(stand, kind, count, server, crowd)


async def _measure(stand: Stand, kind: str, count: int, server: Child, crowd: Child) -> None:
    with suppress(TimeoutError):  # more than this machine can do: the part of the wanted rate says so
        await settled(crowd, count * stand.plan.rate, limit_s=5)
    found = await window(server, crowd, stand.plan.row_window_s)
    figures = {
        "CPU µs per delta": found.us_per_delta,
        "delay p50 ms": found.delay_p50_ms,
        "delay p99 ms": found.delay_p99_ms,
        "part of the wanted rate": found.deltas_per_s / (count * stand.plan.rate),
    }
    stand.note(ROW, kind, figures, count)
