"""Group commit: while one write of the log is under way, the appends of all turns gather for the next.

A writer that has something says so once (`wake`) and is asked for it only when the log is free, so that it can
merge what came in between. One task per lane does all appends of the node (a log that fails in parts has several
lanes, so that a part that is away holds up no other); no task is woken per delta. When the log does not answer, the
same batch is sent again with growing pauses: appends carry ``(fence, n)`` and are safe to repeat.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from .base import Append, Appended, EventLog, Fenced, Forgotten, LogUnavailable

logger = logging.getLogger(__name__)

# A commit costs the same for one event as for fifty, and most of it is the kernel's. So a busy log, one that has begun
# more than so many writes in the current window, lets events gather a little before it writes (DECISIONS 12); the few
# writes with which a turn begins on a quiet server never wait.
_WINDOW_S = 0.05
_BUSY_WRITES = 10
_GATHER_S = 0.003
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0

Answer = Appended | Fenced | Forgotten


class Writer(Protocol):
    """Something that has events for the log: a turn."""

    lane: int
    """Of the log, see `EventLog.lane`."""

    def take(self) -> Append | None:
        """Hand over everything gathered so far, to be written now. None when there is nothing."""

    def written(self, answer: Answer) -> None:
        """The answer to what was taken. May `wake` again at once."""

    def stalled(self, error: LogUnavailable) -> None:
        """The log did not answer; the same append is tried again."""


class Observer(Protocol):
    """Counts and times the writes."""

    def append(self, turns: int, events: int) -> AbstractContextManager[object]:
        """Around one write of the log."""


class GroupCommit:
    """Runs in tasks of its own (`run`) for as long as there are writers."""

    def __init__(self, log: EventLog, observe: Observer) -> None:
        self._log = log
        self._observe = observe
        self._lanes: dict[int, _Lane] = {}
        self._tasks: TaskGroup | None = None

    def __repr__(self) -> str:
        return f"<GroupCommit lanes={len(self._lanes)}>"

    def wake(self, writer: Writer) -> None:
        """``writer`` has something to write; it will be asked for it."""
        lane = self._lanes.get(writer.lane)
        if lane is None:
            lane = self._lanes[writer.lane] = _Lane(self._log, self._observe)
            if self._tasks is not None:
                self._tasks.start_soon(lane.run, name=f"group commit {writer.lane}")
        lane.wake(writer)

    async def run(self) -> None:
        """Write until cancelled."""
        async with anyio.create_task_group() as self._tasks:
            for number, lane in self._lanes.items():
                self._tasks.start_soon(lane.run, name=f"group commit {number}")
            await anyio.sleep_forever()


class _Lane:
    """The appends of one lane, one batch after the other."""

    def __init__(self, log: EventLog, observe: Observer) -> None:
        self._log = log
        self._observe = observe
        self._waiting: dict[Writer, None] = {}
        self._wakeup = anyio.Event()

    def wake(self, writer: Writer) -> None:
        if not self._waiting:
            self._wakeup.set()
        self._waiting[writer] = None

    async def run(self) -> None:
        window = began = 0.0
        writes = 0
        while True:
            await self._wakeup.wait()
            now = time.monotonic()
            if now - window > _WINDOW_S:
                window, writes = now, 0
            writes += 1
            if writes > _BUSY_WRITES and (early := began + _GATHER_S - now) > 0:
                await anyio.sleep(early)
            began = time.monotonic()
            self._wakeup = anyio.Event()
            waiting, self._waiting = self._waiting, {}
            taken = [(writer, append) for writer in waiting if (append := writer.take()) is not None]
            if taken:
                await self._write([writer for writer, _ in taken], [append for _, append in taken])

    async def _write(self, writers: list[Writer], batch: list[Append]) -> None:
        pause = _FIRST_PAUSE_S
        while True:
            answers: Sequence[Answer]
            try:
                with self._observe.append(len(batch), sum(len(append.events) for append in batch)):
                    answers = await self._log.append(batch)
                break
            except LogUnavailable as error:
                logger.warning("the log does not take events: %s", error)
                for writer in writers:
                    writer.stalled(error)
                await anyio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_S)
            except Exception:
                # A fault of ours in one append must not stop the turns of everybody: find it, and drop that turn.
                logger.exception("an append of %d turns failed", len(batch))
                if len(batch) == 1:
                    answers = [Fenced()]
                    break
                for writer, append in zip(writers, batch, strict=True):
                    await self._write([writer], [append])
                return
        for writer, answer in zip(writers, answers, strict=True):
            writer.written(answer)
