"""Waiting for a store that does not answer: the same step again, with growing pauses, until it does.

Every step is safe to repeat with its operation id, so nobody has to find out whether the lost one was done. What must
not be left half done when whoever asked for it stops waiting is seen through by a task of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import anyio
from anyio.abc import TaskGroup

from turnwire_server.archive.base import ArchiveUnavailable
from turnwire_server.eventlog.base import LogUnavailable

logger = logging.getLogger(__name__)
T = TypeVar("T")

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0


async def until_answered(step: Callable[[], Awaitable[T]], what: str) -> T:
    """The answer of ``step``, however long it takes. To be called in a scope that somebody can cancel."""
    pause = _FIRST_PAUSE_S
    while True:
        try:
            return await step()
        except (LogUnavailable, ArchiveUnavailable) as error:
            logger.warning("%s is not done yet: %s", what, error)
        await anyio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE_S)


async def see_through(
    tasks: TaskGroup, work: Callable[[], Awaitable[T]], abandoned: Callable[[T], Coroutine[Any, Any, None]], what: str
) -> T:
    """The result of ``work``, which is done to its end in ``tasks`` even when the caller is cancelled meanwhile.

    Then ``abandoned`` gets the result in the caller's place.
    """
    done = anyio.Event()
    results: list[T] = []
    errors: list[Exception] = []
    is_awaited = True

    async def run() -> None:
        try:
            result = await work()
            if is_awaited:
                results.append(result)
            else:
                await abandoned(result)
        except Exception as error:
            errors.append(error)
            if not is_awaited:
                logger.warning("%s failed after its caller had left: %s", what, error)
        finally:
            done.set()

    tasks.start_soon(run, name=what)
    try:
        await done.wait()
    except BaseException:
        if results:  # it came together with the cancel
            tasks.start_soon(abandoned, results[0], name=what)
        is_awaited = False
        raise
    if errors:
        raise errors[0]
    if not results:
        raise LogUnavailable(f"{what} was stopped: the server is going away")
    return results[0]
