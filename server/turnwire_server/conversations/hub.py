"""All conversations that are alive on this node, and the turns that run on it.

The hub hears new entries from the log and passes them to the transport's flush; it starts turns in the node's task
group, the next queued one when one ends, and what a dead start of the node left behind. What a client asks for is in
`requests` and `threads`; what goes out over sockets is in ``transport``.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskGroup

from turnwire_protocol import Entry, Notice, RequestQueued
from turnwire_server.archive.base import ConversationRecord
from turnwire_server.eventlog.base import ConversationRef, Finished, LogUnavailable, Owned, Phase
from turnwire_server.eventlog.tail import TailBudget

from .conversation import Conversation, Follower
from .patience import until_answered
from .recovery import take_over, takeover_op
from .services import Services
from .turn import Turn

logger = logging.getLogger(__name__)

Tell = Callable[[Conversation, Any], None]
Flush = Callable[[Conversation, Sequence[Entry]], None]


class ConversationHub:
    """Lives as long as the node; ``tasks`` is the node's group for turns."""

    def __init__(self, services: Services, tasks: TaskGroup, flush: Flush, tell: Tell) -> None:
        self.services = services
        self.is_draining = False
        self.author_left: Callable[[ConversationRef, str], None] = lambda ref, user_id: None
        """Called when the last connection of a user in a conversation is gone and the server did not close it."""
        self.show_queued: Callable[[Owned, int | None], Coroutine[Any, Any, None]]
        """Shows a queued request whose node died before anybody had been shown it."""
        self._tasks = tasks
        self._flush = flush
        self._tell = tell
        self._conversations: dict[ConversationRef, Conversation] = {}
        self._turns: dict[Turn, None] = {}
        self._all_ended = anyio.Event()
        limits = services.settings.limits
        self._tail_bytes = limits.tail_bytes
        self._budget = TailBudget(limits.tails_bytes)
        services.log.listen(self._entries_received)

    def __repr__(self) -> str:
        return f"<ConversationHub conversations={len(self._conversations)} turns={len(self._turns)}>"

    # --- conversations ---------------------------------------------------------------------------------

    @asynccontextmanager
    async def pinned(self, ref: ConversationRef) -> AsyncIterator[Conversation]:
        """The conversation, kept alive for the duration of the block."""
        conversation = self._get(ref)
        conversation.pins += 1
        try:
            yield conversation
        finally:
            conversation.pins -= 1
            self._drop_if_idle(conversation)

    def find(self, ref: ConversationRef) -> Conversation | None:
        """The conversation if it is alive here."""
        return self._conversations.get(ref)

    async def record(self, ref: ConversationRef) -> ConversationRecord | None:
        """The record for checking roles; from memory while the conversation is alive here."""
        conversation = self._conversations.get(ref)
        if conversation is not None and conversation.record is not None:
            return conversation.record
        record = await self.services.archive.conversation(ref.tenant_id, ref.conversation_id)
        if conversation is not None:
            conversation.record = record
        return record

    async def refresh(self, ref: ConversationRef) -> ConversationRecord | None:
        """Read the record again: it has been changed."""
        record = await self.services.archive.conversation(ref.tenant_id, ref.conversation_id)
        conversation = self._conversations.get(ref)
        if conversation is not None:
            conversation.record = record
        return record

    def follow(self, conversation: Conversation, follower: Follower) -> None:
        """Count a follower; new entries reach it through the flush from now on."""
        conversation.followers[follower] = None

    def unfollow(self, conversation: Conversation, follower: Follower, *, by_server: bool = False) -> None:
        """The follower is gone. Its author's leaving may end requests, unless the server closed the connection."""
        if conversation.followers.pop(follower, self) is self:
            return
        if not conversation.followers:
            conversation.drop_tail()
        if not by_server and not self.is_draining and not conversation.is_present(follower.user_id):
            self.author_left(conversation.ref, follower.user_id)
        self._drop_if_idle(conversation)

    # --- turns -------------------------------------------------------------------------------------------

    @property
    def running_turns(self) -> int:
        return len(self._turns)

    def start(self, turn: Turn) -> None:
        """Run a turn in the node's group."""
        conversation = self._get(turn.owned.conversation)
        conversation.turns[turn.owned.request.request_id] = turn
        self._turns[turn] = None
        turn.on_stall = partial(self._log_stalls, conversation, turn.owned.request.request_id)
        self.services.metrics.turns_running.inc()
        self._tasks.start_soon(self._run, turn, conversation, name=f"turn {turn.owned.request.request_id}")

    def turn(self, ref: ConversationRef, request_id: str) -> Turn | None:
        """The turn of a request, when it runs here."""
        conversation = self._conversations.get(ref)
        return None if conversation is None else conversation.turns.get(request_id)

    async def take_over_orphans(self) -> int:
        """Own and go on with everything that an earlier start of this node, or a dead node, left unfinished."""
        count = 0
        log = self.services.log
        for info in await until_answered(log.orphans, "looking for orphans"):
            op, request = takeover_op(), info.request
            owned = await until_answered(partial(log.take_over, op, request), "taking over")
            if owned is None:
                continue
            count += 1
            if owned.phase is Phase.QUEUED:
                # It is started when its turn comes; whoever finishes the one before it does that.
                if owned.n == 0:
                    self._tasks.start_soon(self.show_queued, owned, info.position)
                continue
            self.start(await until_answered(partial(take_over, self.services, owned), "taking over"))
        return count

    async def drain(self, seconds: float) -> None:
        """Let turns end by themselves for a while, then end what is left where it stands."""
        self.is_draining = True
        with anyio.move_on_after(seconds):
            await self._until_ended()
        for turn in list(self._turns):
            turn.drain()
        await self._until_ended()

    def went_on(self, conversation: ConversationRef, finished: Finished) -> None:
        """A request has ended: start the next, and tell those behind it where they stand now."""
        if finished.next is not None and not self.is_draining:
            self.start(Turn(self.services, finished.next))
        if finished.waiting:
            self._tasks.start_soon(self._tell_positions, conversation, finished, name="queue positions")

    # --- inside ------------------------------------------------------------------------------------------

    def _get(self, ref: ConversationRef) -> Conversation:
        conversation = self._conversations.get(ref)
        if conversation is None:
            conversation = self._conversations[ref] = Conversation(ref, self._tail_bytes, self._budget)
            self.services.log.watch(ref)
        return conversation

    def _drop_if_idle(self, conversation: Conversation) -> None:
        if conversation.is_idle and self._conversations.get(conversation.ref) is conversation:
            del self._conversations[conversation.ref]
            self.services.log.unwatch(conversation.ref)

    def forget(self, conversation: Conversation) -> None:
        """The conversation was deleted."""
        conversation.followers.clear()
        conversation.drop_tail()
        conversation.record = None
        self._drop_if_idle(conversation)

    def _log_stalls(self, conversation: Conversation, request_id: str) -> None:
        """The answer goes on being made, but nobody is shown what is not in the log: say why it stands still."""
        self._tell(
            conversation,
            Notice(
                kind="log_unavailable",
                conversation_id=conversation.ref.conversation_id,
                request_id=request_id,
                message="the server's storage does not answer; the answer goes on when it does",
            ),
        )

    def _entries_received(self, ref: ConversationRef, epoch: str, entries: Sequence[Entry]) -> None:
        conversation = self._conversations.get(ref)
        if conversation is not None:
            fresh = conversation.received(epoch, entries)
            if fresh:
                self._flush(conversation, fresh)

    async def _run(self, turn: Turn, conversation: Conversation) -> None:
        finished: Finished | None = None
        try:
            finished = await turn.run()
        except Exception:
            # Whatever it was, the request is still in the log and is taken over at the next start.
            logger.exception("%r stopped without an end", turn)
        finally:
            self._turns.pop(turn, None)
            self.services.metrics.turns_running.dec()
            if conversation.turns.get(turn.owned.request.request_id) is turn:
                del conversation.turns[turn.owned.request.request_id]
            if finished is not None:
                self.went_on(conversation.ref, finished)
            self._drop_if_idle(conversation)
            if not self._turns:
                self._all_ended.set()
                self._all_ended = anyio.Event()

    async def _until_ended(self) -> None:
        while self._turns:
            await self._all_ended.wait()

    async def _tell_positions(self, ref: ConversationRef, finished: Finished) -> None:
        """New positions of those that wait. Lost with the node at worst: a later one says it again."""
        behind = finished.next.request.request_id if finished.next is not None else None
        events = [
            RequestQueued(conversation_id=ref.conversation_id, request_id=request_id, position=place, behind=behind)
            for place, request_id in enumerate(finished.waiting, start=1)
        ]
        op = f"queue:{uuid.uuid4().hex}"
        try:
            await until_answered(lambda: self.services.log.emit(op, ref, events), "telling queue positions")
        except LogUnavailable:  # pragma: no cover - until_answered repeats
            logger.warning("queue positions of %s were not told", ref.conversation_id)
