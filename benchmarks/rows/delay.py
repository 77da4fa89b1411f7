"""How much later a token comes to the client than through the bare pipe."""

from __future__ import annotations

from benchmarks.stand import Stand, settled, window

ROW = "delay"
STREAMS = 50


async def measure(stand: Stand) -> None:
    kinds = ["bare", *stand.kinds]
    for number in range(stand.plan.delay_rounds):
        for kind in kinds[:: -1 if number % 2 else 1]:
            await _run(stand, kind)


async def _run(stand: Stand, kind: str) -> None:
    async with stand.running(kind, "crowd") as (server, crowd):
        await crowd.ask("streams", count=STREAMS, text="Write on and on.")
        await settled(crowd, STREAMS * stand.plan.rate)
        found = await window(server, crowd, stand.plan.row_window_s)
    stand.note(ROW, kind, {"p50 ms": found.delay_p50_ms, "p99 ms": found.delay_p99_ms})
