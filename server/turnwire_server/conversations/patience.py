"""Waiting for a store that does not answer: the same step again, with growing pauses, until it does.

Every step is safe to repeat with its operation id, so nobody has to find out whether the lost one was done.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

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
