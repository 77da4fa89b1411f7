"""The one step of the embedded log that happens for every delta: many turns' events in one transaction.

Of each turn one statement reads all that is decided upon; what is written is gathered over the whole batch and goes in
with one statement a table.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import orjson

from turnwire_protocol import Entry

from .base import Append, Appended, Fenced, Intent, Phase

_LOOK = """SELECT r.rk, r.ck, r.fence, r.phase, r.n, r.claim_seq, c.epoch, c.last_seq, c.last_ts,
        (SELECT max(k) FROM log_inbox WHERE rk = r.rk)
    FROM log_requests r JOIN log_conversations c ON c.ck = r.ck WHERE r.tenant = ? AND r.request = ?"""
_EVENTS = "INSERT INTO log_events (ck, seq, ts, rk, n, body) VALUES (?, ?, ?, ?, ?, ?)"
_REQUESTS = "UPDATE log_requests SET n = ?, last_seq = ?, state = coalesce(?, state) WHERE rk = ?"
_CHECKPOINTS = "UPDATE log_requests SET checkpoint = ?, checkpoint_seq = ? WHERE rk = ?"
_CONVERSATIONS = "UPDATE log_conversations SET last_seq = ?, last_ts = ? WHERE ck = ?"
_WRITABLE = (Phase.RUNNING, Phase.QUEUED)


class Batch:
    """Appends of one transaction, in their order. Call `write` at its end."""

    def __init__(self, db: sqlite3.Connection, now: int) -> None:
        self._db = db
        self._now = now
        self._counts: dict[int, int] = {}  # by request: events in the log, those that wait here included
        self._ends: dict[int, tuple[int, int]] = {}  # by conversation: the newest seq and ts
        self._events: list[tuple[Any, ...]] = []
        self._requests: list[tuple[Any, ...]] = []
        self._checkpoints: list[tuple[Any, ...]] = []

    def append(self, append: Append, bodies: Sequence[bytes]) -> Appended | Fenced:
        """See `EventLog.append`."""
        request = append.request
        row = self._db.execute(_LOOK, (request.tenant_id, request.request_id)).fetchone()
        if row is None:
            return Fenced()
        rk, ck, fence, phase, n, claim_seq, epoch, last_seq, last_ts, newest = row
        if fence != append.fence or phase not in _WRITABLE:
            return Fenced()
        n = self._counts.get(rk, n)
        entries: list[Entry] = []
        if (skip := n - append.n) != 0:
            if skip < 0:
                raise AssertionError("a turn counts its own events; a gap in n is a bug in its writer")
            self.write()
            entries = entries_of(self._db, ck, claim_seq, rk, append.n, append.n + min(skip, len(bodies)))
            bodies = bodies[skip:]
        if bodies:
            last_seq, last_ts = self._ends.get(ck, (last_seq, last_ts))
            ts = self._now if self._now > last_ts else last_ts
            for body in bodies:
                last_seq += 1
                entries.append(Entry(last_seq, ts, body))
                self._events.append((ck, last_seq, ts, rk, n, body))
                n += 1
            self._ends[ck] = last_seq, ts
            self._counts[rk] = n
            self._requests.append((n, last_seq, append.state, rk))
            if append.checkpoint is not None:
                self._checkpoints.append((orjson.dumps(append.checkpoint), last_seq, rk))
        heard = newest is not None and newest > append.taken
        return Appended(epoch, entries, intents(self._db, rk, append.taken) if heard else [])

    def write(self) -> None:
        """Write what was gathered."""
        db = self._db
        if self._events:
            db.executemany(_EVENTS, self._events)
            db.executemany(_REQUESTS, self._requests)
            db.executemany(_CONVERSATIONS, [(seq, ts, ck) for ck, (seq, ts) in self._ends.items()])
        if self._checkpoints:
            db.executemany(_CHECKPOINTS, self._checkpoints)
        self._events, self._requests, self._checkpoints = [], [], []


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
