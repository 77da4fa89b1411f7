"""Who follows a conversation on which node. Each node announces its own followers in the log and renews that.

A request with `on_disconnect: "cancel"` ends when its author follows nowhere, so one node alone cannot tell. What a
dead node announced lapses by itself, and nobody is cancelled for it: the death of a node is no leaving.
"""

from __future__ import annotations

import logging

import anyio
from anyio.abc import TaskGroup

from turnwire_server.eventlog.base import ConversationRef, EventLog, LogUnavailable

from .conversation import Conversation

logger = logging.getLogger(__name__)

KEPT_S = 30.0
_RENEWED_S = 10.0
_AT_ONCE = 200


class Presence:
    """Announces this node's followers, where other nodes share the log."""

    def __init__(self, log: EventLog, tasks: TaskGroup, conversations: dict[ConversationRef, Conversation]) -> None:
        self._log = log
        self._tasks = tasks
        self._conversations = conversations

    def changed(self, ref: ConversationRef) -> None:
        """A user came or left here."""
        if self._log.is_shared:
            self._tasks.start_soon(self._announce, [ref], name="announcing followers")

    async def run(self) -> None:
        """Renew what was announced, until cancelled."""
        while self._log.is_shared:
            await anyio.sleep(_RENEWED_S)
            refs = [ref for ref, conversation in self._conversations.items() if conversation.followers]
            for start in range(0, len(refs), _AT_ONCE):
                await self._announce(refs[start : start + _AT_ONCE])
        await anyio.sleep_forever()

    async def _announce(self, refs: list[ConversationRef]) -> None:
        try:
            await self._log.announce({ref: self._users(ref) for ref in refs}, KEPT_S)
        except LogUnavailable as error:
            logger.debug("followers were not announced: %s", error)

    def _users(self, ref: ConversationRef) -> set[str]:
        conversation = self._conversations.get(ref)
        return set() if conversation is None else {follower.user_id for follower in conversation.followers}
