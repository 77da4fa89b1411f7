"""How CPU per delta changes with the messages that the conversation has already.

Several answers stream side by side in one conversation, as one alone would cost too little to be seen.
"""

from __future__ import annotations

from benchmarks.stand import Stand, settled, window

ROW = "history"
_MOST = {"redis": 1_000}
"""To make ten thousand takes the tests' MongoDB-wire server two minutes."""
_START_S = 60.0


async def measure(stand: Stand) -> None:
    for kind in stand.kinds:
        for messages in stand.plan.histories:
            if messages <= _MOST.get(kind, messages):
                await _run(stand, kind, messages)


async def _run(stand: Stand, kind: str, messages: int) -> None:
    plan = stand.plan
    async with stand.running(kind, "crowd", "--history", str(messages)) as (server, crowd):
        await crowd.ask("branches", conversation="long", count=plan.branches, text="Write on and on.", wait_s=_START_S)
        await settled(crowd, plan.branches * plan.rate)
        found = await window(server, crowd, plan.row_window_s)
    stand.note(ROW, kind, {"CPU µs per delta": found.us_per_delta, "delay p50 ms": found.delay_p50_ms}, messages)
