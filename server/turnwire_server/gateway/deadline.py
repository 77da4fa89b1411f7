"""A time limit for many short waits of one stream, with one timer instead of one per wait.

A model's stream is read fifty times a second; setting and dropping a timer for each read costs more than the
limit is worth. Here the timer is left alone while the deadline moves on: when it fires too early it is set
again, so a healthy stream costs one timer per limit, not per read. Nothing here knows what is waited for.

Used by providers around their reads only, so that a caller that is slow to take a chunk is never punished.
"""

from __future__ import annotations

import asyncio


class Deadline:
    """Cancels the waiting task when its wait lasts too long, in the manner of `asyncio.timeout`.

        deadline.begin(when)
        try:
            data = await read()
        except asyncio.CancelledError:
            if deadline.is_mine():
                raise TooLong from None
            raise
        finally:
            deadline.end()

    Call `close` when the stream is over.
    """

    __slots__ = ("_cancelling", "_expired", "_fires_at", "_loop", "_task", "_timer", "_when")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._fires_at = 0.0
        self._when = 0.0
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._expired = False

    def now(self) -> float:
        return self._loop.time()

    def begin(self, when: float) -> None:
        """The running task is about to wait, not longer than until `when`."""
        task = asyncio.current_task()
        assert task is not None  # a coroutine that awaits runs in a task
        self._task = task
        self._cancelling = task.cancelling()
        self._when = when
        if self._timer is None or when < self._fires_at:
            self._set_timer(when)

    def move(self, when: float) -> None:
        """The wait under way, if there is one, may last until `when`."""
        self._when = when
        if self._timer is not None and when < self._fires_at:
            self._set_timer(when)

    def end(self) -> None:
        """The wait is over."""
        self._task = None

    def is_mine(self) -> bool:
        """Whether the cancellation just caught is this deadline's and nobody else's. Ask once per catch.

        As in `asyncio.timeout`: when somebody else cancelled the task as well, that cancellation wins.
        """
        if not self._expired or self._task is None:
            return False
        self._expired = False
        return self._task.uncancel() <= self._cancelling

    def close(self) -> None:
        self._task = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._fires_at = when
        self._timer = self._loop.call_at(when, self._fire)

    def _fire(self) -> None:
        self._timer = None
        if self._task is None:
            return  # nobody waits: the next wait sets its own timer
        if self._loop.time() < self._when:
            self._set_timer(self._when)
        else:
            self._expired = True
            self._task.cancel()
