"""Reading a branch back: for the prompt of a turn, for summaries, and for clients that page through history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from turnwire_protocol import Message
from turnwire_server.archive.base import Archive
from turnwire_server.archive.summaries import SummaryRecord

from .spec import TurnSpec

# One page of a branch: large enough that usual conversations take one read, small enough for one thread's time.
_PAGE_MESSAGES = 1000
_PAGE_BYTES = 4 * 1024 * 1024
# Where a summary stands for most of the branch, one of these reaches it.
_SHORT_PAGE = 100
SUMMARIES = 16
"""Of a conversation, looked at: those that reach furthest."""


@dataclass(frozen=True, slots=True)
class Branch:
    """The finished turns of a branch, oldest first, behind those that ``summary`` covers, if there is one."""

    messages: list[Message]
    summary: SummaryRecord | None = None


async def branch_before(archive: Archive, spec: TurnSpec, *, summarised: bool = False) -> Branch:
    """The branch that ``spec`` goes on from; with ``summarised`` only as far back as a summary of it reaches.

    A request that was cancelled before it started is left out with its user message: it was taken back before
    anybody answered it, and a model that reads it would answer it now.
    """
    # From its own message on: the one before may be a hole, which the archive reads over.
    return await _branch(archive, spec, spec.input_id, summarised, below=True)


async def branch_with(archive: Archive, spec: TurnSpec) -> Branch:
    """As `branch_before`, with the turn itself, which has ended."""
    return await _branch(archive, spec, spec.answer_id, True, below=False)


async def _branch(archive: Archive, spec: TurnSpec, leaf: str | None, summarised: bool, *, below: bool) -> Branch:
    known: Sequence[SummaryRecord] = ()
    if summarised:
        known = await archive.summaries(spec.tenant_id, spec.conversation_id, limit=SUMMARIES)
    by_leaf = {summary.leaf: summary for summary in known}
    pages: list[list[Message]] = []
    summary: SummaryRecord | None = None
    while leaf is not None and summary is None:
        page = await archive.messages(
            spec.tenant_id,
            spec.conversation_id,
            leaf=leaf,
            below=below or bool(pages),
            limit=_SHORT_PAGE if by_leaf else _PAGE_MESSAGES,
            max_bytes=_PAGE_BYTES,
            up_to_ordinal=spec.ordinal - 1 if below else spec.ordinal,
        )
        items = list(page.items)
        for at in reversed(range(len(items))):
            if (summary := by_leaf.get(items[at].message_id)) is not None:
                items = items[at + 1 :]
                break
        pages.append(items)
        leaf = page.next
    messages = [message for page in reversed(pages) for message in page]
    withdrawn = {
        message.request_id
        for message in messages
        if message.status == "cancelled" and not message.parts and await _never_started(archive, spec, message)
    }
    # What waits still, behind a request that goes before it, has not been said to the model yet.
    answered = {message.request_id for message in messages if message.role != "user"}
    return Branch([message for message in messages if message.request_id in answered - withdrawn], summary)


async def _never_started(archive: Archive, spec: TurnSpec, answer: Message) -> bool:
    record = await archive.request(spec.tenant_id, answer.request_id)
    return record is not None and record.ending is not None and record.ending.get("usage") is None
