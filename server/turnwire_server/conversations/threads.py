"""What clients ask of conversations themselves: create, list, history, share, delete (SPEC section 3)."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal

from turnwire_protocol import (
    CommandError,
    ConversationHistory,
    ConversationItem,
    ConversationList,
    ConversationMessages,
    ConversationOpen,
    ConversationPage,
    ConversationShare,
    ErrorCode,
    MemberChanged,
)
from turnwire_server.archive.base import ConversationRecord, Role
from turnwire_server.auth import Principal
from turnwire_server.eventlog.base import ConversationRef

from .audit import note_operation
from .conclude import archive_late
from .hub import ConversationHub
from .patience import until_answered
from .recovery import Trimmed
from .roles import SCOPE_OPERATE, SCOPE_READ, require, role_of, taken
from .snapshots import base_of

_DAY_MS = 86_400_000
_EXPIRED_AT_ONCE = 100


class Threads:
    """Commands on conversations, for all connections of the node."""

    def __init__(self, hub: ConversationHub) -> None:
        self._hub = hub
        self._services = hub.services

    async def open(self, principal: Principal, command: ConversationOpen) -> tuple[ConversationRecord, Role, bool]:
        """The conversation, the principal's role in it, and whether this call made it."""
        ref = ConversationRef(principal.tenant_id, command.conversation_id)
        record, created = await self._hub.record(ref), False
        if record is None and command.create:
            record, created = await self.create(
                principal,
                command.conversation_id,
                title=command.title,
                metadata=command.metadata,
                visibility=command.visibility or "private",
            )
            if not created and role_of(record, principal) is None:
                raise taken(command.conversation_id)
        elif record is not None and command.create and role_of(record, principal) is None:
            raise taken(command.conversation_id)
        role = require(record, command.conversation_id, principal, "viewer")
        assert record is not None, "require refuses absent ones"
        return record, role, created

    async def create(
        self,
        principal: Principal,
        conversation_id: str,
        *,
        title: str | None = None,
        metadata: dict[str, Any] | None = None,
        visibility: Literal["private", "tenant"] = "private",
    ) -> tuple[ConversationRecord, bool]:
        """Make it, owned by the principal, unless somebody has made it already."""
        now = self._services.now_ms()
        record = ConversationRecord(
            tenant_id=principal.tenant_id,
            conversation_id=conversation_id,
            owner_id=principal.user_id,
            visibility=visibility,
            created_at=now,
            updated_at=now,
            title=title,
            metadata=metadata,
        )
        stands, created = await self._services.archive.create_conversation(uuid.uuid4().hex, record)
        await self._hub.refresh(ConversationRef(principal.tenant_id, conversation_id))
        return stands, created

    async def list(self, principal: Principal, command: ConversationList) -> ConversationPage:
        """The principal's conversations, the one last changed first."""
        limit = min(
            command.limit or self._services.settings.limits.page_items, self._services.settings.limits.page_items
        )
        everything = bool({SCOPE_READ, SCOPE_OPERATE} & principal.scopes)
        try:
            page = await self._services.archive.list_conversations(
                principal.tenant_id, None if everything else principal.user_id, limit=limit, before=command.before
            )
        except ValueError as error:
            raise CommandError(ErrorCode.BAD_COMMAND, f"before: {error}") from None
        refs = [ConversationRef(principal.tenant_id, record.conversation_id) for record in page.items]
        running = await self._services.log.running(refs)
        items = [
            ConversationItem(
                conversation_id=record.conversation_id,
                title=record.title,
                role=role,
                updated_at=record.updated_at,
                running=ref in running,
            )
            for ref, record in zip(refs, page.items, strict=True)
            if (role := role_of(record, principal)) is not None
        ]
        return ConversationPage(items=items, next=page.next)

    async def history(self, principal: Principal, command: ConversationHistory) -> ConversationMessages:
        """Messages of a branch that have ended or, a user's, begun; ``before`` is an earlier page's ``next``."""
        ref = ConversationRef(principal.tenant_id, command.conversation_id)
        require(await self._hub.record(ref), command.conversation_id, principal, "viewer")
        limits = self._services.settings.limits
        live = await self._services.log.live(ref)
        await archive_late(self._services, ref)
        try:
            base = await base_of(self._services, ref, live)
        except Trimmed:  # it has begun anew in this moment: then it knows its newest message
            live = await self._services.log.live(ref)
            base = live.base
        page = await self._services.archive.messages(
            ref.tenant_id,
            ref.conversation_id,
            leaf=command.before or command.leaf or base.head,
            below=command.before is not None,
            limit=min(command.limit or limits.page_items, limits.page_items),
            max_bytes=limits.frame_bytes // 2,
            up_to_ordinal=base.ordinal,
            without=[*(request.request_id for request in live.requests), *live.hidden],
        )
        asked = command.before or command.leaf
        if asked is not None and not page.items and not await self._has_message(ref, asked):
            raise CommandError(ErrorCode.NOT_FOUND, f"no message '{asked}' in this conversation")
        return ConversationMessages(items=list(page.items), next=page.next)

    async def _has_message(self, ref: ConversationRef, message_id: str) -> bool:
        archive = self._services.archive
        return await archive.message(ref.tenant_id, ref.conversation_id, message_id) is not None

    async def share(self, principal: Principal, command: ConversationShare) -> None:
        """Give or take a role; those who lose theirs stop following at once."""
        ref = ConversationRef(principal.tenant_id, command.conversation_id)
        record = await self._hub.record(ref)
        require(record, command.conversation_id, principal, "owner")
        assert record is not None, "require refuses absent ones"
        if command.user_id == record.owner_id:
            raise CommandError(ErrorCode.INVALID_STATE, "the creator of a conversation always owns it")
        given = {"user_id": command.user_id, "role": command.role}
        await note_operation(self._services, principal, record, command.type, **given)
        await self._services.archive.set_member(ref.tenant_id, ref.conversation_id, command.user_id, command.role)
        await self._hub.refresh(ref)
        event = MemberChanged(
            conversation_id=ref.conversation_id, user_id=command.user_id, role=command.role, by=principal.user_id
        )
        await self._services.log.emit(f"share:{uuid.uuid4().hex}", ref, [event])

    async def expire(self) -> None:
        """Delete conversations that have been quiet for longer than they are kept."""
        days = self._services.settings.storage.conversation_expiry_days
        if days is None:
            return
        before = await self._services.log.now_ms() - int(days * _DAY_MS)
        for tenant_id, conversation_id in await self._services.archive.expire(before, limit=_EXPIRED_AT_ONCE):
            ref = ConversationRef(tenant_id, conversation_id)
            if await self._services.log.running([ref]):
                continue
            await self._services.log.delete(f"delete:{uuid.uuid4().hex}", ref)
            await self._services.archive.delete_conversation(tenant_id, conversation_id)

    async def delete(
        self,
        principal: Principal,
        conversation_id: str,
        emptied: Callable[[ConversationRef, str], AbstractAsyncContextManager[None]],
    ) -> ConversationRef:
        """Cancel what runs, then drop log and archive. The usage ledger stays."""
        ref = ConversationRef(principal.tenant_id, conversation_id)
        record = await self._hub.record(ref)
        require(record, conversation_id, principal, "owner")
        assert record is not None, "require refuses absent ones"
        await note_operation(self._services, principal, record, "conversation.delete")
        async with emptied(ref, principal.user_id):
            # The record goes last: as long as it stands an interrupted delete can be repeated, and nobody else can
            # take the name and be shown the old log.
            op = f"delete:{uuid.uuid4().hex}"
            await until_answered(lambda: self._services.log.delete(op, ref), "deleting a log")
            await until_answered(
                lambda: self._services.archive.delete_conversation(ref.tenant_id, ref.conversation_id),
                "deleting a conversation",
            )
        return ref
