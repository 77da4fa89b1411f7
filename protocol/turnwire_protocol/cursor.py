"""A place in the log of one conversation.

Within one epoch a `seq` never stands for two different events, so a cursor says exactly what its holder has
seen. `seq` 0 stands before everything. Who compares cursors with a log is no concern of this file.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cursor:
    """`{epoch, seq}` on the wire (SPEC section 3)."""

    epoch: str
    seq: int

    def to_wire(self) -> dict[str, str | int]:
        return {"epoch": self.epoch, "seq": self.seq}
