"""How CPU per delta and delay change with the number of streams."""

from __future__ import annotations

from contextlib import suppress

from benchmarks.plan import DELAY_STREAMS
from benchmarks.stand import Stand, settled, window

ROW = "streams"


async def measure(stand: Stand) -> None:
    plan = stand.plan
    kinds = ["bare", *stand.kinds]
    for count in plan.counts:
        for number in range(plan.delay_rounds if count == DELAY_STREAMS else 1):
            for kind in kinds[:: -1 if number % 2 else 1]:
                try:
                    await _run(stand, kind, count)
                except RuntimeError as error:
                    print(f"  {ROW} at {count}, {kind}: {error}", flush=True)


async def _run(stand: Stand, kind: str, count: int) -> None:
    async with stand.running(kind, "crowd") as (server, crowd):
        await crowd.ask("streams", count=count, text="Write on and on.")
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
