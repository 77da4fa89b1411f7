"""Finds a request for somebody who wants to do something about it: where it is, and whether they may.

The log knows what lives, the archive what has ended; in between one of them may be a moment behind.
"""

from __future__ import annotations

from dataclasses import dataclass

from turnwire_protocol import CommandError, ErrorCode
from turnwire_server.archive.base import ConversationRecord, RequestRecord, Role
from turnwire_server.auth import Principal
from turnwire_server.eventlog.base import ConversationRef, Phase, RequestInfo, RequestRef

from .hub import ConversationHub
from .roles import require

_LIVE = (Phase.QUEUED, Phase.RUNNING, Phase.PARKED)


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as the log knows it, as the archive does, or both. ``record`` is None while it lives."""

    info: RequestInfo | None
    record: RequestRecord | None
    conversation: ConversationRecord
    author: str

    @property
    def live(self) -> RequestInfo | None:
        """What the log knows of it, unless it has ended or is just ending."""
        return self.info if self.info is not None and self.info.phase in _LIVE else None


async def sight(hub: ConversationHub, principal: Principal, ref: RequestRef, *, others: Role | None) -> Seen:
    """The request, for its author as an editor, and for others with the role ``others`` (None: as the author).

    Raises `not_found`, also for those who may not know of it, `forbidden`, and `unavailable` when the archive has it as
    not ended and the log has lost it.
    """
    log, archive = hub.services.log, hub.services.archive
    info = await log.request(ref)
    record = None
    if info is None or info.phase not in _LIVE:
        record = await archive.request(ref.tenant_id, ref.request_id)
    if info is None and record is not None and record.ending is None:
        # It was being created between the two looks, or the log has lost the way to it.
        info, record = await log.request(ref, ConversationRef(ref.tenant_id, record.conversation_id)), None
        if info is None:
            text = "the log has lost this request for the moment; send it again"
            raise CommandError(ErrorCode.UNAVAILABLE, text, request_id=ref.request_id)
    if info is not None:
        home, author = info.conversation, info.user_id
    elif record is not None:
        home, author = ConversationRef(ref.tenant_id, record.conversation_id), record.user_id
    else:
        raise unknown(ref.request_id)
    role: Role = "editor" if others is None or author == principal.user_id else others
    conversation = await hub.record(home)
    try:
        require(conversation, home.conversation_id, principal, role)
    except CommandError as error:
        raise (unknown(ref.request_id) if error.code is ErrorCode.NOT_FOUND else error) from None
    assert conversation is not None, "require refuses absent ones"
    return Seen(info, record, conversation, author)


def unknown(request_id: str) -> CommandError:
    """Whether it is not there or not for them is nobody's business."""
    return CommandError(ErrorCode.NOT_FOUND, f"no request '{request_id}'", request_id=request_id)
