"""A second deployment is asked when the first is slow to speak: whoever speaks first is listened to, the other is left.

Until somebody speaks each runs in a task of its own; then the winner's stream is handed over, to be read like any
other, and the loser's connection is closed at once. Nothing here knows routes, ledgers or events.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Generic, TypeVar

import anyio

from turnwire_server.gateway.errors import ProviderError
from turnwire_server.gateway.provider import Chunk, ChunkStream

T = TypeVar("T")


class Runner(Generic[T]):
    """One that was asked. `key` is the caller's own. After the race it has chunks, or an error, or has lost."""

    def __init__(self, key: T, stream: ChunkStream) -> None:
        self.key = key
        self.chunks: list[Chunk] | None = None
        self.error: Exception | None = None
        self.stream: AsyncIterator[list[Chunk]]
        self._opened = stream
        self._scope = anyio.CancelScope()
        self._exit = AsyncExitStack()

    async def aclose(self) -> None:
        """Closes the stream; the winner's is the caller's to close."""
        await self._exit.aclose()

    async def run(self, ended: Callable[[], None]) -> None:
        try:
            with self._scope:
                try:
                    self.stream = await self._exit.enter_async_context(self._opened)
                    self.chunks = await anext(self.stream, [])
                except Exception as error:
                    self.error = error
        finally:
            if self.chunks is None:
                with anyio.CancelScope(shield=True):
                    await self.aclose()
            ended()

    def leave(self) -> None:
        self._scope.cancel()


async def race(
    first: Runner[T],
    after_s: float,
    begin_second: Callable[[], Awaitable[Runner[T] | None]],
    lost: Callable[[Runner[T]], None],
) -> Runner[T]:
    """Whoever speaks first; `aclose` it in the end. When none does, the one that failed last, with its `ProviderError`;
    any other exception is raised.

    `begin_second` is called when the first has said nothing for so long; None: there is nobody else. `lost` is called
    with the other one, once, as soon as it has failed (it has an error) or the winner has spoken.
    """
    changed = anyio.Event()

    def ended() -> None:
        changed.set()

    async def until_changed(runners: list[Runner[T]]) -> None:
        nonlocal changed
        while not any(runner.chunks is not None or runner.error is not None for runner in runners):
            await changed.wait()
            changed = anyio.Event()

    winner: Runner[T] | None = None
    trouble: Exception | None = None
    runners = [first]
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first.run, ended)
            with anyio.move_on_after(after_s):
                await until_changed(runners)
            if first.chunks is None and first.error is None:
                try:
                    second = await begin_second()
                except Exception as error:
                    trouble, winner = error, first  # raised below, outside of the group, which would wrap it
                    first.leave()
                else:
                    if second is not None:
                        runners.append(second)
                        tasks.start_soon(second.run, ended)
            while winner is None:
                await until_changed(runners)
                winner = next((runner for runner in runners if runner.chunks is not None), None)
                if winner is None:
                    failed = next(runner for runner in runners if runner.error is not None)
                    if len(runners) == 1 or not isinstance(failed.error, ProviderError):
                        winner = failed
                    else:
                        runners.remove(failed)
                        lost(failed)
            runners.remove(winner)
            for loser in runners:
                loser.leave()
        assert winner is not None, "the loop above ends with one"
        if trouble is None and winner.error is not None and not isinstance(winner.error, ProviderError):
            trouble = winner.error
        if trouble is not None:
            raise trouble
        for loser in runners:
            if loser.chunks is not None:  # it spoke as well, in the same moment
                await loser.aclose()
            lost(loser)
    except BaseException:
        with anyio.CancelScope(shield=True):
            for runner in {first, *runners, *([winner] if winner else [])}:
                await runner.aclose()
        raise
    return winner
