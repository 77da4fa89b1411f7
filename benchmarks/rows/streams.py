"""How CPU per delta changes with the number of streams.

They are slower than elsewhere, so that one core is enough for the most of them.
"""

from __future__ import annotations

from benchmarks.provider import Pace
from benchmarks.stand import Stand, settled, window

ROW = "streams"
RATE = 20.0


async def measure(stand: Stand) -> None:
    if stand.plan.counts:
        for kind in ["bare", *stand.kinds]:
            await _run(stand, kind)


async def _run(stand: Stand, kind: str) -> None:
    """With a few streams, and then with more and more of them on the same server."""
    async with stand.running(kind, "crowd") as (server, crowd):
        begun = 0
        for count in stand.plan.counts:
            await crowd.ask("streams", count=count - begun, text=str(Pace(RATE)))
            begun = count
            await settled(crowd, count * RATE)
            found = await window(server, crowd, stand.plan.row_window_s)
            stand.note(ROW, kind, {"CPU µs per delta": found.us_per_delta, "delay p50 ms": found.delay_p50_ms}, count)
