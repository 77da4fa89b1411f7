"""An archive whose calls are told, and that can be away."""

from __future__ import annotations

from typing import Any

from tests.support.unreliable import Intercepted

from turnwire_server.archive.base import Archive, ArchiveUnavailable


class Watched:
    """``archive`` is for whoever is tested, ``real`` for the test; ``asked`` are the calls named in ``calls``."""

    def __init__(self, archive: Archive, calls: frozenset[str]) -> None:
        self.real = archive
        self.asked: list[str] = []
        self.is_away = False
        self.archive: Any = Intercepted(archive, calls, self._around)

    async def _around(self, step: str, call: Any) -> Any:
        self.asked.append(step)
        if self.is_away:
            raise ArchiveUnavailable("by the test")
        return await call()
