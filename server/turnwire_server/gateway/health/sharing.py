"""One node's part in what all know of the deployments: tells what it learns, hears what others have, and asks before
it probes.

Nothing waits for it but a probe, which is rare and waits a quarter of a second at most: what a node has seen itself
counts at once, what others have seen when the board was read next, twice a second. While the board cannot be reached
each node goes by what it sees itself, and its probes are its own.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable

import orjson

from turnwire_server.gateway.breaker import News
from turnwire_server.gateway.health.base import Board, Note

logger = logging.getLogger(__name__)

READ_S = 0.5
PROBE_WAIT_S = 0.25
ASK_AGAIN_S = 1.0
"""How long a node waits for another one's probe before it asks again whether it may make one."""
_STALE_S = 60.0
"""A note that has been over for so long tells nothing about now."""


class Sharing:
    """See the module. `heard` is called with what another node has learned."""

    def __init__(self, board: Board, heard: Callable[[str, News], None]) -> None:
        self._board = board
        self._heard = heard
        self._me = uuid.uuid4().hex
        self._to_tell: dict[str, News] = {}
        self._to_give_back: set[str] = set()
        self._something = asyncio.Event()
        self._seen: dict[str, str] = {}
        self._is_away = False

    def __repr__(self) -> str:
        return f"<Sharing to_tell={list(self._to_tell)} away={self._is_away}>"

    def tell(self, name: str, news: News) -> None:
        """This node has learned something. Only the newest of each name is told."""
        self._to_tell[name] = news
        self._something.set()

    async def may_probe(self, name: str, for_s: float) -> bool:
        """Whether this node may make the probe; say `probed` when it is over."""
        try:
            async with asyncio.timeout(PROBE_WAIT_S):
                return await self._board.take(name, self._me, for_s)
        except (TimeoutError, ConnectionError):
            return True

    def probed(self, name: str) -> None:
        """The probe is over, or is not made; what came of it is told first."""
        self._to_give_back.add(name)
        self._something.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._say()
                for note in await self._board.read():
                    self._read(Note(*note))
                self._reached(True)
            except ConnectionError as error:
                self._reached(False, error)
            except Exception:
                logger.exception("what other nodes know of the deployments was not read; it is tried again")
            try:
                async with asyncio.timeout(READ_S):
                    await self._something.wait()
            except TimeoutError:
                continue
            # A fault that comes in a burst is told in one go, and a board that is away is not asked all the time.
            await asyncio.sleep(0.01 if not self._is_away else READ_S)

    async def _say(self) -> None:
        self._something.clear()
        for name, news in list(self._to_tell.items()):
            await self._board.put(name, _encode(self._me, news))
            if self._to_tell.get(name) is news:
                del self._to_tell[name]
        for name in list(self._to_give_back):
            await self._board.give_back(name, self._me)
            self._to_give_back.discard(name)

    def _read(self, note: Note) -> None:
        if self._seen.get(note.name) == note.version:
            return
        self._seen[note.name] = note.version
        by, news = _decode(note)
        if by != self._me and note.name not in self._to_tell and note.age_s < news.for_s + _STALE_S:
            self._heard(note.name, news)

    def _reached(self, is_reached: bool, error: Exception | None = None) -> None:
        if self._is_away == is_reached:
            self._is_away = not is_reached
            if is_reached:
                logger.info("nodes share what they know of the deployments again")
            else:
                logger.warning("nodes cannot share what they know of the deployments: %s", error)


def _encode(by: str, news: News) -> bytes:
    return orjson.dumps([by, news.is_open, news.for_s, news.hard_s, news.opens, news.reason])


def _decode(note: Note) -> tuple[str, News]:
    """Who wrote it, and what it says by now."""
    by, is_open, for_s, hard_s, opens, reason = orjson.loads(note.body)
    return by, News(is_open, max(0.0, for_s - note.age_s), max(0.0, hard_s - note.age_s), opens, reason)
