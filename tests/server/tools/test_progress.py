"""Reports of a tool: the newest of many, ten a second, from any thread."""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from tests.server.tools.kit import until

from turnwire_server.tools.progress import ProgressGate

Seen = list[tuple[float | None, str | None]]


async def test_of_a_flood_the_first_and_the_newest_are_passed_on() -> None:
    seen: Seen = []
    gate = ProgressGate(lambda *report: seen.append(report), interval_s=0.02)
    gate.report(0.0, "begins")
    async with asyncio.timeout(60):
        await until(lambda: len(seen) == 1, anyio.sleep)
        for number in range(100_000):
            gate.report(number / 100_000, None)
        await until(lambda: len(seen) == 2, anyio.sleep)
    assert seen == [(0.0, "begins"), (0.99999, None)]


async def test_there_is_the_interval_between_two_reports() -> None:
    times: list[float] = []
    gate = ProgressGate(lambda *report: times.append(asyncio.get_running_loop().time()), interval_s=0.05)
    async with asyncio.timeout(60):
        while len(times) < 3:
            gate.report(0.5)
            await anyio.sleep(0.001)
    assert all(later - earlier > 0.045 for earlier, later in itertools.pairwise(times))


async def test_what_waits_at_the_end_is_passed_on_and_nothing_after_it() -> None:
    seen: Seen = []
    gate = ProgressGate(lambda *report: seen.append(report), interval_s=60)
    gate.report(0.1)
    gate.report(0.9)
    gate.close()
    gate.report(1.0)
    await anyio.lowlevel.checkpoint()
    await anyio.lowlevel.checkpoint()
    assert seen == [(0.9, None)]


async def test_threads_may_report_as_they_like() -> None:
    seen: Seen = []
    gate = ProgressGate(lambda *report: seen.append(report), interval_s=0.01)

    def flood() -> None:
        for number in range(20_000):
            gate.report(number / 20_000, "working")

    threads = [threading.Thread(target=flood) for _ in range(3)]
    for thread in threads:
        thread.start()
    await asyncio.to_thread(lambda: [thread.join() for thread in threads])
    gate.close()
    assert 1 <= len(seen) < 500


@pytest.mark.parametrize(
    ("report", "passed_on"),
    [
        ((2, None), (1.0, None)),
        ((-1, None), (0.0, None)),
        ((math.nan, "x"), (None, "x")),
        (("half", "x"), (None, "x")),
        ((True, "x"), (None, "x")),
        ((0.5, 7), (0.5, None)),
        ((None, "x" * 1000), (None, "x" * 500)),
        ((None, "a\ud800"), (None, "a?")),
        ((None, None), None),
    ],
)
async def test_what_makes_no_sense_is_left_out(report: Any, passed_on: Any) -> None:
    seen: list[Any] = []
    gate = ProgressGate(lambda *each: seen.append(each))
    gate.report(*report)
    gate.close()
    assert seen == ([] if passed_on is None else [passed_on])


async def test_whoever_listens_cannot_harm_the_tool(caplog: pytest.LogCaptureFixture) -> None:
    def broken(fraction: float | None, message: str | None) -> None:
        raise RuntimeError("broken")

    gate = ProgressGate(broken)
    gate.report(0.5)
    gate.close()
    assert "could not be passed on" in caplog.text
