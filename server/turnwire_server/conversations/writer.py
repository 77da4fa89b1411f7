"""One turn's way into the log: gathers its events, hands them to group commit, folds what is written.

At most one append of a turn is under way; what comes meanwhile melts together and goes with the next. The fold is
the turn's own view of itself: it holds what was handed over, and once `flush` has returned exactly what is in the
log. Above is the turn; below are `DeltaBuffer` and `eventlog.group_commit`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import anyio

from turnwire_protocol import (
    OutputTextDelta,
    PartReset,
    ReasoningDelta,
    RequestEvent,
    RequestFold,
    SteerApplied,
    ToolArgumentsDelta,
    ToolCallPart,
    ToolStarted,
)
from turnwire_server.eventlog.base import Append, Appended, Fenced, Forgotten, Intent, LogUnavailable, Owned, Reentry
from turnwire_server.eventlog.group_commit import GroupCommit

from .deltas import DeltaBuffer, DeltaType
from .tracing import TurnTrace

_DELTAS = (OutputTextDelta, ReasoningDelta, ToolArgumentsDelta)
_OF_THE_MODEL = (*_DELTAS, PartReset, ToolStarted)


class LostOwnership(Exception):
    """A later owner has the turn, or its conversation is gone: write nothing more."""


class TurnWriter:
    """Not to be shared: one turn, one writer."""

    def __init__(
        self,
        owned: Owned,
        fold: RequestFold,
        commit: GroupCommit,
        *,
        lane: int,
        now_ms: Callable[[], int],
        heard: Callable[[Sequence[Intent]], None],
        forgotten: Callable[[], None],
        stalled: Callable[[], None],
        checkpoint: Callable[[], dict[str, Any]],
        checkpoint_events: int,
        checkpoint_bytes: int,
        stall_s: float,
        stall_chars: int,
        hold_chars: int,
        trace: TurnTrace,
    ) -> None:
        self.fold = fold
        self.trace = trace
        self.buffer = self._new_buffer(owned, fold)
        self.heard = owned.taken
        """How far the inbox was read."""
        self.unsettled: set[int] = set()
        """Of what was heard that of which nothing has come yet: a taker has to hear it again."""
        self.epoch = owned.epoch
        self.lane = lane
        self._owned = owned
        self._now_ms = now_ms
        self._tell_forgotten = forgotten
        self._reenters = False
        self._is_forgotten = False
        self.forgotten_in = ""
        """The incarnation of the log that has forgotten this turn."""
        self._asks = False
        self._commit = commit
        self._heard = heard
        self._tell_stalled = stalled
        self._checkpoint = checkpoint
        self._checkpoint_events = checkpoint_events
        self._checkpoint_bytes = checkpoint_bytes
        self._stall_s = stall_s
        self._stall_chars = stall_chars
        self._n = owned.n
        self._inflight: list[RequestEvent] = []
        self._since_checkpoint = 0
        self._bytes_since_checkpoint = 0
        self._want_checkpoint = False
        self._changed: anyio.Event | None = None  # made by whoever waits: most appends have nobody who does
        self._lost = False
        self._held = False
        self._hold_chars = hold_chars
        self._told_calls: set[str] | None = None  # after `discard`: those that were not dropped with the text
        self._stalled_at: float | None = None

    def __repr__(self) -> str:
        return f"<TurnWriter {self._owned.request.request_id} n={self._n} waiting={len(self.buffer)}>"

    @property
    def n(self) -> int:
        """How many events of this turn are in the log."""
        return self._n

    def text(self, kind: DeltaType, text: str) -> None:
        """Text from the model. Returns at once; see `room`."""
        if self._told_calls is not None:
            return
        self.buffer.add_text(kind, text)
        self._wake()

    def event(self, event: RequestEvent, *, checkpoint: bool = False) -> None:
        """Any other event. With ``checkpoint`` the turn's own state is stored in the same step."""
        if self._is_dropped(event):
            return
        self.trace.saw(event)
        self.buffer.add(event)
        self._want_checkpoint |= checkpoint
        self._wake()

    def ask(self) -> None:
        """Find out whether the log still has this turn, though there may be nothing to add."""
        self._asks = True
        self._wake()

    @staticmethod
    def _new_buffer(owned: Owned, fold: RequestFold) -> DeltaBuffer:
        buffer = DeltaBuffer(owned.conversation.conversation_id, owned.request.request_id, fold.partial)
        if any(steered.part == len(fold.partial.parts) for steered in fold.partial.steered):
            buffer.begin_part()
        return buffer

    def hold(self) -> None:
        """Write nothing more for the time being; what is said waits in the buffer, and there is little room in it."""
        self._held = True

    def release(self) -> None:
        """Go on after `hold`."""
        if self._held:
            self._held = False
            self._wake()
            self._tell()

    async def released(self) -> None:
        """Wait while what is said is held back."""
        while self._held:
            await self._until_changed()

    def discard(self) -> None:
        """Forget the text that waits and what came after it, and whatever the model may still say: it will not be
        shown (PROTOCOL section 4, after a confirmed interrupt)."""
        waiting = self.buffer.take()
        before = list(itertools.takewhile(lambda event: not isinstance(event, _DELTAS), waiting))
        # What was folded in is merged already, and nowhere else than in this answer.
        before += [event for event in waiting[len(before) :] if isinstance(event, SteerApplied)]
        self.buffer = self._new_buffer(self._owned, self.fold)
        self._told_calls = {part.call_id for part in self.fold.partial.to_parts() if isinstance(part, ToolCallPart)}
        for event in before:
            if isinstance(event, ToolStarted):
                self.buffer.add_call_part()
                self._told_calls.add(event.call_id)
            self.buffer.add(event)
        self.release()
        self._tell()  # whoever waits for what is forgotten would wait for ever
        if before:
            self._wake()

    def _is_dropped(self, event: RequestEvent) -> bool:
        if self._told_calls is None:
            return False
        call_id = getattr(event, "call_id", None)
        return isinstance(event, _OF_THE_MODEL) or (call_id is not None and call_id not in self._told_calls)

    @property
    def is_full(self) -> bool:
        """Whether `room` would wait or raise."""
        return self.buffer.pending_chars > self._room or self._lost or self._stalled_at is not None

    @property
    def _room(self) -> int:
        return self._hold_chars if self._held else self._stall_chars

    async def room(self) -> None:
        """Wait while too much waits for the log.

        Raises `LostOwnership`, and `LogUnavailable` once the log has not answered for the allowed time or the
        buffer of an outage is full: then the provider must not be read any further.
        """
        while True:
            if self._lost:
                raise LostOwnership
            if self._stalled_at is not None and (
                time.monotonic() - self._stalled_at > self._stall_s or self.buffer.pending_chars > self._stall_chars
            ):
                raise LogUnavailable("the log did not answer for too long")
            if self.buffer.pending_chars <= self._room:
                return
            await self._until_changed()

    async def flush(self) -> None:
        """Wait until everything said so far is in the log. Raises `LostOwnership`."""
        while (len(self.buffer) or self._inflight or self._reenters or self._is_forgotten) and not self._lost:
            await self._until_changed()
        if self._lost:
            raise LostOwnership

    def checkpoint_next(self) -> None:
        """Store the turn's own state with the next events, or by itself."""
        self._want_checkpoint = True

    def reentry(self, ending: dict[str, Any] | None = None) -> Reentry:
        """The turn as it is known here, for a log that has forgotten it."""
        return Reentry(
            spec=self._owned.spec,
            ordinal=self._owned.ordinal,
            run=self._owned.run,
            n=self._n,
            state=self.fold.state,
            checkpoint=self._checkpoint() if self._n else None,
            ending=ending,
            incarnation=self.forgotten_in,
        )

    # --- called by group commit ------------------------------------------------------------------------

    def take(self) -> Append | None:
        if self._inflight or self._lost or self._is_forgotten:
            return None
        has_events = bool(len(self.buffer)) and not self._held
        if not (has_events or self._reenters or self._asks):
            return None
        self._asks = False
        if self._reenters:
            return self._append([], reentry=self.reentry())
        if not has_events:
            return self._append([])
        events = self.buffer.take()
        for event in events:
            self.fold.apply(event)
        self._inflight = events
        self._since_checkpoint += len(events)
        self._bytes_since_checkpoint += sum(len(getattr(event, "text", "")) for event in events)
        due = self._want_checkpoint or (
            self._since_checkpoint >= self._checkpoint_events or self._bytes_since_checkpoint >= self._checkpoint_bytes
        )
        if self.fold.message_id is not None and not self.fold.answer_created_at:
            due = False  # the log has yet to say when the answer began; a checkpoint without it would be wrong for good
        if due:
            self._want_checkpoint = False
            self._since_checkpoint = self._bytes_since_checkpoint = 0
        return self._append(events, checkpoint=self._checkpoint() if due else None)

    def _append(self, events: Sequence[RequestEvent], **fields: Any) -> Append:
        return Append(
            request=self._owned.request,
            conversation=self._owned.conversation,
            fence=self._owned.fence,
            n=self._n,
            events=events,
            taken=min(self.unsettled) - 1 if self.unsettled else self.heard,
            state=self.fold.state,
            epoch=self.epoch,
            **fields,
        )

    def written(self, answer: Appended | Fenced | Forgotten) -> None:
        inflight, self._inflight = self._inflight, []
        self._stalled_at = None
        if isinstance(answer, Fenced):
            self._lost = True
        elif isinstance(answer, Forgotten):
            self.forgotten_in = answer.incarnation
            self._forgotten(inflight)
        else:
            self._n += len(inflight)
            self._reenters = False
            self.epoch = answer.epoch
            if answer.entries:
                self.fold.last_seq = answer.entries[-1].seq
            if not self.fold.answer_created_at:
                for event, entry in zip(inflight, answer.entries, strict=True):
                    if event.type == "message.started":
                        self.fold.answer_created_at = entry.ts
            if answer.intents:
                self._heard(answer.intents)
            if len(self.buffer) and not self._held:
                self._commit.wake(self)
        self._tell()

    def _forgotten(self, inflight: Sequence[RequestEvent]) -> None:
        """The log has lost of this turn. What was on its way goes in with the whole: followers begin anew."""
        self._n += len(inflight)
        self._is_forgotten = True
        if self.fold.message_id is not None and not self.fold.answer_created_at:
            self.fold.answer_created_at = self._now_ms()
        self._tell_forgotten()

    def reenter(self, asked_in: str) -> None:
        """The archive was asked, in that incarnation of the log or a later one: the turn is still this node's, and goes
        back into the log as it is."""
        if self._is_forgotten and asked_in == self.forgotten_in:
            self._is_forgotten, self._reenters = False, True
            self._commit.wake(self)

    def lose(self) -> None:
        """The turn is no longer this node's: nothing more is written."""
        self._lost = True
        self._tell()

    @property
    def is_lost(self) -> bool:
        return self._lost

    def stalled(self, error: LogUnavailable) -> None:
        if self._stalled_at is None:
            self._stalled_at = time.monotonic()
            self._tell_stalled()
        self._tell()

    def _wake(self) -> None:
        if not self._inflight:
            self._commit.wake(self)

    async def _until_changed(self) -> None:
        if self._changed is None:
            self._changed = anyio.Event()
        await self._changed.wait()

    def _tell(self) -> None:
        if self._changed is not None:
            changed, self._changed = self._changed, None
            changed.set()
