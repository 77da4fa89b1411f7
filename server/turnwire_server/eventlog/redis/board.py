"""A board on Redis, for what nodes tell each other besides the log: see `gateway.health.base`, whose port it serves.

One hash holds the notes, each with the server's time and a random version; what is held is a key with an expiry. All
keys have one hash tag. Nothing here has to survive: a board that was lost is empty, and is filled again by what the
nodes learn. It has connections of its own, so that it never waits for the log.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable
from typing import Any

from turnwire_server.eventlog.base import LogUnavailable

from .server import FAULTS, Place, Server

_NOW = "local t = redis.call('TIME') local now = t[1] * 1000 + math.floor(t[2] / 1000) "
_PUT = _NOW + "redis.call('HSET', KEYS[1], ARGV[1], now .. ' ' .. ARGV[2] .. ' ' .. ARGV[3]) return 1"
_READ = _NOW + "return {now, redis.call('HGETALL', KEYS[1])}"
_TAKE = (
    "local by = redis.call('GET', KEYS[1]) if by and by ~= ARGV[1] then return 0 end "
    "redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) return 1"
)
_GIVE_BACK = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end return 1"


class RedisBoard:
    """Call `open` first and `aclose` last."""

    def __init__(self, url: str, *, prefix: str = "tw", timeout_s: float = 5.0) -> None:
        self._server = Server(Place.of(url), timeout_s=timeout_s, prefix=prefix)
        self._tag = f"{{{prefix}:board}}:"

    def open(self) -> None:
        """It connects when it is used."""
        self._server.open()

    async def aclose(self) -> None:
        await self._server.aclose()

    async def put(self, name: str, body: bytes) -> None:
        await self._run(_PUT, f"{self._tag}notes", name, uuid.uuid4().hex, body)

    async def read(self) -> list[tuple[str, bytes, str, float]]:
        now, found = await self._run(_READ, f"{self._tag}notes")
        notes = []
        for name, note in zip(found[::2], found[1::2], strict=True):
            at, version, body = note.split(b" ", 2)
            notes.append((name.decode(), body, version.decode(), max(0, int(now) - int(at)) / 1000))
        return notes

    async def take(self, name: str, holder: str, for_s: float) -> bool:
        return bool(await self._run(_TAKE, f"{self._tag}held:{name}", holder, max(1, int(for_s * 1000))))

    async def give_back(self, name: str, holder: str) -> None:
        await self._run(_GIVE_BACK, f"{self._tag}held:{name}", holder)

    async def _run(self, script: str, key: str, *arguments: str | bytes | int) -> Any:
        try:
            answer: Awaitable[Any] = self._server.run(key, lambda client: client.eval(script, 1, key, *arguments))
            return await answer
        except (*FAULTS, LogUnavailable) as error:
            raise ConnectionError(f"Redis does not answer: {error or type(error).__name__}") from error
