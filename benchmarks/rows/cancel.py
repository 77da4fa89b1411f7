"""From the frame with the cancel to the closed socket at the provider, by the clock that both share."""

from __future__ import annotations

import asyncio
import time

from benchmarks.load import quantile
from benchmarks.stand import Stand

ROW = "cancel"
_CLOSED_WITHIN_S = 5.0


async def measure(stand: Stand) -> None:
    for kind in stand.kinds:
        async with stand.running(kind, "waits") as (_, client):
            await stand.provider.ask("hung_up")  # what other rows left is not counted
            await client.ask("cancel", count=5)
            await _hung_up(stand, 5)
            sent = (await client.ask("cancel", count=stand.plan.cancels))["at"]
            closed = await _hung_up(stand, len(sent))
        took = sorted(there - here for here, there in zip(sent, closed, strict=True))
        stand.note(ROW, kind, {"p50 ms": quantile(took, 0.5) * 1000, "p99 ms": quantile(took, 0.99) * 1000})


async def _hung_up(stand: Stand, count: int) -> list[float]:
    """When each of so many streams was closed, as the provider saw it; they are closed one after the other."""
    times: list[float] = []
    deadline = time.monotonic() + _CLOSED_WITHIN_S
    while len(times) < count and time.monotonic() < deadline:
        times += (await stand.provider.ask("hung_up"))["at"]
        await asyncio.sleep(0.05)
    if len(times) != count:
        raise RuntimeError(f"{count} streams were cancelled, and {len(times)} were closed at the provider")
    return times
