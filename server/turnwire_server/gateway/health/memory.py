"""The board of a single process: for routers that share one loop, and for tests on a virtual clock."""

from __future__ import annotations

import asyncio


class MemoryBoard:
    """See the port. With `is_away` it cannot be reached."""

    def __init__(self) -> None:
        self.is_away = False
        self._notes: dict[str, tuple[bytes, int, float]] = {}
        self._holders: dict[str, tuple[str, float]] = {}
        self._version = 0

    async def put(self, name: str, body: bytes) -> None:
        self._reach()
        self._version += 1
        self._notes[name] = body, self._version, _now()

    async def read(self) -> list[tuple[str, bytes, str, float]]:
        self._reach()
        return [(name, body, str(version), _now() - at) for name, (body, version, at) in self._notes.items()]

    async def take(self, name: str, holder: str, for_s: float) -> bool:
        self._reach()
        held_by, until = self._holders.get(name, ("", 0.0))
        if held_by not in ("", holder) and _now() < until:
            return False
        self._holders[name] = holder, _now() + for_s
        return True

    async def give_back(self, name: str, holder: str) -> None:
        self._reach()
        if self._holders.get(name, ("", 0.0))[0] == holder:
            del self._holders[name]

    async def aclose(self) -> None:
        """Nothing to close."""

    def _reach(self) -> None:
        if self.is_away:
            raise ConnectionError("the board is away")


def _now() -> float:
    return asyncio.get_running_loop().time()
