"""The event log port: the ordered events of every conversation, and who owns which turn.

A log is hot and small: it holds what is running, what was running a moment ago, and the events that a
follower may still need. What must last for good is in the archive. Every write is one of the *steps* below:
atomic, checked completely before its first write, and safe to send twice, because a lost reply does not say
whether the step was done. Steps carry an operation id (``op``) and answer a repeat as the first time; appends
carry ``(fence, n)``, with ``n`` counting the events of the turn so far, and skip what is already there.

This layer knows events and owners. It knows no connections, no roles and no model. Above it are
``conversations``; its engines are ``eventlog.sqlite`` and, for clusters, ``eventlog.redis`` with the same contract
(``tests/contracts/eventlog.py`` runs against each).

A log that many nodes share can be lost while its users live. What it forgot shows as another epoch: an owner that
lives puts its turn back (`Reentry`), the rest is entered anew from the archive (`EventLog.rebuild`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from turnwire_protocol import Entry, LogEvent


class LogUnavailable(Exception):
    """The log did not carry out a step, or it is not known whether it did. Send the same step again."""


class ReservationLost(Exception):
    """A claim without a reservation: it has lapsed, was released or was lost. Reserve again."""


class LogFull(Exception):
    """The log takes nothing new: it is short of memory, or too much waits for one turn. What runs goes on."""


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
    ``sealed``, and a running one that waits for a person is ``parked`` until something is said to it. Wire states such
    as ``streaming`` are a finer view that clients fold from the events.
    """

    RESERVED = "reserved"
    QUEUED = "queued"
    RUNNING = "running"
    PARKED = "parked"
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

    A log that has forgotten a conversation goes on from there; one that knows more takes no notice. ``is_fresh`` tells
    that the archive was asked for it just now.
    """

    ordinal: int = 0
    head: str | None = None
    is_fresh: bool = True


@dataclass(frozen=True, slots=True)
class Owned:
    """A turn that this node now owns, with everything needed to run it or to end it.

    ``n`` counts the events it has appended, ``run`` its owners from 1, ``taken`` how far its inbox was read.
    ``ending`` is set when the turn is sealed: then only archive and ``finish`` are left to do. ``is_rebuilt`` tells
    that the log had forgotten it: what an earlier owner did is not known; ``may_have_lost`` that its last events may
    be among what the log has lost. ``presented``: see `EventLog.note`. ``age_s`` is the time since its reservation by
    the log's own clock, since those of nodes may be wrong.
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
    presented: int = 0
    is_rebuilt: bool = False
    may_have_lost: bool = False
    age_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Claimed:
    """A claim that holds. ``seq`` is the log's end at that moment: all events of the request lie above it.

    ``mine`` is False when the claim was made by another call, which owns it. ``position`` counts from 1 in the
    queue and ``behind`` names the request that runs; both absent when it runs itself. ``memory_s`` is how long the log
    has been without a loss: cancels that were recorded before are not known to it.
    """

    owned: Owned
    seq: int
    mine: bool = True
    position: int | None = None
    behind: str | None = None
    memory_s: float = math.inf


class OnBusy(StrEnum):
    """What a claim does while another request of the conversation runs or waits (PROTOCOL section 4)."""

    QUEUE = "queue"
    REJECT = "reject"
    FRONT = "front"  # waits before all others
    PARALLEL = "parallel"  # waits for nobody, and nobody for it


@dataclass(frozen=True, slots=True)
class Busy:
    """A claim that was refused: ``behind`` runs on the branch, or (``full``) too many wait already."""

    behind: str
    full: bool = False


@dataclass(frozen=True, slots=True)
class Outdated:
    """A claim that was refused because its `Base` is not fresh and the log does not know better: ask the archive."""


@dataclass(frozen=True, slots=True)
class Reentry:
    """A turn as its living owner knows it, for a log that has forgotten it or forgotten of it.

    ``checkpoint`` holds everything that was ever handed over, ``n`` events; ``ending`` is there once it is decided.
    ``incarnation`` is the one in which the archive was asked whether the owner is still the newest: an append in a
    later one is answered `Forgotten` once more. Empty: it does not matter.
    """

    spec: dict[str, Any]
    ordinal: int
    run: int
    n: int
    state: str
    checkpoint: dict[str, Any] | None
    ending: dict[str, Any] | None = None
    incarnation: str = ""


@dataclass(slots=True)  # not frozen: that takes four times as long to make, and one is made for every delta
class Append:
    """Events of one turn to be added. ``n`` is the number of its events before these.

    ``checkpoint`` (with ``state``, the wire state) is stored together with the events, as of the last of them.
    ``taken`` tells how far the inbox was read, so that only newer intents come back. ``epoch`` is the one that the
    owner knows. With ``reentry`` there are no events: the log takes the turn back as it is, if it has forgotten it.
    """

    request: RequestRef
    conversation: ConversationRef
    fence: int
    n: int
    events: Sequence[LogEvent]
    taken: int = 0
    state: str | None = None
    checkpoint: dict[str, Any] | None = None
    epoch: str = ""
    reentry: Reentry | None = None


@dataclass(slots=True)
class Appended:
    """The events of one append as they stand in the log, and the intents that have come in meanwhile."""

    epoch: str
    entries: Sequence[Entry]
    intents: Sequence[Intent] = ()


@dataclass(frozen=True, slots=True)
class Fenced:
    """A later owner has the turn, or it has ended: this one must write nothing more and stop."""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """The log does not have (all of) what it acknowledged to this owner, who may have a successor that it does not know
    of either. Ask the archive, then append again, with a `Reentry` that names this ``incarnation``."""

    incarnation: str = field(default="", compare=False)


class PostOutcome(StrEnum):
    """What became of an intent (PROTOCOL section 4, the answers of ``request.cancel``)."""

    STORED = "stored"  # in the inbox of a turn that runs; its owner is told
    ENDED = "ended"  # nobody ran it: the request is sealed with the given ending
    DECIDED = "decided"  # another intent that decides the same was first: it comes back
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
    """The ending is decided and will not change; it may be that of an earlier seal. ``presented``: `EventLog.note`."""

    ending: dict[str, Any]
    presented: int = 0


@dataclass(frozen=True, slots=True)
class Unheard:
    """A seal that was refused because of intents that the turn has not heard. Hear them, seal again."""

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
    the terminal event is in the log. ``decided`` holds the intents that decided something, by what
    (`EventLog.post`)."""

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
    behind: str | None = None
    presented: int = 0
    decided: Mapping[str, Intent] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LiveRequest:
    """A request that has not ended, with the newest checkpoint: fold what lies above ``checkpoint_seq``.

    The checkpoint of one that is parked is in the archive, and that of one that was until it has a new one.
    """

    request_id: str
    ordinal: int
    spec: dict[str, Any]
    checkpoint: dict[str, Any] | None
    checkpoint_seq: int
    first_seq: int
    is_parked: bool = False


@dataclass(frozen=True, slots=True)
class Live:
    """One consistent look at a conversation: its end, its newest message, and all that has not ended.

    Requests without an event yet are left out, nobody has been shown them; their ids are in ``hidden``, since the
    archive may have them already. A ``base`` that is not fresh may be older than the archive's: after a loss the log
    knows only of what came back.
    """

    position: Position
    base: Base
    requests: Sequence[LiveRequest] = field(default=())
    hidden: Sequence[str] = field(default=())


@dataclass(frozen=True, slots=True)
class Page:
    """Entries after a cursor, in order and without gaps, as many as fit; and where the log ends."""

    position: Position
    entries: Sequence[Entry]


@dataclass(frozen=True, slots=True)
class Attendee:
    """A user who follows a conversation on a node: the newest state said there, how long ago (None: none was said), and
    the client instances."""

    user_id: str
    state: Any = None
    age_s: float | None = None
    instances: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Roll:
    """Who follows a conversation on a node as of ``version``, or what has changed of that since an earlier one: then
    with those who have ``left``. Versions of one node only grow. ``left_s``: how long it stands unless it is renewed,
    where `EventLog.present` answers it."""

    version: int
    attendees: Sequence[Attendee]
    left: Sequence[str] = ()
    left_s: float = field(default=math.inf, compare=False)


Listener = Callable[[ConversationRef, str, Sequence[Entry]], None]
"""Called on the event loop with the epoch and new entries of one conversation, in their order."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """A part of the log that may have lost something, and how long ago that began.

    Nothing is claimed or taken over in it until the archive's open requests have been looked at: `EventLog.rebuild`
    what it does not know, then `EventLog.settle`.
    """

    partition: int
    incarnation: str
    age_s: float


class Keeper(Protocol):
    """Whoever acts on what the log finds out by itself. Called on the event loop; must not wait."""

    def heard(self, request: RequestRef, conversation: ConversationRef, intents: Sequence[Intent]) -> None:
        """Something was said to a turn that runs on this node."""

    def positioned(self, conversation: ConversationRef, epoch: str, seq: int) -> None:
        """Where the log of a watched conversation ends, whether or not all before was heard. No epoch: it is gone."""

    def orphaned(self) -> None:
        """Requests may have lost their owner: look for `EventLog.orphans`."""

    def doubted(self) -> None:
        """A part of the log may have lost something: look for `EventLog.in_doubt`."""

    def attended(self, conversation: ConversationRef, node: str, base: int | None, roll: Roll) -> None:
        """Another node has announced what changed there since ``base``, or (None) all who follow there."""

    def missed(self, requests: Sequence[RequestRef]) -> None:
        """The log no longer says that these are this node's, or may have lost of them. What of them runs here has to
        ask, by an append, even if it has nothing to add; what does not has ended here, and the log has lost that."""


class EventLog(Protocol):
    """The steps of the log. All raise `LogUnavailable`; none is partly done when it raises.

    A caller that gets `LogUnavailable` does not know whether the step was done: it repeats the same call with
    the same ``op``, or gives up and lets the recovery of ownership settle it.
    """

    owner: str
    """Names this node and this start of it; ownership of earlier starts counts as orphaned."""

    is_shared: bool
    """Whether other nodes work on the same log. Then it can also be lost while they live."""

    async def open(self) -> None:
        """Get ready. Raises `LogUnavailable` or, when another process has the data, ``DataInUse``."""

    async def run(self, keeper: Keeper) -> None:
        """Keep the lease of this node, and tell ``keeper`` what happens elsewhere, until cancelled."""

    async def aclose(self) -> None:
        """Let go of everything, ownership too. Steps under way are answered first."""

    def listen(self, listener: Listener) -> None:
        """Have ``listener`` called for new entries of watched conversations, from whatever step they come."""

    def watch(self, conversation: ConversationRef) -> None:
        """Begin to hear of new entries. An entry appended before the call may not be heard: read afterwards."""

    def unwatch(self, conversation: ConversationRef) -> None:
        """No longer hear of new entries. Unknown conversations are no error."""

    async def announce(
        self, rolls: Mapping[ConversationRef, tuple[int | None, Roll]], kept_s: float
    ) -> Mapping[ConversationRef, Mapping[str, int]]:
        """Say who follows these conversations on this node: what changed since the version that stands first, or with
        None all. It holds for ``kept_s`` seconds; the same version again keeps it for longer. Safe to repeat.

        Returns by conversation the versions of all nodes that have somebody there. When this one's is not among them
        as it was said, the log does not know what the changes go on from: say all. What could not be said is left out.
        """

    async def present(self, conversation: ConversationRef) -> Mapping[str, Roll]:
        """Who follows a conversation on each node that has somebody there, as far as was announced."""

    # --- the steps -----------------------------------------------------------------------------------

    async def reserve(
        self, op: str, request: RequestRef, conversation_id: str, user_id: str, fingerprint: str
    ) -> Reservation:
        """Take the request id for this content, or learn who has it.

        A reservation that no claim follows expires after ``limits.reservation_s``.
        """

    async def release(self, op: str, request: RequestRef, *, claim_op: str = "") -> Owned | None:
        """Give the id back, with its claim if there is one: nothing of it has been shown. With ``claim_op`` only what
        was reserved or claimed by that operation; another's stays.

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
        on_busy: OnBusy,
        queue_limit: int,
    ) -> Claimed | Busy | Outdated:
        """Make the turn of a reserved request: owned and running, or queued behind the one that runs.

        Gives it the next ordinal. One that runs in parallel has a parent of its own and leaves the conversation's
        newest message alone. When ``spec`` has no ``parent_id`` the conversation's newest message becomes the
        parent, and ``spec["answer_id"]`` becomes the newest. The stored spec comes back in ``Owned.spec``.
        A request that was claimed before answers with the claim as it stands now. Cancels that were recorded for
        this request and user are in ``Owned.intents``. Raises `ReservationLost`, and `LogFull` when there is no room
        for another turn.
        """

    def lane(self, conversation: ConversationRef) -> int:
        """Appends of one lane may go together in one batch. Parts of the log that fail alone have their own."""

    async def append(self, batch: Sequence[Append]) -> Sequence[Appended | Fenced | Forgotten]:
        """Add events of several turns of one lane, answered one by one: a fenced turn fails alone.

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
        decides: str = "",
        conversation: ConversationRef | None = None,
    ) -> Posted:
        """Say something to a turn. A repeat (same ``op``) is not stored twice. A parked one goes on.

        ``decides`` names a question of which the first answer counts: a later one is not stored and gets `DECIDED`.

        For a request of another user nothing is stored unless ``any_user``; the answer is `RECORDED`, as for one
        that is not known. A queued request is sealed with ``ending``. Kept records of cancels expire after
        ``limits.recorded_cancel_s``. ``conversation`` is where the request lies, if the caller knows.
        """

    async def note(self, request: RequestRef, presented: int, *, conversation: ConversationRef) -> bool:
        """Keep how far an answer was presented, in whatever measure grows; less than before changes nothing.

        False when the request is sealed, finished or not known: then the archive has to be told. Safe to repeat.
        """

    async def seal(
        self,
        op: str,
        request: RequestRef,
        fence: int,
        ending: dict[str, Any],
        *,
        taken: int,
        epoch: str = "",
        home: ConversationRef | None = None,
    ) -> Sealed | Unheard | Fenced | Forgotten:
        """Decide the ending, once. ``ending["outcome"]`` is the terminal wire state.

        What was said before the seal counts: an ending other than ``cancelled`` is refused with `Unheard` while
        the inbox holds anything beyond ``taken``. One that the log has forgotten (``home`` is where
        it lay, ``epoch`` what its owner knew) is answered `Forgotten`: put it back with an append and seal again.
        """

    async def finish(
        self,
        op: str,
        request: RequestRef,
        fence: int,
        events: Sequence[LogEvent],
        *,
        archived: bool = True,
        epoch: str = "",
        reentry: Reentry | None = None,
    ) -> Finished | Fenced:
        """Add the last events of a sealed request, end it, and take the next one from the queue.

        With ``archived`` False the request is kept, ending and all, until `archived` is called for it. A turn that the
        log has forgotten is entered again with ``reentry``, which has its ending.
        """

    async def archived(self, request: RequestRef) -> None:
        """The archive has the ending of this finished request; it may be trimmed now."""

    async def take_over(self, op: str, request: RequestRef) -> Owned | None:
        """Own a request whose owner is gone: next run, higher fence. None when there is nothing to take."""

    async def hand_over(
        self, request: RequestRef, fence: int, *, parked_until: int | None = None, taken: int = 0
    ) -> bool:
        """Give a running turn up; it is an orphan at once, and its next owner is no further run.

        With ``parked_until`` (ms since the Unix epoch) it is an orphan only then, or once something is posted to it;
        its checkpoint is then in the archive and no longer here. If the inbox holds more than ``taken`` by then, it is
        an orphan at once. False when it is another's. Safe to repeat.
        """

    async def disown(self, request: RequestRef) -> None:
        """Give up what this node owns but does not run, whatever the reason: an orphan whose node has died."""

    async def mine(self) -> Sequence[RequestRef]:
        """What this node owned when it last looked."""

    async def rebuild(
        self,
        op: str,
        conversation: ConversationRef,
        base: Base,
        requests: Sequence[tuple[RequestRef, dict[str, Any]]],
        *,
        above: int = 0,
    ) -> Sequence[RequestRef]:
        """Enter again requests (with their specs, by ordinal) that the archive holds as not ended and this log
        does not know. They are orphans afterwards, with fences ``above`` all that their owners had; those it knows are
        left alone. Returns what was entered."""

    def partition(self, conversation: ConversationRef) -> int:
        """The part of the log that a conversation lies in."""

    async def in_doubt(self) -> Sequence[Doubt]:
        """The parts that may have lost something. A log that loses nothing has none."""

    async def settle(self, doubt: Doubt) -> None:
        """All that the archive knew to be open in this part is known here again."""

    async def doubt(self, partition: int) -> None:
        """The archive has something open that this part should know and does not."""

    async def delete(self, op: str, conversation: ConversationRef) -> None:
        """Drop the conversation with all its requests. A conversation of that name begins anew, in a new epoch."""

    # --- looking -------------------------------------------------------------------------------------

    async def position(self, conversation: ConversationRef) -> Position:
        """Where the log ends; a conversation without a log gets one, empty, in its own epoch."""

    async def read(self, conversation: ConversationRef, after: int, *, limit: int, max_bytes: int) -> Page:
        """The entries after ``after``, at least one if there is any. None when ``after < position.trimmed``."""

    async def live(self, conversation: ConversationRef) -> Live:
        """The end of the log and everything that has not ended, at one moment."""

    async def request(self, request: RequestRef, conversation: ConversationRef | None = None) -> RequestInfo | None:
        """What the log knows of a request; None for reservations without a turn and for unknown ids.

        ``conversation`` is where it lies, if the caller knows.
        """

    async def running(self, conversations: Sequence[ConversationRef]) -> set[ConversationRef]:
        """Those in which something has not ended."""

    async def orphans(self) -> Sequence[RequestInfo]:
        """Requests that have not ended and whose owner is gone, oldest first."""

    async def unarchived(self, conversation: ConversationRef | None = None) -> Sequence[Owned]:
        """Finished requests (of one conversation) whose ending the archive does not have yet, oldest first."""

    async def now_ms(self) -> int:
        """The log's own clock, in ms since the Unix epoch. Nodes' clocks may be wrong; what one writes down for another
        to compare with is told by this one."""

    async def elect(self, chore: str, seconds: float) -> bool:
        """Whether this node does a chore that one node at a time is enough for. The answer holds for so long."""

    async def trim(self) -> int:
        """Drop what is past its retention and needed by nothing live. Returns how many entries went."""

    async def ping(self) -> Sequence[str]:
        """Raise `LogUnavailable` unless a write could be done now. Returns what of it does not answer, in words."""

    async def describe(self) -> Mapping[str, str]:
        """What an operator wants to know of the storage, by name."""
