"""What the model of the event log is made of: immutable, hashable records, all of them small.

A `State` is everything there is at one moment: the nodes with their tasks, Redis (one partition per conversation and
one with the records of request ids), the archive, the clients, what the faults have left to do. ``ghost`` fields are
known to nobody in the system; only the checks read them. `log_model` says how one state follows from another.
"""

from __future__ import annotations

from typing import NamedTuple

NOBODY = -1

# The phases of a request in the log.
QUEUED, RUNNING, SEALED, FINISHED = "queued", "running", "sealed", "finished"
LIVE = (QUEUED, RUNNING, SEALED)

# The outcomes; OPEN is the archive's word for a request without one.
OPEN, COMPLETED, CANCELLED, INCOMPLETE = "open", "completed", "cancelled", "incomplete"

# The events of a request, as they stand in a log: (life, event).
CREATED, WORK = "created", "work"


class Life(NamedTuple):
    """One content of one request id: what a create asks for. Two lives of one id are a conflict."""

    request: int
    conversation: int = 0


class Task(NamedTuple):
    """What a node is doing for a life; it dies with its node. ``at`` names the step that comes next."""

    at: str
    op: int = NOBODY  # the create (and so the spec and the archive's operation id) that it is about
    fence: int = 0
    n: int = 0  # events handed over so far
    inc: int = 0  # the incarnation in which it learned that it owns
    gen: int = 0  # ghost: which ownership of this life this is, counted over all losses
    ordinal: int = 0
    heard: bool = False  # a cancel
    ending: str = ""
    queued: bool = False
    taker: bool = False
    back: str = ""  # where to go on after a re-entry


class Request(NamedTuple):
    """A request's hash in its conversation's partition."""

    phase: str
    owner: int
    fence: int
    op: int
    stamp: int  # the incarnation of the last claim, re-entry or take-over
    gen: int  # ghost
    ordinal: int = 0
    n: int = 0
    has_floor: bool = True  # it answers, or nobody else may; a queued one has it not
    inbox: bool = False  # holds a cancel
    ending: str = ""
    archived: bool = True


class Conversation(NamedTuple):
    """The partition of a conversation. (``rand``, ``inc``) is its epoch; only equality counts, so rand is a bit."""

    requests: tuple[Request | None, ...]
    base: tuple[int, ...]  # per life, the events that checkpoints hold at the beginning of ``log``
    log: tuple[tuple[int, str], ...] = ()
    ordinal: int = 0  # the highest one given
    rand: int = 0
    inc: int = 0
    is_ready: bool = True
    is_grace: bool = False  # less than a lease time has passed since the loss
    leases: int = 0b11  # nodes whose lease holds, as a set of bits
    dead_ops: int = 0  # creates that were released: tombstones


class Record(NamedTuple):
    """The record of a request id, in a partition of its own."""

    life: int = NOBODY
    op: int = NOBODY
    cancel: bool = False


class Archived(NamedTuple):
    """What the archive has of a request id. A cancel may come before the request."""

    life: int = NOBODY
    op: int = NOBODY
    state: str = ""
    ordinal: int = 0
    fence: int = 0  # of the newest owner that asked before it went on ...
    holder: int = NOBODY  # ... and which node that was
    effect: int = NOBODY  # who may run the tool with side effects
    cancel: bool = False


class Cancel(NamedTuple):
    """A client's cancel of a request id, and how far it has come."""

    at: str = ""
    life: int = NOBODY
    inc: int = NOBODY  # in which incarnation it was put into the inbox; NOBODY: it was not
    is_acknowledged: bool = False


class Late(NamedTuple):
    """A copy of a message on its way: it is carried out once more, some time, and nobody hears the answer."""

    node: int
    life: int
    task: Task


class Saved(NamedTuple):
    """The state of the partitions that a replica has: it will be promoted, and later writes will be lost."""

    conversations: tuple[Conversation | None, ...]
    records: tuple[Record, ...] | None


class Rebuilder(NamedTuple):
    """Somebody who has read the archive's open requests of a conversation: (life, op, fence)."""

    conversation: int
    inc: int
    found: tuple[tuple[int, int, int], ...]


class Budget(NamedTuple):
    """How much may still happen from outside."""

    creates: tuple[int, ...]
    crashes: int = 0
    losses: int = 0
    lapses: int = 0
    lost_replies: int = 0
    late: int = 0
    hand_overs: int = 0
    refusals: int = 0
    trims: int = 0


class State(NamedTuple):
    """One moment."""

    alive: tuple[bool, ...]
    tasks: tuple[tuple[Task | None, ...], ...]  # by node, then by life
    conversations: tuple[Conversation, ...]
    records: tuple[Record, ...]
    archive: tuple[Archived, ...]
    cancels: tuple[Cancel, ...]
    budget: Budget
    saved: Saved | None = None
    rebuilder: Rebuilder | None = None
    late: Late | None = None
    next_op: int = 0
    gens: tuple[int, ...] = ()  # ghost: ownerships given so far, by life
    wrote: tuple[int, ...] = ()  # ghost: the highest ownership that has written, by life
    executions: tuple[int, ...] = ()  # ghost: times the tool ran, by life
    refused: int = 0  # ghost: creates whose client was told that nothing will come of them
    broken: str = ""  # ghost: which guarantee the last step broke


class Config(NamedTuple):
    """What is explored: how many lives, and the budget of what may happen."""

    name: str
    budget: Budget
    lives: tuple[Life, ...] = (Life(0),)
    cancels: tuple[int, ...] = ()  # request ids that a client may cancel
    losable: tuple[str, ...] = ("both", "conversation", "records")  # which partitions are lost together
    flush: bool = True  # everything may be lost
    rollback: bool = True  # a suffix may be lost
    has_tool: bool = False
    is_slow: bool = False  # the archive may keep a cancel or an ending waiting for longer than anybody waits

    @property
    def requests(self) -> int:
        return 1 + max(life.request for life in self.lives)

    @property
    def conversations(self) -> int:
        return 1 + max(life.conversation for life in self.lives)

    def start(self, nodes: int = 2) -> State:
        """Nothing has happened."""
        lives = len(self.lives)
        empty = Conversation(requests=(None,) * lives, base=(0,) * lives)
        return State(
            alive=(True,) * nodes,
            tasks=((None,) * lives,) * nodes,
            conversations=(empty,) * self.conversations,
            records=(Record(),) * self.requests,
            archive=(Archived(),) * self.requests,
            cancels=(Cancel(),) * self.requests,
            budget=self.budget,
            gens=(0,) * lives,
            wrote=(0,) * lives,
            executions=(0,) * lives,
        )
