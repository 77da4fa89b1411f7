"""How long a client that comes back waits for what it missed: from its `conversation.open` to the last missed event.

Nobody follows the conversation meanwhile, so that what was missed is read from the log. While somebody does, the newest
256 kB are in memory, in which there is room for some hundreds of events: fewer were missed then.
"""

from __future__ import annotations

from typing import Any

from benchmarks.load import quantile
from benchmarks.processes import Child
from benchmarks.stand import Stand

ROW = "resume"
FROM_LOG = 1000
FROM_MEMORY = 250
_RATE = 250.0
"""So slow that each token becomes an event of its own."""


async def measure(stand: Stand) -> None:
    for kind in stand.kinds:
        async with stand.running(kind, "waits") as (_, client):
            end = await client.ask("miss", conversation="missed", tokens=int(FROM_LOG * 1.2), rate=_RATE)
            await _resume(stand, kind, client, end, "memory", FROM_MEMORY)
            await client.ask("leave", conversation="missed")
            await _resume(stand, kind, client, end, "log", FROM_LOG)


async def _resume(stand: Stand, kind: str, client: Child, end: dict[str, Any], source: str, events: int) -> None:
    since = {"epoch": end["epoch"], "seq": end["seq"] - events}
    found = await client.ask("resume", conversation="missed", since=since, count=stand.plan.resumes)
    if found["missed"] != events:
        raise RuntimeError(f"{events} events should have been missed, not {found['missed']}")
    took = sorted(found["s"])
    figures = {f"from the {source} p50 ms": quantile(took, 0.5) * 1000, f"from the {source} worst ms": took[-1] * 1000}
    stand.note(ROW, kind, figures, events)
