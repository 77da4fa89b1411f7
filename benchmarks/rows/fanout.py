"""What it costs to send one answer to many followers, beside `websockets.broadcast`."""

from __future__ import annotations

from benchmarks.kinds import KINDS
from benchmarks.processes import child, module
from benchmarks.provider import Pace
from benchmarks.stand import KEPT_UP, Stand, settled, talking, window

ROW = "fanout"
YARDSTICK = "broadcast"


async def measure(stand: Stand) -> None:
    for kind in [YARDSTICK, *stand.kinds]:
        await _run(stand, kind)


async def _run(stand: Stand, kind: str) -> None:
    plan = stand.plan
    if kind == YARDSTICK:
        command, client = module("broadcast", "--provider", stand.places.provider_url), "bare"
    else:
        command, client = KINDS[kind].command(stand.places), KINDS[kind].client
    async with child(command) as server, talking(server, "crowd", client) as crowd:
        await crowd.ask("follow", count=plan.followers)
        # The author is one of those who get the answer. A stamp on each token: all get the same ones.
        await crowd.ask("streams", count=1, stamp_every=1, text=str(Pace(plan.rate, stamp_every=1)))
        wanted = plan.rate * (plan.followers + 1)
        await settled(crowd, wanted)
        found = await window(server, crowd, 2 * plan.row_window_s)
    if found.deltas_per_s < KEPT_UP * wanted:
        print(f"  {kind} delivered {found.deltas_per_s / wanted:.0%} of what was wanted: use with care", flush=True)
    figures = {
        "CPU µs per delivered delta": found.us_per_delta,
        "bytes per delivered delta": found.bytes_per_delta,
        "delay p50 ms": found.delay_p50_ms,
        "delay p99 ms": found.delay_p99_ms,
    }
    stand.note(ROW, kind, figures)
