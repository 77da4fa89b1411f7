"""The part of the archive port that is about summaries: what stands for the older turns of a branch.

A summary covers a branch from its beginning up to a message, its ``leaf``. Since messages know their parents, whatever
branch has that message has all that is covered. A covered answer that is amended takes its summaries with it, and a
conversation that is deleted too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class SummaryRecord:
    """``up_to`` is the ordinal of ``leaf``, the last message it covers; ``version`` counts the summaries that it was
    made from, one out of the other. ``created_at`` is in milliseconds since the Unix epoch."""

    tenant_id: str
    conversation_id: str
    leaf: str
    up_to: int
    version: int
    text: str
    created_at: int


class SummaryArchive(Protocol):
    """All calls raise `ArchiveUnavailable`."""

    async def summaries(self, tenant_id: str, conversation_id: str, *, limit: int) -> Sequence[SummaryRecord]:
        """A conversation's, those that reach furthest first."""

    async def put_summary(self, record: SummaryRecord) -> bool:
        """Keep it, in place of one with the same leaf. False, and nothing is kept, when the conversation is absent."""

    async def drop_summaries(self, tenant_id: str, conversation_id: str, from_ordinal: int) -> None:
        """Drop those that cover turns of this ordinal or a later one. `Archive.amend_answer` does so by itself."""
