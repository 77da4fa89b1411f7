"""The one step of the embedded log that happens for every delta: many turns' events in one transaction.

Events go into a journal, one row for a whole batch, and from there into their tables a conversation at a time, dozens
of events at once: a table's page is then written once for all of them, not once for each, and of a turn nothing is
looked up that this process knows from its last append. Whatever looks at a conversation in its tables, or changes it,
has it settled before (`settle`). What is known in memory is never more than the journal holds; when a transaction is
rolled back, or a process has died, it is read from there.

All of it runs in the writer thread; only `holds` is asked by others.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack  # type: ignore[import-untyped]
import orjson

from turnwire_protocol import Entry

from .base import Append, Appended, ConversationRef, Fenced, Intent, Phase, RequestRef

SCHEMA = ("CREATE TABLE IF NOT EXISTS log_journal (id INTEGER PRIMARY KEY, said BLOB NOT NULL)",)

_LOOK = """SELECT r.rk, r.ck, r.fence, r.phase, r.n, r.claim_seq, c.epoch, c.last_seq, c.last_ts,
        (SELECT max(k) FROM log_inbox WHERE rk = r.rk)
    FROM log_requests r JOIN log_conversations c ON c.ck = r.ck WHERE r.tenant = ? AND r.request = ?"""
_STANDS = "SELECT c.last_seq, r.n FROM log_conversations c, log_requests r WHERE c.ck = ? AND r.rk = ?"
_EVENTS = "INSERT INTO log_events (ck, seq, ts, rk, n, body) VALUES "
_EVENT = "(?, ?, ?, ?, ?, ?)"
_REQUEST = "UPDATE log_requests SET n = ?, last_seq = ?, state = coalesce(?, state) WHERE rk = ?"
_CHECKPOINT = "UPDATE log_requests SET checkpoint = ?, checkpoint_seq = ? WHERE rk = ?"
_CONVERSATION = "UPDATE log_conversations SET last_seq = ?, last_ts = ? WHERE ck = ?"
_WRITABLE = (Phase.RUNNING, Phase.QUEUED)

# A conversation is settled when so many of its events wait: enough for a page or two of its own.
_EVENTS_WAIT = 64
# Or when so many batches have come since its first event that waits, which keep the journal from being cut.
_BATCHES_WAIT = 1024
# Of these a batch settles so many, or as many as twice its own events, so that none takes long and none waits for ever.
_SETTLED_AT_ONCE = 4
_CUT = 64
# Rows of one statement.
_ROWS = 64

About = ConversationRef | RequestRef | None
"""What a step looks at or changes; None: it may be anything."""


@dataclass(slots=True, eq=False)
class _Log:
    """What has been journaled of a conversation and is not in its tables."""

    ref: ConversationRef
    ck: int
    epoch: str
    last_seq: int
    last_ts: int
    first_id: int = 0
    events: list[tuple[Any, ...]] = field(default_factory=list)
    turns: dict[RequestRef, _Turn] = field(default_factory=dict)
    unsettled: dict[_Turn, None] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Turn:
    """A request as its last append left it."""

    log: _Log
    rk: int
    fence: int
    n: int
    claim_seq: int
    heard: int
    """Up to where its inbox goes."""
    last_seq: int = 0
    state: str | None = None
    checkpoint: bytes | None = None
    checkpoint_seq: int = 0


class Journal:
    """Of one `SqliteEventLog`. Nobody else writes the tables of its events."""

    def __init__(self) -> None:
        self._logs: dict[ConversationRef, _Log] = {}
        self._turns: dict[RequestRef, _Turn] = {}
        self._waiting: dict[_Log, None] = {}  # those with events, by when the first one came
        self._id = 0
        self._cut = 0
        self._is_lost = True
        # What was settled and forgotten in the transaction under way: until it is committed, readers do not see it.
        self._moving: set[ConversationRef] = set()
        self._is_recovering = False

    def __repr__(self) -> str:
        return f"<Journal {self._id} waiting={len(self._waiting)}>"

    def holds(self, about: About) -> bool:
        """Whether the tables may lack something of it, as readers see them. Asked by any thread."""
        # The writer goes on meanwhile. It never takes a reason away before the next one in this order is there.
        if isinstance(about, ConversationRef):
            found = about in self._logs or about in self._moving
        else:
            found = bool(self._logs) or bool(self._moving)
        return found or self._is_lost or self._is_recovering

    def committed(self) -> None:
        """The transaction is on the disk, and readers see what was settled in it."""
        self._moving.clear()
        self._is_recovering = False

    def lose(self) -> None:
        """The transaction was rolled back: what memory has of it is wrong."""
        self._is_lost = True
        self._logs.clear()
        self._turns.clear()
        self._waiting.clear()

    # --- steps -------------------------------------------------------------------------------------------

    def append(
        self, db: sqlite3.Connection, now: int, batch: Sequence[Append], bodies: Sequence[Sequence[bytes]]
    ) -> list[Appended | Fenced]:
        """See `EventLog.append`."""
        self._recover(db)
        said: list[tuple[Any, ...]] = []
        self._id += 1
        answers = [self._append(db, now, append, body, said) for append, body in zip(batch, bodies, strict=True)]
        if said:
            db.execute("INSERT INTO log_journal (id, said) VALUES (?, ?)", (self._id, msgpack.packb(said)))
        self._settle_some(db, batch)
        return answers

    def settle(self, db: sqlite3.Connection, about: About) -> None:
        """A step is about to look at this, or to change it."""
        self._recover(db)
        if not self._logs:
            return
        if about is None:
            for log in tuple(self._logs.values()):
                self._forget(db, log)
            db.execute("DELETE FROM log_journal")
            self._cut = self._id
            return
        ref = self._conversation(db, about) if isinstance(about, RequestRef) else about
        if ref is not None and (known := self._logs.get(ref)) is not None:
            self._forget(db, known)

    # --- inside ------------------------------------------------------------------------------------------

    def _append(
        self, db: sqlite3.Connection, now: int, append: Append, bodies: Sequence[bytes], said: list[tuple[Any, ...]]
    ) -> Appended | Fenced:
        turn = self._turns.get(append.request) or self._look(db, append)
        if turn is None or turn.fence != append.fence:
            return Fenced()
        log = turn.log
        entries: list[Entry] = []
        if (skip := turn.n - append.n) != 0:
            if skip < 0:
                raise AssertionError("a turn counts its own events; a gap in n is a bug in its writer")
            self._settle(db, log)
            end = append.n + min(skip, len(bodies))
            entries = entries_of(db, log.ck, turn.claim_seq, turn.rk, append.n, end)
            bodies = bodies[skip:]
        if bodies:
            checkpoint = None if append.checkpoint is None else orjson.dumps(append.checkpoint)
            ts = now if now > log.last_ts else log.last_ts
            said.append((log.ck, turn.rk, log.last_seq + 1, ts, turn.n, append.state, checkpoint, bodies))
            self._add(turn, ts, bodies, append.state, checkpoint, entries)
        heard = turn.heard > append.taken
        return Appended(log.epoch, entries, intents(db, turn.rk, append.taken) if heard else [])

    def _look(self, db: sqlite3.Connection, append: Append) -> _Turn | None:
        row = db.execute(_LOOK, (append.request.tenant_id, append.request.request_id)).fetchone()
        if row is None or row[3] not in _WRITABLE:
            return None
        rk, ck, fence, _, n, claim_seq, epoch, last_seq, last_ts, newest = row
        log = self._logs.get(append.conversation)
        if log is None:
            log = self._logs[append.conversation] = _Log(append.conversation, ck, epoch, last_seq, last_ts)
        turn = _Turn(log, rk, fence, n, claim_seq, newest or 0)
        self._turns[append.request] = log.turns[append.request] = turn
        return turn

    def _add(
        self,
        turn: _Turn,
        ts: int,
        bodies: Sequence[bytes],
        state: str | None,
        checkpoint: bytes | None,
        entries: list[Entry],
    ) -> None:
        log, seq, n = turn.log, turn.log.last_seq, turn.n
        for body in bodies:
            seq += 1
            entries.append(Entry(seq, ts, body))
            log.events.append((log.ck, seq, ts, turn.rk, n, body))
            n += 1
        log.last_seq = turn.last_seq = seq
        log.last_ts, turn.n = ts, n
        if state is not None:
            turn.state = state
        if checkpoint is not None:
            turn.checkpoint, turn.checkpoint_seq = checkpoint, seq
        log.unsettled[turn] = None
        if log not in self._waiting:
            log.first_id = self._id
            self._waiting[log] = None

    def _settle(self, db: sqlite3.Connection, log: _Log) -> None:
        """Put what waits into the tables."""
        if not log.events:
            return
        _insert(db, log.events)
        for turn in log.unsettled:
            db.execute(_REQUEST, (turn.n, turn.last_seq, turn.state, turn.rk))
            if turn.checkpoint is not None:
                db.execute(_CHECKPOINT, (turn.checkpoint, turn.checkpoint_seq, turn.rk))
                turn.checkpoint = None
        db.execute(_CONVERSATION, (log.last_seq, log.last_ts, log.ck))
        log.events = []
        log.unsettled.clear()
        del self._waiting[log]

    def _forget(self, db: sqlite3.Connection, log: _Log) -> None:
        """Settle it, and know nothing of it any more: it is about to change."""
        self._settle(db, log)
        for request in log.turns:
            del self._turns[request]
        self._moving.add(log.ref)
        del self._logs[log.ref]

    def _settle_some(self, db: sqlite3.Connection, batch: Sequence[Append]) -> None:
        room = max(_SETTLED_AT_ONCE, 2 * sum(len(append.events) for append in batch) // _EVENTS_WAIT)
        for log in tuple(itertools.islice(self._waiting, room)):  # the oldest first: those with more would be for ever
            if self._id - log.first_id >= _BATCHES_WAIT:
                self._settle(db, log)
                room -= 1
        for append in batch:
            turn = self._turns.get(append.request)
            if room and turn is not None and len(turn.log.events) >= _EVENTS_WAIT:
                self._settle(db, turn.log)
                room -= 1
        oldest = next(iter(self._waiting), None)
        end = self._id + 1 if oldest is None else oldest.first_id
        if end - self._cut > _CUT:
            db.execute("DELETE FROM log_journal WHERE id < ?", (end,))
            self._cut = end

    def _conversation(self, db: sqlite3.Connection, request: RequestRef) -> ConversationRef | None:
        turn = self._turns.get(request)
        if turn is not None:
            return turn.log.ref
        query = "SELECT conversation FROM log_requests WHERE tenant = ? AND request = ?"
        row = db.execute(query, (request.tenant_id, request.request_id)).fetchone()
        return None if row is None else ConversationRef(request.tenant_id, row[0])

    def _recover(self, db: sqlite3.Connection) -> None:
        if self._is_lost:
            replay(db)
            db.execute("DELETE FROM log_journal")
            self._id = self._cut = 0
            self._is_recovering = True
            self._is_lost = False


def replay(db: sqlite3.Connection) -> None:
    """Put everything into the tables that the journal holds and they lack."""
    for (said,) in db.execute("SELECT said FROM log_journal ORDER BY id").fetchall():
        for ck, rk, first, ts, n, state, checkpoint, bodies in msgpack.unpackb(said, strict_map_key=False):
            row = db.execute(_STANDS, (ck, rk)).fetchone()
            if row is None or first != row[0] + 1 or n != row[1]:
                continue  # settled long since, or an older version, which knows no journal, has gone on without it
            last = first + len(bodies) - 1
            _insert(db, [(ck, first + i, ts, rk, n + i, body) for i, body in enumerate(bodies)])
            db.execute(_REQUEST, (n + len(bodies), last, state, rk))
            if checkpoint is not None:
                db.execute(_CHECKPOINT, (checkpoint, last, rk))
            db.execute(_CONVERSATION, (last, ts, ck))


def _insert(db: sqlite3.Connection, events: Sequence[tuple[Any, ...]]) -> None:
    # Each statement gives the interpreter to the event loop and asks for it back, which costs more than a row does.
    for start in range(0, len(events), _ROWS):
        rows = events[start : start + _ROWS]
        db.execute(_EVENTS + ", ".join([_EVENT] * len(rows)), tuple(itertools.chain.from_iterable(rows)))


def intents(db: sqlite3.Connection, rk: int, after: int) -> list[Intent]:
    """What was said to a request since."""
    rows = db.execute("SELECT k, kind, body FROM log_inbox WHERE rk = ? AND k > ? ORDER BY k", (rk, after))
    return [Intent(row[0], row[1], orjson.loads(row[2])) for row in rows]


def entries_of(db: sqlite3.Connection, ck: int, claim_seq: int, rk: int, first_n: int, end_n: int) -> list[Entry]:
    """Events of a request by its own count of them."""
    rows = db.execute(
        "SELECT seq, ts, body FROM log_events WHERE ck = ? AND seq > ? AND rk = ? AND n >= ? AND n < ? ORDER BY seq",
        (ck, claim_seq, rk, first_n, end_n),
    )
    return [Entry(row[0], row[1], row[2]) for row in rows]
