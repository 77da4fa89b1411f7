"""Reading a branch back: for the prompt of a turn and for clients that page through history."""

from __future__ import annotations

from turnwire_protocol import Message
from turnwire_server.archive.base import Archive

from .spec import TurnSpec

# One page of a branch: large enough that usual conversations take one read, small enough for one thread's time.
_PAGE_MESSAGES = 1000
_PAGE_BYTES = 4 * 1024 * 1024


async def branch_before(archive: Archive, spec: TurnSpec) -> list[Message]:
    """The finished turns of the branch that ``spec`` goes on from, oldest first.

    A request that was cancelled before it started is left out with its user message: it was taken back before
    anybody answered it, and a model that reads it would answer it now.
    """
    pages: list[list[Message]] = []
    # From its own message on: the one before may be a hole, which the archive reads over.
    leaf: str | None = spec.input_id
    while leaf is not None:
        page = await archive.messages(
            spec.tenant_id,
            spec.conversation_id,
            leaf=leaf,
            below=True,
            limit=_PAGE_MESSAGES,
            max_bytes=_PAGE_BYTES,
            up_to_ordinal=spec.ordinal - 1,
        )
        pages.append(list(page.items))
        leaf = page.next
    messages = [message for page in reversed(pages) for message in page]
    withdrawn = {
        message.request_id
        for message in messages
        if message.status == "cancelled" and not message.parts and await _never_started(archive, spec, message)
    }
    # What waits still, behind a request that goes before it, has not been said to the model yet.
    answered = {message.request_id for message in messages if message.role != "user"}
    return [message for message in messages if message.request_id in answered - withdrawn]


async def _never_started(archive: Archive, spec: TurnSpec, answer: Message) -> bool:
    record = await archive.request(spec.tenant_id, answer.request_id)
    return record is not None and record.ending is not None and record.ending.get("usage") is None
