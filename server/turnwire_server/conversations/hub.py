"""All conversations that are alive on this node, and the turns that run on it.

The hub hears new entries from the log and passes them to the transport's flush; it starts turns in the node's task
group, the next queued one when one ends, and what a dead node, or a dead start of this one, left behind: it is the
log's `Keeper`. What a client asks for is in
`requests` and `threads`; what goes out over sockets is in ``transport``.
"""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskGroup

from turnwire_protocol import Entry, Notice, RequestQueued
from turnwire_server.archive.base import ConversationRecord
from turnwire_server.eventlog.base import (
    ConversationRef,
    Finished,
    Intent,
    LogUnavailable,
    Owned,
    Phase,
    RequestRef,
    Roll,
)
from turnwire_server.eventlog.tail import TailBudget

from .conclude import conclude
from .conversation import Conversation, Follower
from .patience import until_answered
from .presence import Attendances
from .rebuild import Rebuilder
from .recovery import take_over, takeover_op
from .services import Services
from .summaries import Summaries
from .turn import Turn
from .writer import LostOwnership

logger = logging.getLogger(__name__)

Tell = Callable[[Conversation, Any], None]
Flush = Callable[[Conversation, str, Sequence[Entry]], None]
LookAgain = Callable[[Conversation, str, int], None]

# What this node owns and does not run is given up when it was so at two looks in a row, so far apart.
_STRAY_LOOK_S = 10.0
_RETRY_S = 0.5
# How the body of the event begins that says that roles have changed (`encode_body` puts the type first).
_MEMBER_CHANGED = b'{"type":"member.changed"'


class ConversationHub:
    """Lives as long as the node; ``tasks`` is the node's group for turns."""

    def __init__(self, services: Services, tasks: TaskGroup, flush: Flush, tell: Tell, look_again: LookAgain) -> None:
        self.services = services
        self.is_draining = False
        self.roles_changed: Callable[[ConversationRef], None] = lambda ref: None
        """Called when the record of a conversation that is followed here has been read again."""
        self.deleted: Callable[[ConversationRef], None] = lambda ref: None
        """Called when a conversation that is followed here was deleted on another node."""
        self.handling: Counter[RequestRef] = Counter()
        """Requests that this node works on otherwise than by a turn: they are being created or concluded."""
        self.author_left: Callable[[ConversationRef, str], None] = lambda ref, user_id: None
        """Called when the last connection of a user in a conversation is gone and the server did not close it."""
        self.press: Callable[[Owned], Coroutine[Any, Any, None]]
        """Says to the running turn what a request that waits wants of it (`Requests._press`)."""
        self.show_queued: Callable[[Owned, int | None], Coroutine[Any, Any, None]]
        """Shows a queued request whose node died before anybody had been shown it."""
        self._tasks = tasks
        self._flush = flush
        self._tell = tell
        self._look_again = look_again
        self._rebuilder = Rebuilder(services)
        self._summaries = Summaries(services)
        self._orphaned = anyio.Event()
        self._conversations: dict[ConversationRef, Conversation] = {}
        self.attendances = Attendances(services.log, tasks, self._conversations)
        self._turns: dict[Turn, None] = {}
        self._by_request: dict[RequestRef, Turn] = {}
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
        self.attendances.came(conversation, follower)

    def unfollow(self, conversation: Conversation, follower: Follower, *, by_server: bool = False) -> None:
        """The follower is gone. Its author's leaving may end requests, unless the server closed the connection."""
        if conversation.followers.pop(follower, self) is self:
            return
        if not conversation.followers:
            conversation.drop_tail()
        self.attendances.left(conversation, follower)
        if not conversation.is_present(follower.user_id) and not by_server and not self.is_draining:
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
        self._by_request[turn.owned.request] = turn
        turn.on_forgotten = partial(self._recall, turn)
        turn.on_next = self.start_next
        turn.on_merged = self._merged
        turn.is_present = partial(self.attendances.is_present, turn.owned.conversation)
        turn.on_stall = partial(self._log_stalls, conversation, turn.owned.request.request_id)
        self.services.metrics.turns_running.inc()
        self._tasks.start_soon(self._run, turn, conversation, name=f"turn {turn.owned.request.request_id}")

    def _recall(self, turn: Turn) -> None:
        self._tasks.start_soon(turn.recall, name="recalling a cancel")

    def turn(self, ref: ConversationRef, request_id: str) -> Turn | None:
        """The turn of a request, when it runs here."""
        conversation = self._conversations.get(ref)
        return None if conversation is None else conversation.turns.get(request_id)

    def running(self, request: RequestRef) -> Turn | None:
        """The turn of a request of which only the id is known, when it runs here."""
        return self._by_request.get(request)

    def start_next(self, owned: Owned) -> None:
        """Run a request whose turn has come, or leave it to another node when this one goes away."""
        if not self.is_draining:
            self.start(Turn(self.services, owned))
        elif self.services.log.is_shared:
            self._tasks.start_soon(self._give_up, owned, name="handing over")

    async def _give_up(self, owned: Owned) -> None:
        give_up = partial(self.services.log.hand_over, owned.request, owned.fence)
        await until_answered(give_up, "handing over")

    async def take_over_orphans(self) -> int:
        """Own and go on with everything that an earlier start of this node, or a dead node, left unfinished."""
        count = 0
        log = self.services.log
        orphans = list(await log.orphans())
        self.services.metrics.orphans_seen_total.inc(len(orphans))
        for info in orphans:
            if self.is_draining or self.running_turns >= self.services.settings.limits.running_turns:
                break
            op, request = takeover_op(), info.request
            owned = await until_answered(partial(log.take_over, op, request), "taking over")
            if owned is None:
                continue
            count += 1
            logger.info("took over request %s: %s, run %d, %d events", *_told(owned))
            self.services.metrics.takeovers_total.labels(_reason(owned, info.run)).inc()
            if owned.phase is Phase.QUEUED:
                # It is started when its turn comes; whoever finishes the one before it does that.
                if owned.n == 0:
                    self._tasks.start_soon(self.show_queued, owned, info.position)
                else:
                    self._tasks.start_soon(self.press, owned)
                continue
            self._tasks.start_soon(self._go_on, owned, name=f"taking over {request.request_id}")
        return count

    async def _go_on(self, owned: Owned) -> None:
        with self.at_work(owned.request):
            try:
                turn = await until_answered(partial(take_over, self.services, owned), "taking over")
            except LostOwnership:
                logger.warning("request %s has a later owner; the log has lost that", owned.request.request_id)
            else:
                self.start(turn)

    @contextmanager
    def at_work(self, request: RequestRef) -> Iterator[None]:
        """This node does something with a request that has no turn here."""
        self.handling[request] += 1
        try:
            yield
        finally:
            self.handling -= Counter({request: 1})

    # --- as the log's keeper -------------------------------------------------------------------------------

    async def keep(self) -> None:
        """Take over, rebuild and give up strays, until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._rebuilder.run, name="rebuild")
            tasks.start_soon(self._give_up_strays, name="strays")
            tasks.start_soon(self.attendances.run, name="presence")
            while True:
                await self._orphaned.wait()
                self._orphaned = anyio.Event()
                try:
                    if not self.is_draining:
                        await self.take_over_orphans()
                except LogUnavailable as error:
                    logger.debug("orphans were not looked for: %s", error)
                    await anyio.sleep(_RETRY_S)
                except Exception:
                    logger.exception("taking over failed; it is tried again")
                    await anyio.sleep(_RETRY_S)

    def heard(self, request: RequestRef, conversation: ConversationRef, intents: Sequence[Intent]) -> None:
        turn = self.turn(conversation, request.request_id)
        if turn is not None:
            turn.hear(intents)

    def positioned(self, conversation: ConversationRef, epoch: str, seq: int) -> None:
        known = self._conversations.get(conversation)
        if known is None or not known.positioned(epoch, seq):
            return
        self.services.metrics.gaps_filled_total.inc()
        self._look_again(known, epoch, seq)
        self.read_again(conversation)

    def orphaned(self) -> None:
        self._orphaned.set()

    def doubted(self) -> None:
        self._rebuilder.doubted()

    def attended(self, conversation: ConversationRef, node: str, base: int | None, roll: Roll) -> None:
        self.attendances.heard(conversation, node, base, roll)

    def missed(self, requests: Sequence[RequestRef]) -> None:
        here = self._by_request
        for request in requests:
            if request in here:
                here[request].ask()
        if others := [request for request in requests if request not in here]:
            self._tasks.start_soon(self._give_up_ended, others, name="giving up what has ended")

    def read_again(self, ref: ConversationRef) -> None:
        """The record may have changed elsewhere: roles, or the conversation is gone."""
        self._tasks.start_soon(self._read_again, ref, name="reading a record again")

    async def _read_again(self, ref: ConversationRef) -> None:
        record = await until_answered(partial(self.refresh, ref), "reading a conversation")
        if record is None:
            self.deleted(ref)
        else:
            self.roles_changed(ref)

    async def _give_up_strays(self) -> None:
        """What the log says is this node's and does not run here would hang for ever: a step's answer was lost for
        good, or the log has gone back to an earlier state. It becomes an orphan."""
        before: set[RequestRef] = set()
        while True:
            await anyio.sleep(_STRAY_LOOK_S)
            try:
                mine = set(await self.services.log.mine())
                here = self._by_request.keys() | set(self.handling)
                queued = {ref for ref in mine - here if await self._is_queued(ref)}
                strays = mine - here - queued
                for ref in strays & before:
                    logger.warning("request %s is owned here and does not run; it is given up", ref.request_id)
                    await self.services.log.disown(ref)
                before = strays
            except LogUnavailable as error:
                logger.debug("strays were not looked for: %s", error)

    async def _give_up_ended(self, requests: Sequence[RequestRef]) -> None:
        """As `_give_up_strays`, but at once: the log has gone back. Whoever takes it finds its end in the archive."""
        for ref in requests:
            try:
                waits = await self._is_queued(ref)
                here = self._by_request.keys() | set(self.handling)
                if not waits and ref not in here:
                    await self.services.log.disown(ref)
            except LogUnavailable as error:
                logger.debug("what has ended was not given up: %s", error)

    async def _is_queued(self, ref: RequestRef) -> bool:
        info = await self.services.log.request(ref)
        return info is not None and info.phase is Phase.QUEUED and info.confirmed

    async def drain(self, seconds: float) -> None:
        """Let turns end by themselves for a while, then end what is left where it stands."""
        self.is_draining = True
        with anyio.move_on_after(seconds):
            await self._until_ended()
        for turn in list(self._turns):
            turn.drain()
        await self._until_ended()

    def _merged(self, owned: Owned) -> None:
        self._tasks.start_soon(self.conclude, owned, name="concluding a merged request")

    async def conclude(self, owned: Owned) -> None:
        """Carry out the ending of a request that never ran."""
        assert owned.ending is not None, "sealed by whoever got it"
        try:
            with self.at_work(owned.request):
                self.went_on(owned.conversation, await conclude(self.services, owned, owned.ending))
        except LostOwnership:
            logger.info("request %s was ended by another", owned.request.request_id)

    def went_on(self, conversation: ConversationRef, finished: Finished) -> None:
        """A request has ended: start the next, and tell those behind it where they stand now."""
        if finished.next is not None:
            self.start_next(finished.next)
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
        if conversation is None:
            return
        fresh = conversation.received(epoch, entries)
        if fresh:
            self._flush(conversation, epoch, fresh)
        for entry in entries:
            if entry.body.startswith(_MEMBER_CHANGED):
                self.read_again(ref)
                break

    async def _run(self, turn: Turn, conversation: Conversation) -> None:
        finished: Finished | None = None
        try:
            finished = await turn.run()
        except Exception:
            # Whatever it was, the request is still in the log and is taken over at the next start.
            logger.exception("%r stopped without an end", turn)
        finally:
            self._turns.pop(turn, None)
            if self._by_request.get(turn.owned.request) is turn:
                del self._by_request[turn.owned.request]
            self.services.metrics.turns_running.dec()
            if conversation.turns.get(turn.owned.request.request_id) is turn:
                del conversation.turns[turn.owned.request.request_id]
            if finished is not None:
                self.went_on(conversation.ref, finished)
                self._summarise(turn)
            elif self.services.log.is_shared:
                self._tasks.start_soon(self._see_whether_forgotten, turn.owned, name="looking for a lost turn")
            self._drop_if_idle(conversation)
            if not self._turns:
                self._all_ended.set()
                self._all_ended = anyio.Event()

    def _summarise(self, turn: Turn) -> None:
        used = turn.used
        if used is not None and not self.is_draining and self._summaries.is_needed(turn.spec, used):
            self._tasks.start_soon(self._summaries.make, turn.spec, used, name="making a summary")

    async def _see_whether_forgotten(self, owned: Owned) -> None:
        """A turn may have lost its ownership to nobody: what claimed it is lost, and the log was compared with the
        archive before that had the request. Then it has to be compared again."""
        log, archive, ref = self.services.log, self.services.archive, owned.request
        if await until_answered(partial(log.request, ref, owned.conversation), "looking for a lost turn") is not None:
            return
        record = await until_answered(
            partial(archive.request, ref.tenant_id, ref.request_id), "looking for a lost turn"
        )
        if record is not None and record.state == "open":
            doubt = partial(log.doubt, log.partition(owned.conversation))
            await until_answered(doubt, "telling the log of a lost turn")

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


def _told(owned: Owned) -> tuple[str, str, int, int]:
    return owned.request.request_id, owned.phase.value, owned.run, owned.n


def _reason(owned: Owned, run: int) -> str:
    if owned.is_rebuilt:
        return "rebuilt"
    return "node_lost" if owned.run > run else "handed_over"
