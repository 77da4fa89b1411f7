"""Starts one run of a tool so that nothing it does can harm whoever waits: own task or own thread, both abandonable.

Tools are other people's code. A run is no child of a task group, since a group waits for its children and a tool may
never end; the `Runs` of the node hold it instead, and end with the node. Whatever a run raises becomes a value: an
event loop does not survive a SystemExit that leaves a task.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Raised:
    """A run ended with this. It may be no Exception."""

    error: BaseException


class Runs:
    """All runs of the node that have not ended, also those that nobody waits for any more."""

    def __init__(self) -> None:
        self._runs: set[asyncio.Future[Any]] = set()

    def __repr__(self) -> str:
        return f"<Runs {len(self._runs)}>"

    def __len__(self) -> int:
        return len(self._runs)

    def start(self, run: Callable[[], Awaitable[Any]], name: str) -> asyncio.Future[Any]:
        """Begin an async run. The future gives the result or a `Raised`; it is cancelled when the run was or cancelled
        itself."""
        return self._hold(asyncio.get_running_loop().create_task(_guarded(run), name=f"tool {name}"))

    def start_in_thread(self, run: Callable[[], Any], name: str) -> asyncio.Future[Any]:
        """Begin a run in a thread of its own. As `start`, but nothing can cancel it.

        Not a thread of a pool: those are waited for when the process ends, and one that hangs is lost to the others.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        context = contextvars.copy_context()

        def in_thread() -> None:
            try:
                outcome = context.run(run)
            except BaseException as error:
                outcome = Raised(error)
            try:
                loop.call_soon_threadsafe(_settle, future, outcome)
            except RuntimeError:  # the loop has ended before the tool
                return

        threading.Thread(target=in_thread, name=f"tool {name}", daemon=True).start()
        return self._hold(future)

    async def aclose(self, grace_s: float) -> None:
        """Cancel what still runs and wait for it, ``grace_s`` seconds at most. What stays is left behind."""
        for run in self._runs:
            if isinstance(run, asyncio.Task):
                run.cancel()
        rest = set(self._runs)
        if rest:
            _, rest = await asyncio.wait(rest, timeout=grace_s)
        for run in rest:
            logger.warning(
                "%s did not end with the server", run.get_name() if isinstance(run, asyncio.Task) else "a tool"
            )
            if isinstance(run, asyncio.Task):
                # The loop waits for all its tasks when it ends. This one does not end.
                asyncio._unregister_task(run)

    def _hold(self, run: asyncio.Future[Any]) -> asyncio.Future[Any]:
        self._runs.add(run)
        run.add_done_callback(self._runs.discard)
        return run


async def _guarded(run: Callable[[], Awaitable[Any]]) -> Any:
    try:
        return await run()
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        return Raised(error)


def _settle(future: asyncio.Future[Any], outcome: Any) -> None:
    if not future.done():
        future.set_result(outcome)
