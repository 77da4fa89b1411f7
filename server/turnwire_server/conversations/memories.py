"""Earlier messages of a conversation, found again by what is asked: those that a summary stands for.

What a summary covers is read from the archive once and kept by its words, for the conversations that were asked last;
a later summary adds what it covers besides. After a node's start, or where a conversation was on another one, the first
summary or turn reads it again. Nothing is stored, so there is nothing that could outlive its conversation.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from turnwire_protocol import Message
from turnwire_server.archive.base import Archive, ArchiveUnavailable
from turnwire_server.archive.summaries import SummaryRecord
from turnwire_server.eventlog.base import ConversationRef
from turnwire_server.orchestration.earlier import NOTHING, Earlier
from turnwire_server.orchestration.memory import EMPTY, WordIndex

from .history import SUMMARIES, Branch
from .spec import TurnSpec

if TYPE_CHECKING:  # which holds what is made here
    from .services import Services

logger = logging.getLogger(__name__)

# Some 4 MB each, of 4,000 messages of 200 characters.
_KEPT = 32
_MOST_MESSAGES = 10_000
_PAGE_MESSAGES = 500
_PAGE_BYTES = 4 * 1024 * 1024
# How long a turn waits for what it could do without.
_WAIT_S = 1.0


@dataclass(frozen=True, slots=True)
class _Known:
    summary: SummaryRecord
    index: WordIndex


class Memories:
    """Those of a node."""

    def __init__(self) -> None:
        self._known: OrderedDict[ConversationRef, _Known] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Memories of {len(self._known)} conversations>"

    async def of(self, archive: Archive, summary: SummaryRecord) -> WordIndex:
        """What the summary covers, by words. Raises `ArchiveUnavailable`."""
        ref = ConversationRef(summary.tenant_id, summary.conversation_id)
        known = self._known.get(ref)
        if known is None or known.summary != summary:
            base = known if known is not None and await self._stands(archive, known.summary) else None
            pages, base = await self._covered(archive, summary, base)
            before = EMPTY if base is None else base.index
            index = await anyio.to_thread.run_sync(before.extended, [one for page in pages[::-1] for one in page])
            known = self._known[ref] = _Known(summary, index)
        self._known.move_to_end(ref)
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return known.index

    async def _stands(self, archive: Archive, summary: SummaryRecord) -> bool:
        """Whether nothing that it covers was amended."""
        found = await archive.summaries(summary.tenant_id, summary.conversation_id, limit=SUMMARIES)
        return summary in found

    async def _covered(
        self, archive: Archive, summary: SummaryRecord, base: _Known | None
    ) -> tuple[list[Sequence[Message]], _Known | None]:
        """Pages of what it covers and ``base`` does not, the newest first; no base where it is of another branch."""
        pages: list[Sequence[Message]] = []
        leaf: str | None = summary.leaf
        read = 0
        while leaf is not None and read < _MOST_MESSAGES:
            page = await archive.messages(
                summary.tenant_id,
                summary.conversation_id,
                leaf=leaf,
                below=bool(pages),
                limit=_PAGE_MESSAGES,
                max_bytes=_PAGE_BYTES,
            )
            ids = [message.message_id for message in page.items]
            if base is not None and base.summary.leaf in ids:
                pages.append(page.items[ids.index(base.summary.leaf) + 1 :])
                return pages, base
            pages.append(page.items)
            read += len(ids)
            leaf = page.next
        return pages, None


async def earlier_of(services: Services, spec: TurnSpec, branch: Branch) -> Earlier:
    """What a turn's prompts have of the turns that are not in its history. Without the archive, the summary alone."""
    summary = branch.summary
    if summary is None:
        return NOTHING
    most = services.settings.context.memory_tokens
    earlier = Earlier(summary.version, summary.text)
    if not most:
        return earlier
    try:
        with anyio.move_on_after(_WAIT_S):
            index = await services.memories.of(services.archive, summary)
            found = index.find("\n".join(spec.texts), most, services.counter.count)
            earlier = Earlier(summary.version, summary.text, found)
    except ArchiveUnavailable as error:
        logger.warning("earlier messages were not looked for: %s", error)
    return earlier
