"""An event loop whose clock jumps: hours of waiting in milliseconds, and the same order of things each time.

    run_virtual(main())            as asyncio.run, on such a loop

`loop.time()` stands still while tasks run and jumps to the next timer when all of them wait. Unrealistic in that no
code takes any time. Sockets and threads do not work on it (`virtual_net` and `virtual_database` take their place): what
waits for neither a timer nor a task waits for ever, which is told as an error instead of hanging.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest import mock

T = TypeVar("T")


class Stuck(Exception):
    """Everything waits, and there is no timer."""


class _Jumping(selectors.SelectSelector):
    """Instead of waiting, lets the clock jump."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stuck
        self.loop.now += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.now = 0.0
        jumping = _Jumping()
        jumping.loop = self
        super().__init__(jumping)

    def time(self) -> float:
        return self.now


def run_virtual(main: Coroutine[Any, Any, T], loop_factory: Callable[[], VirtualLoop] = VirtualLoop) -> T:
    """Runs to the end, in no time."""
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(main)


@contextmanager
def jumping_monotonic(loop: VirtualLoop) -> Iterator[None]:
    """`time.monotonic` is the loop's clock inside the block: for code that does not ask the loop."""
    with mock.patch.object(time, "monotonic", loop.time):
        yield
