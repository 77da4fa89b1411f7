"""The event log port: the ordered events of every conversation, and who owns which turn.

A log is hot and small: it holds what is running, what was running a moment ago, and the events that a
follower may still need. What must last for good is in the archive. Every write is one of the *steps* below:
atomic, checked completely before its first write, and safe to send twice, because a lost reply does not say
whether the step was done. Steps carry an operation id (``op``) and answer a repeat as the first time; appends
carry ``(fence, n)``, with ``n`` counting the events of the turn so far, and skip what is already there.

This layer knows events and owners. It knows no connections, no roles and no model. Above it are
``conversations``; its engines are ``eventlog.sqlite`` and, for clusters, one with the same contract
(``tests/contracts/eventlog.py`` runs against each).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from turnwire_protocol import Entry, LogEvent


class LogUnavailable(Exception):
    """The log did not carry out a step, or it is not known whether it did. Send the same step again."""


@dataclass(frozen=True, slots=True)
class ConversationRef:
    """A conversation, named within its tenant. Nothing in a log is ever addressed without the tenant."""

    tenant_id: str
    conversation_id: str


@dataclass(frozen=True, slots=True)
class RequestRef:
    """A request, named within its tenant."""

    tenant_id: str
    request_id: str


class Phase(StrEnum):
    """Where a request is between its reservation and its end, as the log sees it.

    ``reserved → queued? → running → sealed → finished``; a queued request that is cancelled goes straight to
    ``sealed``. Wire states such as ``streaming`` are a finer view that clients fold from the events.
    """

    RESERVED = "reserved"
    QUEUED = "queued"
    RUNNING = "running"
    SEALED = "sealed"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class Position:
    """Where a log ends (``seq``), and the newest seq that is no longer in it (``trimmed``)."""

    epoch: str
    seq: int
    trimmed: int


@dataclass(frozen=True, slots=True)
class Intent:
    """Something said to a turn from outside. ``k`` is its place in the request's inbox, from 1."""

    k: int
    kind: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reservation:
    """The record of a request id, after ``reserve``.

    ``fresh`` tells that nobody held the id, or the same content holds it without a turn: go on to ``claim``.
    """

    fresh: bool
    conversation_id: str
    user_id: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Base:
    """What the archive knows of a conversation: the highest ordinal, and the newest branch's last message.

    A log that has forgotten a conversation goes on from there; one that knows more takes no notice.
    """

    ordinal: int = 0
    head: str | None = None


@dataclass(frozen=True, slots=True)
class Owned:
    """A turn that this node now owns, with everything needed to run it or to end it.

    ``n`` counts the events it has appended, ``run`` its owners from 1, ``taken`` how far its inbox was read.
    ``ending`` is set when the turn is sealed: then only archive and ``finish`` are left to do.
    """

    request: RequestRef
    conversation: ConversationRef
    phase: Phase
    spec: dict[str, Any]
    ordinal: int
    fence: int
    run: int
    n: int
    taken: int
    first_seq: int
    epoch: str
    checkpoint: dict[str, Any] | None = None
    checkpoint_seq: int = 0
    ending: dict[str, Any] | None = None
    intents: tuple[Intent, ...] = ()


@dataclass(frozen=True, slots=True)
class Claimed:
    """A claim that holds. ``seq`` is the log's end at that moment: all events of the request lie above it.

    ``mine`` is False when the claim was made by another call, which owns it. ``position`` counts from 1 in the
    queue and ``behind`` names the request that runs; both absent when it runs itself.
    """

    owned: Owned
    seq: int
    mine: bool = True
    position: int | None = None
    behind: str | None = None


@dataclass(frozen=True, slots=True)
class Busy:
    """A claim that was refused: ``behind`` runs on the branch, or (``full``) too many wait already."""

    behind: str
    full: bool = False


@dataclass(frozen=True, slots=True)
class Append:
    """Events of one turn to be added. ``n`` is the number of its events before these.

    ``checkpoint`` (with ``state``, the wire state) is stored together with the events, as of the last of them.
    ``taken`` tells how far the inbox was read, so that only newer intents come back.
    """

    request: RequestRef
    conversation: ConversationRef
    fence: int
    n: int
    events: Sequence[LogEvent]
    taken: int = 0
    state: str | None = None
    checkpoint: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Appended:
    """The events of one append as they stand in the log, and the intents that have come in meanwhile."""

    epoch: str
    entries: Sequence[Entry]
    intents: Sequence[Intent] = ()


@dataclass(frozen=True, slots=True)
class Fenced:
    """A later owner has the turn, or it has ended: this one must write nothing more and stop."""


class PostOutcome(StrEnum):
    """What became of an intent (PROTOCOL section 4, the answers of ``request.cancel``)."""

    STORED = "stored"  # in the inbox of a turn that runs; its owner is told
    ENDED = "ended"  # nobody ran it: the request is sealed with the given ending
    SETTLED = "settled"  # too late: it is sealed or finished
    RECORDED = "recorded"  # no such request for this user: kept for one that may come


@dataclass(frozen=True, slots=True)
class Posted:
    """The answer to ``post``. ``owned`` comes with ``ENDED``: the poster carries out archive and ``finish``."""

    outcome: PostOutcome
    state: str | None = None
    intent: Intent | None = None
    owned: Owned | None = None


@dataclass(frozen=True, slots=True)
class Sealed:
    """The ending is decided and will not change; it may be that of an earlier seal."""

    ending: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Unheard:
    """A seal that was refused because intents came in that the turn has not heard. Hear them, seal again."""

    intents: Sequence[Intent]


@dataclass(frozen=True, slots=True)
class Finished:
    """The terminal entries, and the next queued request of the conversation, which this node now owns."""

    entries: Sequence[Entry]
    next: Owned | None = None
    waiting: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """What the log knows of a request. ``state`` is the wire state (PROTOCOL section 4, RequestState), terminal once
    the terminal event is in the log."""

    request: RequestRef
    conversation: ConversationRef
    user_id: str
    fingerprint: str
    phase: Phase
    state: str
    run: int
    ordinal: int
    last_seq: int
    confirmed: bool
    spec: dict[str, Any]
    position: int | None = None


@dataclass(frozen=True, slots=True)
class LiveRequest:
    """A request that has not ended, with the newest checkpoint: fold what lies above ``checkpoint_seq``."""

    request_id: str
    ordinal: int
    spec: dict[str, Any]
    checkpoint: dict[str, Any] | None
    checkpoint_seq: int
    first_seq: int


@dataclass(frozen=True, slots=True)
class Live:
    """One consistent look at a conversation: its end, its newest message, and all that has not ended.

    Requests without an event yet are left out: nobody has been shown them.
    """

    position: Position
    base: Base
    requests: Sequence[LiveRequest] = field(default=())


@dataclass(frozen=True, slots=True)
class Page:
    """Entries after a cursor, in order and without gaps, as many as fit; and where the log ends."""

    position: Position
    entries: Sequence[Entry]


Listener = Callable[[ConversationRef, str, Sequence[Entry]], None]
"""Called on the event loop with the epoch and new entries of one conversation, in their order."""


class EventLog(Protocol):
    """The steps of the log. All raise `LogUnavailable`; none is partly done when it raises.

    A caller that gets `LogUnavailable` does not know whether the step was done: it repeats the same call with
    the same ``op``, or gives up and lets the recovery of ownership settle it.
    """

    owner: str
    """Names this node and this start of it; ownership of earlier starts counts as orphaned."""

    async def open(self) -> None:
        """Get ready. Raises `LogUnavailable` or, when another process has the data, ``DataInUse``."""

    async def aclose(self) -> None:
        """Let go of everything. Steps under way are answered first."""

    def listen(self, listener: Listener) -> None:
        """Have ``listener`` called for new entries of watched conversations, from whatever step they come."""

    def watch(self, conversation: ConversationRef) -> None:
        """Begin to hear of new entries. An entry appended before the call may not be heard: read afterwards."""

    def unwatch(self, conversation: ConversationRef) -> None:
        """No longer hear of new entries. Unknown conversations are no error."""

    # --- the steps -----------------------------------------------------------------------------------

    async def reserve(
        self, op: str, request: RequestRef, conversation_id: str, user_id: str, fingerprint: str
    ) -> Reservation:
        """Take the request id for this content, or learn who has it.

        A reservation that no claim follows expires after ``limits.reservation_s``.
        """

    async def release(self, op: str, request: RequestRef) -> Owned | None:
        """Give the id back, with its claim if there is one: nothing of it has been shown.

        Only before the first append; later it does nothing. Returns the next queued request, now owned, when
        the released one kept it waiting. An absent request is no error.
        """

    async def claim(
        self,
        op: str,
        request: RequestRef,
        conversation: ConversationRef,
        spec: dict[str, Any],
        *,
        base: Base,
        reject_busy: bool,
        queue_limit: int,
    ) -> Claimed | Busy:
        """Make the turn of a reserved request: owned and running, or queued behind the one that runs.

        Gives it the next ordinal. When ``spec`` has no ``parent_id`` the conversation's newest message becomes the
        parent, and ``spec["answer_id"]`` becomes the newest. The stored spec comes back in ``Owned.spec``.
        A request that was claimed before answers with the claim as it stands now. Cancels that were recorded for
        this request and user are in ``Owned.intents``.
        """

    async def append(self, batch: Sequence[Append]) -> Sequence[Appended | Fenced]:
        """Add events of several turns, answered one by one: a fenced turn fails alone.

        Gives every event the next seq of its conversation and a ts that never falls. Events below the turn's
        count are skipped and answered with the entries they became.
        """

    async def emit(self, op: str, conversation: ConversationRef, events: Sequence[LogEvent]) -> Sequence[Entry]:
        """Add events that belong to no running turn (members, positions in the queue).

        An event of a request that does not wait (any more), or has not been shown yet, is left out: it would come
        after the request's start or end, or before its beginning.
        """

    async def post(
        self,
        op: str,
        request: RequestRef,
        kind: str,
        body: dict[str, Any],
        *,
        user_id: str,
        any_user: bool = False,
        ending: dict[str, Any] | None = None,
    ) -> Posted:
        """Say something to a turn. A repeat (same ``op``) is not stored twice.

        For a request of another user nothing is stored unless ``any_user``; the answer is `RECORDED`, as for one
        that is not known. A queued request is sealed with ``ending``. Kept records of cancels expire after
        ``limits.recorded_cancel_s``.
        """

    async def seal(
        self, op: str, request: RequestRef, fence: int, ending: dict[str, Any], *, taken: int
    ) -> Sealed | Unheard | Fenced:
        """Decide the ending, once. ``ending["outcome"]`` is the terminal wire state.

        A cancel stored before the seal wins: an ending other than ``cancelled`` is refused with `Unheard` while
        the inbox holds a cancel beyond ``taken``.
        """

    async def finish(
        self, op: str, request: RequestRef, fence: int, events: Sequence[LogEvent], *, archived: bool = True
    ) -> Finished | Fenced:
        """Add the last events of a sealed request, end it, and take the next one from the queue.

        With ``archived`` False the request is kept, ending and all, until `archived` is called for it.
        """

    async def archived(self, request: RequestRef) -> None:
        """The archive has the ending of this finished request; it may be trimmed now."""

    async def take_over(self, op: str, request: RequestRef) -> Owned | None:
        """Own a request whose owner is gone: next run, higher fence. None when there is nothing to take."""

    async def rebuild(
        self, op: str, conversation: ConversationRef, base: Base, requests: Sequence[tuple[RequestRef, dict[str, Any]]]
    ) -> Sequence[RequestRef]:
        """Enter again requests (with their specs, by ordinal) that the archive holds as not ended and this log
        does not know. They are orphans afterwards; those it knows are left alone. Returns what was entered."""

    async def delete(self, op: str, conversation: ConversationRef) -> None:
        """Drop the conversation with all its requests. A conversation of that name begins anew, in a new epoch."""

    # --- looking -------------------------------------------------------------------------------------

    async def position(self, conversation: ConversationRef) -> Position:
        """Where the log ends; a conversation without a log gets one, empty, in its own epoch."""

    async def read(self, conversation: ConversationRef, after: int, *, limit: int, max_bytes: int) -> Page:
        """The entries after ``after``, at least one if there is any. None when ``after < position.trimmed``."""

    async def live(self, conversation: ConversationRef) -> Live:
        """The end of the log and everything that has not ended, at one moment."""

    async def request(self, request: RequestRef) -> RequestInfo | None:
        """What the log knows of a request; None for reservations without a turn and for unknown ids."""

    async def running(self, conversations: Sequence[ConversationRef]) -> set[ConversationRef]:
        """Those in which something has not ended."""

    async def orphans(self) -> Sequence[RequestInfo]:
        """Requests that have not ended and whose owner is gone, oldest first."""

    async def unarchived(self) -> Sequence[Owned]:
        """Finished requests whose ending the archive does not have yet, oldest first."""

    async def trim(self) -> int:
        """Drop what is past its retention and needed by nothing live. Returns how many entries went."""

    async def ping(self) -> None:
        """Raise `LogUnavailable` unless a write could be done now."""
