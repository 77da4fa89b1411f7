"""A response's body that is pushed: each piece goes to a function as soon as the socket gives it.

aiohttp hands a body to a task that waits for it: a wake-up, a switch and a dozen calls for every token of a model,
which together cost more than what is done with the token. Here, while nobody has to wait for anything, aiohttp's parser
calls the function itself. Everything else (chunks, the end, errors, what comes while nobody takes it) stays aiohttp's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import aiohttp

Take = Callable[[bytes], bool]


class PushedBody:
    """The body of one response. At any time somebody awaits `read`, or `push`, or neither."""

    def __init__(self, reader: aiohttp.StreamReader) -> None:
        self._reader = reader
        self.read = reader.readany
        """The next bytes; none at the end."""

    @property
    def has_news(self) -> bool:
        """Whether `read` would return or raise at once."""
        reader = self._reader
        return bool(reader._buffer) or reader._eof or reader._exception is not None or not reader._protocol.connected

    async def push(self, take: Take) -> None:
        """Call ``take`` with each piece, until it returns False or there is no more; why that is tells `read`. At once
        when something waits to be read: that comes first.

        ``take`` raises nothing: it is called by the parser. Raises why the body failed.
        """
        reader = self._reader
        assert reader._waiter is None, "somebody reads"
        if self.has_news:
            return
        pushing = reader._waiter = _Pushing()
        pushing.take = take
        reader.__class__ = _PushingReader
        try:
            await pushing
        finally:
            reader.__class__ = aiohttp.StreamReader
            if reader._waiter is pushing:
                reader._waiter = None


class _Pushing(asyncio.Future[None]):
    """What the reader takes for the future of a task that waits for data. It is done when that task has to see."""

    take: Take


class _PushingReader(aiohttp.StreamReader):
    """A reader while its body is pushed: keeps the account of what has passed, and nothing else."""

    __slots__ = ()

    def feed_data(self, data: bytes, size: int = 0) -> bool:
        pushing = self._waiter
        if not isinstance(pushing, _Pushing) or pushing.done():
            return super().feed_data(data, size)  # it waits
        self.total_bytes += len(data)
        self._cursor += len(data)
        if not pushing.take(data):
            pushing.set_result(None)
        return False

    def begin_http_chunk_receiving(self) -> None:
        if self._http_chunk_splits is None:
            self._http_chunk_splits = deque()

    def end_http_chunk_receiving(self) -> None:
        """Nobody asks where the chunks of what has passed were."""
