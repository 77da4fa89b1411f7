"""The port through which nodes share what they know: a board with one note per name, and things that one may hold.

It knows nothing of deployments. No clock of a node counts: ages and holds are by the board's own time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Note(NamedTuple):
    """What stands under a name. `version` differs from that of any other note that stood there; `age_s` is how long it
    has stood."""

    name: str
    body: bytes
    version: str
    age_s: float


class Board(Protocol):
    """Each method raises `ConnectionError`, in bounded time, when the board cannot be reached; whether it was done is
    not known then. All are safe to repeat."""

    async def put(self, name: str, body: bytes) -> None:
        """Puts a note there instead of the one there was."""

    async def read(self) -> Sequence[tuple[str, bytes, str, float]]:
        """All notes, each with the fields of `Note`: an engine need not know this module."""

    async def take(self, name: str, holder: str, for_s: float) -> bool:
        """Holds `name` for so long, unless another holder has it. Holding it already: holds it for so long from now."""

    async def give_back(self, name: str, holder: str) -> None:
        """Holds it no longer; nothing when it was another's."""

    async def aclose(self) -> None:
        """Closes the connections. Safe to repeat."""
