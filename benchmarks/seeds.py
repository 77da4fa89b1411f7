"""Conversations with a long history, put into the archive as turns that ended long ago leave them there.

Through the server itself each of five thousand turns would send the whole history to the provider.
"""

from __future__ import annotations

import time
from typing import Any

from turnwire_protocol import Message, TextPart
from turnwire_server.archive.base import Archive, Billing, ConversationRecord, RequestRecord

_TEXT = "This is what was said, some hundred characters of it, as long as one says in a chat without thinking. "


async def seed(archive: Archive, conversation_id: str, messages: int, *, tenant_id: str, user_id: str) -> None:
    """Make the conversation with so many messages, half of them answers.

    No server may be up meanwhile: it would go on with what has not ended yet.
    """
    now = int(time.time() * 1000)
    record = ConversationRecord(tenant_id, conversation_id, user_id, "private", created_at=now, updated_at=now)
    await archive.create_conversation(f"seed-{conversation_id}", record)
    parent = None
    for ordinal in range(1, messages // 2 + 1):
        name = f"{conversation_id}-seed-{ordinal}"
        place: dict[str, Any] = {"request_id": name, "created_at": now + ordinal, "ordinal": ordinal}
        said: dict[str, Any] = {"parts": [TextPart(text=_TEXT)], "status": "complete", **place}
        asked = Message(message_id=f"u-{name}", role="user", parent_id=parent, **said)
        answer = Message(message_id=f"a-{name}", role="assistant", parent_id=asked.message_id, **said)
        request = RequestRecord(
            tenant_id=tenant_id,
            request_id=name,
            conversation_id=conversation_id,
            user_id=user_id,
            fingerprint=name,
            ordinal=ordinal,
            spec={},
            input=asked,
            answer_id=answer.message_id,
            created_at=now + ordinal,
        )
        await archive.insert_request(name, request)
        await archive.end_request(
            tenant_id,
            name,
            ending={"outcome": "completed"},
            answer=answer,
            usage=(),
            billing=Billing(user_id, conversation_id),
            run=1,
            ended_at=now + ordinal,
        )
        parent = answer.message_id
