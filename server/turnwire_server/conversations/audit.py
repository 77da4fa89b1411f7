"""Acts of operators on what belongs to others, for the audit log (docs/tenants.md).

Somebody who owns a conversation, or was made its owner, acts for themselves; somebody who may do the same by the scope
`conversations:operate` alone acts for the tenant, and that is told before it is done. What is told holds ids and no
texts.
"""

from __future__ import annotations

import uuid

from turnwire_server.archive.base import ConversationRecord
from turnwire_server.archive.tenants import AuditEntry
from turnwire_server.auth import Principal

from .roles import acts_by_scope
from .services import Services


async def note_operation(
    services: Services, principal: Principal, conversation: ConversationRecord, act: str, **details: str | None
) -> None:
    """Tell of an act that is about to be done, if it is one of an operator.

    Raises `ArchiveUnavailable`: then it must not be done. An entry may stand for an act that failed after it.
    """
    if not acts_by_scope(conversation, principal):
        return
    said = {"conversation_id": conversation.conversation_id, **details, "token_id": principal.token_id}
    entry = AuditEntry(
        op=uuid.uuid4().hex,
        at=services.now_ms(),
        actor=principal.user_id,
        act=act,
        tenant_id=principal.tenant_id,
        details={name: value for name, value in said.items() if value is not None},
    )
    await services.archive.add_audit(entry)
