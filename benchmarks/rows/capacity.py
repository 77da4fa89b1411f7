"""How many streams one core sustains: the server has a core for itself, everything else has the others.

Sustained: 97 % of the wanted rate comes, and 99 % of the tokens within 50 ms. Each probe has a fresh server; after a
first one, whose CPU says where to look, the range is halved.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress

import psutil

from benchmarks.stand import KEPT_UP, Stand, settled, window

ROW = "capacity"
MOST_P99_MS = 50.0
_FIRST = 150
_SETTLE_S = 5.0
_START_S = 15.0


async def measure(stand: Stand) -> None:
    if not stand.plan.capacity_probes:
        return
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        print("  capacity: needs two cores, and a system on which processes can be kept to one")
        return
    with _kept_to(cores[1:]):
        for kind in ["bare", *stand.kinds]:
            await _search(stand, kind, cores[0])


async def _search(stand: Stand, kind: str, core: int) -> None:
    lowest, highest = 0, _FIRST
    if share := await _share_of_core(stand, kind, core, _FIRST):
        # A delta gets cheaper the busier a server is: it may be more than the share says.
        lowest, highest = _FIRST, int(_FIRST / share * 1.4)
    for _ in range(stand.plan.capacity_probes):
        middle = (lowest + highest) // 2
        if await _share_of_core(stand, kind, core, middle):
            lowest = middle
        else:
            highest = middle
    stand.note(ROW, kind, {"streams": lowest, "not sustained": highest})


async def _share_of_core(stand: Stand, kind: str, core: int, streams: int) -> float:
    """What part of the core so many streams take; 0 when they are not sustained."""
    wanted = streams * stand.plan.rate
    async with stand.running(kind, "crowd") as (server, crowd):
        _keep(psutil.Process(server.pid), [core])
        try:
            await crowd.ask("streams", count=streams, text="Write on and on.", wait_s=_START_S)
            await settled(crowd, wanted, _SETTLE_S)
            found = await window(server, crowd, stand.plan.row_window_s)
        except (TimeoutError, RuntimeError) as error:
            print(f"    {kind} {streams} streams: not sustained: {error or type(error).__name__}", flush=True)
            return 0.0
    is_sustained = found.deltas_per_s >= KEPT_UP * wanted and found.delay_p99_ms <= MOST_P99_MS
    print(
        f"    {kind} {streams} streams: {found.deltas_per_s / wanted:.0%} of the rate, p99 {found.delay_p99_ms:.1f} ms,"
        f" {found.us_per_delta:.1f} µs a delta{'' if is_sustained else ', not sustained'}",
        flush=True,
    )
    return found.us_per_delta * found.deltas_per_s / 1e6 if is_sustained else 0.0


@contextmanager
def _kept_to(cores: Collection[int]) -> Iterator[None]:
    """This process, all that it started and all that it will start have only these cores inside the block."""
    before = os.sched_getaffinity(0)
    here = psutil.Process()
    for process in [here, *here.children(recursive=True)]:
        _keep(process, cores)
    try:
        yield
    finally:
        for process in [here, *here.children(recursive=True)]:
            _keep(process, before)


def _keep(process: psutil.Process, cores: Collection[int]) -> None:
    """All threads of the process; those that they start later have the same cores."""
    for thread in process.threads():
        with suppress(ProcessLookupError):
            os.sched_setaffinity(thread.id, cores)
