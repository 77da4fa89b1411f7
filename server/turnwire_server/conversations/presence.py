"""Who follows a conversation, on this node and on others, and telling the followers of it.

Each node announces its own followers in the log, as changes to what it said before, and renews that; it hears what
others announce, and compares versions when it renews, so that a lost message heals. What a dead node announced lapses
by itself. Followers are told by the transport, gathered for a while, so that a storm of comings and goings is cheap.

A request with `on_disconnect: "cancel"` ends when its author follows nowhere, so one node alone cannot tell; nobody is
cancelled for the death of a node, which is no leaving.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import anyio
from anyio.abc import TaskGroup

from turnwire_protocol import Presence
from turnwire_server.eventlog.base import ConversationRef, EventLog, LogUnavailable, Roll

from .attendance import News
from .conversation import Conversation, Follower

logger = logging.getLogger(__name__)

# A dead node's users are gone when what it announced has lapsed and the others have looked: within 30 s.
KEPT_S = 20.0
_RENEWED_S = 6.0
# A node that lives, and is not slow, has renewed by then.
_OVERDUE_S = 8.0
_AT_ONCE = 200
# Changes of so long are announced together.
_GATHERED_S = 0.02
# How long changes gather before the followers are told, at least and for each follower; with 1,000 half a second.
_TOLD_S = 0.1
_TOLD_PER_FOLLOWER_S = 0.0005

Show = Callable[[Conversation, News], None]


class Attendances:
    """Of all conversations that are followed on this node. ``show`` tells the followers, see `News`."""

    def __init__(self, log: EventLog, tasks: TaskGroup, conversations: dict[ConversationRef, Conversation]) -> None:
        self.show: Show = lambda conversation, news: None
        self._log = log
        self._tasks = tasks
        self._conversations = conversations
        self._versions = 0
        self._said: dict[ConversationRef, int] = {}
        """The version of each roll of this node that the log is known to have."""
        self._to_announce: dict[ConversationRef, None] = {}
        self._announce_now = anyio.Event()
        self._telling: set[ConversationRef] = set()
        self._loaded: set[ConversationRef] = set()
        """Conversations of which the followers on other nodes are known."""
        self._loading: dict[ConversationRef, anyio.Event] = {}
        self._heard_meanwhile: set[ConversationRef] = set()

    # --- what happens here -------------------------------------------------------------------------------

    def came(self, conversation: Conversation, follower: Follower) -> None:
        """A connection follows."""
        conversation.attendance.came(follower)
        self._changed(conversation)

    def left(self, conversation: Conversation, follower: Follower) -> None:
        """A connection follows no longer."""
        conversation.attendance.left(follower)
        self._changed(conversation)
        if not conversation.followers:
            self._loaded.discard(conversation.ref)

    def says(self, conversation: Conversation, follower: Follower, state: Any) -> None:
        """A connection that follows says its state; None takes it back."""
        conversation.attendance.says(follower, state, time.monotonic())
        self._changed(conversation)

    # --- what is asked -----------------------------------------------------------------------------------

    async def present(self, conversation: Conversation) -> list[Presence]:
        """Everybody who follows, here and, as far as can be known, elsewhere."""
        await self._load(conversation)
        return conversation.attendance.present()

    async def is_present(self, ref: ConversationRef, user_id: str, instance_id: str | None = None) -> bool:
        """Does this user follow on any node, with this client instance if one is given? Raises `LogUnavailable`.

        Whoever waits for an instance is not to wait for a dead node's roll to lapse: one that was not renewed in its
        time does not count.
        """
        conversation = self._conversations.get(ref)
        if conversation is not None and conversation.attendance.is_here(user_id, instance_id):
            return True
        rolls = await self._log.present(ref)
        # What this node has announced may be older than what it knows.
        rolls = {node: roll for node, roll in rolls.items() if node != self._log.owner}
        if instance_id is not None:
            rolls = {node: roll for node, roll in rolls.items() if roll.left_s > KEPT_S - _OVERDUE_S}
        elsewhere = [attendee for roll in rolls.values() for attendee in roll.attendees]
        return any(
            instance_id is None or instance_id in attendee.instances
            for attendee in elsewhere
            if attendee.user_id == user_id
        )

    # --- other nodes -------------------------------------------------------------------------------------

    def heard(self, ref: ConversationRef, node: str, base: int | None, roll: Roll) -> None:
        """Another node has announced something."""
        conversation = self._conversations.get(ref)
        if ref in self._loading:
            self._heard_meanwhile.add(ref)
        if conversation is None or ref not in self._loaded:
            return
        if not conversation.attendance.heard(node, base, roll, time.monotonic()):
            self._load_again(conversation)
        self._tell_later(conversation)

    async def run(self) -> None:
        """Announce and renew, until cancelled."""
        if not self._log.is_shared:
            await anyio.sleep_forever()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._renew, name="renewing followers")
            while True:
                await self._announce_now.wait()
                self._announce_now = anyio.Event()
                refs = list(self._to_announce)
                self._to_announce.clear()
                for start in range(0, len(refs), _AT_ONCE):
                    await self._announce(refs[start : start + _AT_ONCE])
                await anyio.sleep(_GATHERED_S)

    async def _renew(self) -> None:
        while True:
            await anyio.sleep(_RENEWED_S)
            self._to_announce |= {ref: None for ref, found in self._conversations.items() if found.followers}
            self._announce_now.set()

    async def _announce(self, refs: list[ConversationRef]) -> None:
        rolls = {ref: self._roll(ref) for ref in refs}
        versions: Mapping[ConversationRef, Mapping[str, int]] = {}
        try:
            versions = await self._log.announce(rolls, KEPT_S)
        except LogUnavailable as error:
            logger.debug("followers were not announced: %s", error)
        except Exception:
            logger.exception("followers were not announced; it is tried again")
        for ref, (_, roll) in rolls.items():
            self._announced(ref, roll, versions.get(ref))

    def _roll(self, ref: ConversationRef) -> tuple[int | None, Roll]:
        """What to say of a conversation: what has changed since it was last said, or all."""
        conversation, base = self._conversations.get(ref), self._said.get(ref)
        if conversation is None or not conversation.followers:
            self._versions += 1
            return None, Roll(self._versions, ())
        attendance = conversation.attendance
        changed, attendance.unannounced = attendance.unannounced, set()
        if base is not None and not changed:
            return base, Roll(base, ())
        self._versions += 1
        attendees, left = attendance.roll(None if base is None else changed, time.monotonic())
        return base, Roll(self._versions, attendees, left)

    def _announced(self, ref: ConversationRef, roll: Roll, versions: Mapping[str, int] | None) -> None:
        conversation = self._conversations.get(ref)
        is_followed = conversation is not None and bool(conversation.followers)
        known = {} if versions is None else dict(versions)
        if known.pop(self._log.owner, None) == roll.version:
            self._said[ref] = roll.version
        else:
            # Not there, or nobody knows whether: all has to be said, now or with the next renewal.
            self._said.pop(ref, None)
            if is_followed and versions is not None:
                self._to_announce[ref] = None
                self._announce_now.set()
        if conversation is None or versions is None or ref not in self._loaded:
            return
        if not conversation.attendance.compared(known):
            self._load_again(conversation)
        self._tell_later(conversation)

    async def _load(self, conversation: Conversation) -> None:
        """Ask for the followers on other nodes, unless they are known."""
        ref = conversation.ref
        while self._log.is_shared and ref not in self._loaded:
            if (other := self._loading.get(ref)) is not None:
                await other.wait()
                continue
            self._loading[ref] = done = anyio.Event()
            self._heard_meanwhile.discard(ref)
            try:
                rolls = dict(await self._log.present(ref))
            except LogUnavailable as error:
                logger.debug("followers elsewhere are not known: %s", error)
                return
            finally:
                del self._loading[ref]
                done.set()
            if not conversation.followers:
                return
            rolls.pop(self._log.owner, None)
            conversation.attendance.replaced(rolls, time.monotonic())
            if ref not in self._heard_meanwhile:
                self._loaded.add(ref)
            self._tell_later(conversation)

    def _load_again(self, conversation: Conversation) -> None:
        self._loaded.discard(conversation.ref)
        self._tasks.start_soon(self._load, conversation, name="asking for followers")

    # --- telling -----------------------------------------------------------------------------------------

    def _changed(self, conversation: Conversation) -> None:
        if self._log.is_shared:
            self._to_announce[conversation.ref] = None
            self._announce_now.set()
        self._tell_later(conversation)

    def _tell_later(self, conversation: Conversation) -> None:
        # A follower who is alone knows of itself; the next one to come is told of what is so then.
        attendance = conversation.attendance
        others = len(conversation.followers) > 1 or conversation.ref in self._loaded or attendance.was_told
        if others and attendance.has_news and conversation.ref not in self._telling:
            self._telling.add(conversation.ref)
            self._tasks.start_soon(self._tell, conversation, name="telling who is present")

    async def _tell(self, conversation: Conversation) -> None:
        try:
            while conversation.followers and conversation.attendance.has_news:
                await anyio.sleep(max(_TOLD_S, _TOLD_PER_FOLLOWER_S * len(conversation.followers)))
                self.show(conversation, conversation.attendance.news())
        finally:
            self._telling.discard(conversation.ref)
