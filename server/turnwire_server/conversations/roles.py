"""Who may do what in a conversation (SPEC section 3, roles). Pure.

The record says who owns it, who is a member and whether the whole tenant may edit; a token's scopes act in every
conversation of its tenant. Whoever may not even view learns nothing: for them it is `not_found`.
"""

from __future__ import annotations

from dataclasses import replace

from turnwire_protocol import CommandError, ErrorCode
from turnwire_server.archive.base import ConversationRecord, Role
from turnwire_server.auth import Principal

_RANK: dict[Role, int] = {"viewer": 1, "editor": 2, "owner": 3}
SCOPE_READ = "conversations:read"
SCOPE_OPERATE = "conversations:operate"


def role_of(record: ConversationRecord, principal: Principal) -> Role | None:
    """The highest role of the principal in this conversation, None when it has none."""
    if record.tenant_id != principal.tenant_id:
        return None
    held: list[Role] = []
    if record.owner_id == principal.user_id or SCOPE_OPERATE in principal.scopes:
        held.append("owner")
    if principal.user_id in record.members:
        held.append(record.members[principal.user_id])
    if record.visibility == "tenant":
        held.append("editor")
    if SCOPE_READ in principal.scopes:
        held.append("viewer")
    return max(held, key=_RANK.__getitem__, default=None)


def allows(role: Role | None, needed: Role) -> bool:
    """Whether ``role`` includes what ``needed`` may do."""
    return role is not None and _RANK[role] >= _RANK[needed]


def acts_by_scope(record: ConversationRecord, principal: Principal) -> bool:
    """Whether the principal owns this conversation by the scope to operate its tenant, and by nothing else."""
    own = replace(principal, scopes=principal.scopes - {SCOPE_OPERATE})
    return allows(role_of(record, principal), "owner") and not allows(role_of(record, own), "owner")


def require(record: ConversationRecord | None, conversation_id: str, principal: Principal, needed: Role) -> Role:
    """The principal's role, or `not_found` when it has none, or `forbidden` when it is too low."""
    role = None if record is None else role_of(record, principal)
    if role is None:
        raise CommandError(ErrorCode.NOT_FOUND, f"no conversation '{conversation_id}'")
    if not allows(role, needed):
        raise CommandError(
            ErrorCode.FORBIDDEN, f"this needs the role '{needed}' in the conversation; yours is '{role}'"
        )
    return role


def taken(conversation_id: str) -> CommandError:
    """For creating a conversation, or a request in one, under an id that belongs to others."""
    return CommandError(ErrorCode.FORBIDDEN, f"the conversation '{conversation_id}' is another's")
