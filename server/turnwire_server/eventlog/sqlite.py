"""The embedded event log: the steps as SQL, in the writer thread of `turnwire_server.sqlite.Database`.

Each step is one function over a connection; group commit puts many into one transaction. A step decides before
it writes, so that a refused one leaves nothing behind. The lock file of the database is the lease: whoever holds
it is the only node, and all that an earlier start owned is orphaned. The rows of a request keep what its steps
answered, so that a repeat finds the first answer.
"""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import anyio
import orjson

from turnwire_protocol import Entry, LogEvent, RequestEvent, encode_body
from turnwire_server.sqlite import Database, DatabaseUnavailable

from .base import (
    Append,
    Appended,
    Base,
    Busy,
    Claimed,
    ConversationRef,
    Doubt,
    Fenced,
    Finished,
    Intent,
    Keeper,
    Listener,
    Live,
    LiveRequest,
    LogUnavailable,
    OnBusy,
    Owned,
    Page,
    Phase,
    Position,
    Posted,
    PostOutcome,
    Reentry,
    RequestInfo,
    RequestRef,
    Reservation,
    ReservationLost,
    Roll,
    Sealed,
    Unheard,
)
from .sqlite_journal import SCHEMA as _JOURNAL
from .sqlite_journal import About, Journal, entries_of, intents, replay

T = TypeVar("T")
Row = sqlite3.Row
Connection = sqlite3.Connection

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS log_conversations (
        ck INTEGER PRIMARY KEY, tenant TEXT NOT NULL, conversation TEXT NOT NULL, epoch TEXT NOT NULL,
        last_seq INTEGER NOT NULL DEFAULT 0, last_ts INTEGER NOT NULL DEFAULT 0,
        trimmed INTEGER NOT NULL DEFAULT 0, ordinal INTEGER NOT NULL DEFAULT 0, head TEXT,
        UNIQUE (tenant, conversation))""",
    """CREATE TABLE IF NOT EXISTS log_events (
        ck INTEGER NOT NULL, seq INTEGER NOT NULL, ts INTEGER NOT NULL, rk INTEGER, n INTEGER, body BLOB NOT NULL,
        PRIMARY KEY (ck, seq)) WITHOUT ROWID""",
    # AUTOINCREMENT: a key that was given back would let the repeat of an old step find somebody else's row.
    """CREATE TABLE IF NOT EXISTS log_requests (
        rk INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT NOT NULL, request TEXT NOT NULL, conversation TEXT NOT NULL,
        user TEXT NOT NULL, fingerprint TEXT NOT NULL, at INTEGER NOT NULL, reserve_op TEXT NOT NULL,
        phase TEXT NOT NULL, ck INTEGER, state TEXT NOT NULL DEFAULT 'preparing', owner TEXT NOT NULL DEFAULT '',
        ordinal INTEGER NOT NULL DEFAULT 0, fence INTEGER NOT NULL DEFAULT 0, run INTEGER NOT NULL DEFAULT 1,
        n INTEGER NOT NULL DEFAULT 0, claim_seq INTEGER NOT NULL DEFAULT 0, last_seq INTEGER NOT NULL DEFAULT 0,
        taken INTEGER NOT NULL DEFAULT 0, spec BLOB, checkpoint BLOB, checkpoint_seq INTEGER NOT NULL DEFAULT 0,
        floor INTEGER NOT NULL DEFAULT 0, claim_op TEXT, takeover_op TEXT, post_op TEXT, ending BLOB,
        finish_n INTEGER, next_rk INTEGER, head_before TEXT,
        archived INTEGER NOT NULL DEFAULT 1,
        UNIQUE (tenant, request))""",
    # What its owner has given up without dying: parked `until` then, or (NULL) free at once.
    "CREATE TABLE IF NOT EXISTS log_handed (rk INTEGER PRIMARY KEY, until INTEGER)",
    "DROP INDEX IF EXISTS log_requests_live",  # of versions that parked nothing
    """CREATE INDEX IF NOT EXISTS log_requests_unended ON log_requests (ck, ordinal)
        WHERE phase IN ('queued', 'running', 'parked', 'sealed')""",
    "CREATE INDEX IF NOT EXISTS log_requests_at ON log_requests (at) WHERE phase IN ('reserved', 'finished')",
    """CREATE TABLE IF NOT EXISTS log_inbox (
        rk INTEGER NOT NULL, k INTEGER NOT NULL, op TEXT NOT NULL, kind TEXT NOT NULL, body BLOB NOT NULL,
        PRIMARY KEY (rk, k)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS log_recorded (
        tenant TEXT NOT NULL, request TEXT NOT NULL, user TEXT NOT NULL, at INTEGER NOT NULL, op TEXT NOT NULL,
        kind TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (tenant, request, user)) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS log_recorded_at ON log_recorded (at)",
    # Those that wait before all others; the lower the earlier.
    "CREATE TABLE IF NOT EXISTS log_front (rk INTEGER PRIMARY KEY, place INTEGER NOT NULL)",
    # The first answer to each question about a request (`EventLog.post`).
    """CREATE TABLE IF NOT EXISTS log_decided (
        rk INTEGER NOT NULL, question TEXT NOT NULL, k INTEGER NOT NULL, PRIMARY KEY (rk, question)) WITHOUT ROWID""",
    "CREATE TABLE IF NOT EXISTS log_presented (rk INTEGER PRIMARY KEY, presented INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS log_ping (k INTEGER PRIMARY KEY, at INTEGER NOT NULL)",
    """CREATE TABLE IF NOT EXISTS log_ops (
        op TEXT PRIMARY KEY, ck INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, at INTEGER NOT NULL,
        next_rk INTEGER) WITHOUT ROWID""",
    *_JOURNAL,
)

_LIVE = "phase IN ('queued', 'running', 'parked', 'sealed')"
# How often it is looked whether a parked turn's time has come.
_LOOK_S = 1.0
# One request at a time has the floor of its conversation: from its claim or its turn in the queue until `finish`.
# A queued request that was cancelled is sealed without ever having had it.
_WAITED_FOR = "(floor = 1 OR phase = 'queued')"
_PLACE = "coalesce((SELECT place FROM log_front f WHERE f.rk = log_requests.rk), ordinal)"
# What is kept of a request besides its row.
_OF_REQUESTS = ("log_inbox", "log_handed", "log_front", "log_decided", "log_presented")


class SqliteEventLog:
    """`EventLog` on SQLite. ``clock`` gives seconds since the Unix epoch and is injected for tests.

    Nobody else writes here and nothing is ever lost but with its file: it is never in doubt and never forgets.
    """

    is_shared = False

    def __init__(
        self,
        database: Database,
        *,
        retention_s: float,
        reservation_s: float,
        recorded_cancel_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.owner = uuid.uuid4().hex
        self._db = database
        self._retention_s = retention_s
        self._reservation_s = reservation_s
        self._recorded_cancel_s = recorded_cancel_s
        self._clock = clock
        self._listeners: list[Listener] = []
        self._watched: set[ConversationRef] = set()
        self._woken = anyio.Event()  # set when a parked turn may go on
        self._journal = Journal()
        database.rolled_back, database.committed = self._journal.lose, self._journal.committed

    async def open(self) -> None:
        """The database is opened by whoever made it, with `SCHEMA`.

        Reservations of an earlier start are dropped: their creates died before anybody was told anything.
        """
        await self._write(lambda db: db.execute("DELETE FROM log_requests WHERE phase = 'reserved'"), None)

    async def run(self, keeper: Keeper) -> None:
        """All that happens is this node's own; only parked turns come back by themselves."""
        keeper.orphaned()
        while True:
            with anyio.move_on_after(_LOOK_S):
                await self._woken.wait()
            self._woken = anyio.Event()
            if await self._look(self._has_woken):
                keeper.orphaned()

    async def aclose(self) -> None:
        self._listeners.clear()
        with suppress(LogUnavailable):  # else it is found in the journal
            await self._write(lambda db: None, None)

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def watch(self, conversation: ConversationRef) -> None:
        self._watched.add(conversation)

    def unwatch(self, conversation: ConversationRef) -> None:
        self._watched.discard(conversation)

    async def announce(
        self, rolls: Mapping[ConversationRef, tuple[int | None, Roll]], kept_s: float
    ) -> Mapping[ConversationRef, Mapping[str, int]]:
        """There is no other node to tell."""
        return {}

    async def present(self, conversation: ConversationRef) -> Mapping[str, Roll]:
        return {}

    # --- the steps -----------------------------------------------------------------------------------

    async def reserve(
        self, op: str, request: RequestRef, conversation_id: str, user_id: str, fingerprint: str
    ) -> Reservation:
        now = self._now()

        def step(db: Connection) -> Reservation:
            row = _request_row(db, request)
            if row is not None and row["phase"] == Phase.RESERVED and row["at"] < now - self._reservation_s * 1000:
                db.execute("DELETE FROM log_requests WHERE rk = ?", (row["rk"],))
                row = None
            if row is None:
                db.execute(
                    "INSERT INTO log_requests (tenant, request, conversation, user, fingerprint, at, reserve_op,"
                    " phase) VALUES (?, ?, ?, ?, ?, ?, ?, 'reserved')",
                    (request.tenant_id, request.request_id, conversation_id, user_id, fingerprint, now, op),
                )
                held, fresh = (conversation_id, user_id, fingerprint), True
            else:
                held = (row["conversation"], row["user"], row["fingerprint"])
                fresh = row["phase"] == Phase.RESERVED and held == (conversation_id, user_id, fingerprint)
            return Reservation(fresh, *held)

        return await self._write(step, request)

    async def release(self, op: str, request: RequestRef, *, claim_op: str = "") -> Owned | None:
        now = self._now()

        def step(db: Connection) -> Owned | None:
            done = _done(db, op)
            if done is not None:
                # The request is gone, so it does not tell in which conversation its successor is.
                self._journal.settle(db, None)
                return self._handed_out(db, done["next_rk"])
            row = _request_row(db, request)
            if row is None or row["n"] > 0 or row["phase"] not in (Phase.RESERVED, Phase.QUEUED, Phase.RUNNING):
                return None
            if claim_op and claim_op != (row["reserve_op"] if row["phase"] == Phase.RESERVED else row["claim_op"]):
                return None
            _forget(db, "rk = ?", row["rk"])
            if row["phase"] == Phase.RESERVED:
                _remember(db, op, now)
                return None
            # The newest message is again the one before (not the parent: that may lie further back), unless somebody
            # has built on it meanwhile.
            db.execute(
                "UPDATE log_conversations SET head = ? WHERE ck = ? AND head = ?",
                (row["head_before"], row["ck"], orjson.loads(row["spec"]).get("answer_id")),
            )
            following = self._promote(db, row["ck"])
            _remember(db, op, now, row["ck"], next_rk=None if following is None else _rk(db, following.request))
            return following

        return await self._write(step, request)

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
    ) -> Claimed | Busy:
        now = self._now()

        def step(db: Connection) -> Claimed | Busy:
            row = _request_row(db, request)
            if row is None:
                raise ReservationLost(f"request {request.request_id} lost its reservation before it was claimed")
            if row["phase"] != Phase.RESERVED:
                return self._claimed(db, row, mine=row["claim_op"] == op)
            log = self._conversation_row(db, conversation)
            assert log is not None
            is_parallel = on_busy is OnBusy.PARALLEL
            among = "1" if is_parallel else _WAITED_FOR
            others = db.execute(
                f"SELECT request FROM log_requests WHERE ck = ? AND {_LIVE} AND {among} ORDER BY floor DESC, {_PLACE}",
                (log["ck"],),
            ).fetchall()
            if others and (on_busy is OnBusy.REJECT or len(others) > queue_limit):
                return Busy(others[0]["request"], full=on_busy is not OnBusy.REJECT)
            waiting = bool(others) and not is_parallel
            ordinal = max(log["ordinal"], base.ordinal) + 1
            head = base.head if base.ordinal > log["ordinal"] else log["head"]
            stored = {"parent_id": head, **spec}
            phase = Phase.QUEUED if waiting else Phase.RUNNING
            db.execute(
                "UPDATE log_requests SET phase = ?, state = ?, floor = ?, claim_op = ?, ck = ?, owner = ?,"
                " ordinal = ?, fence = ?, claim_seq = ?, last_seq = ?, spec = ?, head_before = ? WHERE rk = ?",
                (
                    phase,
                    "queued" if waiting else "preparing",
                    not (waiting or is_parallel),
                    op,
                    log["ck"],
                    self.owner,
                    ordinal,
                    self._fence(0),
                    log["last_seq"],
                    log["last_seq"],
                    orjson.dumps(stored),
                    head,
                    row["rk"],
                ),
            )
            db.execute(
                "UPDATE log_conversations SET ordinal = ?, head = ? WHERE ck = ?",
                (ordinal, head if is_parallel else stored.get("answer_id", head), log["ck"]),
            )
            if waiting and on_busy is OnBusy.FRONT:
                query = f"SELECT min({_PLACE}) - 1 FROM log_requests WHERE ck = ? AND phase = 'queued'"
                (place,) = db.execute(query, (log["ck"],)).fetchone()
                db.execute("INSERT INTO log_front (rk, place) VALUES (?, ?)", (row["rk"], place))
            for kind, body in self._recorded(db, request, row["user"], now):
                _put(db, row["rk"], op, kind, body)
            row = _request_row(db, request)
            assert row is not None
            return self._claimed(db, row, mine=True)

        return await self._write(step, conversation)

    def lane(self, conversation: ConversationRef) -> int:
        return 0

    async def append(self, batch: Sequence[Append]) -> Sequence[Appended | Fenced]:
        # Encoded here, on the event loop, once: the same bytes go to the disk and to every follower.
        bodies = [[encode_body(event) for event in append.events] for append in batch]
        now = self._now()

        answers = await self._transact(lambda db: self._journal.append(db, now, batch, bodies))
        for append, answer in zip(batch, answers, strict=True):
            if isinstance(answer, Appended):
                self._tell(append.conversation, answer.epoch, answer.entries)
        return answers

    async def emit(self, op: str, conversation: ConversationRef, events: Sequence[LogEvent]) -> Sequence[Entry]:
        bodies = [encode_body(event) for event in events]
        now = self._now()

        def step(db: Connection) -> tuple[str, list[Entry]]:
            log = self._conversation_row(db, conversation)
            assert log is not None
            done = _done(db, op)
            if done is not None:
                return log["epoch"], _entries(db, done["ck"], done["first"], done["last"])
            told = [body for event, body in zip(events, bodies, strict=True) if _may_be_told(db, conversation, event)]
            entries = self._add(db, log["ck"], told, now, None, None) if told else []
            if entries:
                _remember(db, op, now, log["ck"], entries[0].seq, entries[-1].seq)
            return log["epoch"], entries

        epoch, entries = await self._write(step, conversation)
        self._tell(conversation, epoch, entries)
        return entries

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
        now = self._now()

        def step(db: Connection) -> Posted:
            row = _request_row(db, request)
            # Between reserve and claim there is no inbox yet; the record is heard by the claim, also when this
            # one is refused and the client tries again.
            if row is None or row["phase"] == Phase.RESERVED or (row["user"] != user_id and not any_user):
                mine = row is None or row["user"] == user_id
                return self._record(db, op, request, kind, body, user_id, now) if mine else _RECORDED
            if db.execute("SELECT 1 FROM log_recorded WHERE op = ?", (op,)).fetchone():
                return _RECORDED
            seen = db.execute("SELECT k FROM log_inbox WHERE rk = ? AND op = ?", (row["rk"], op)).fetchone()
            if seen is not None:
                intent = Intent(seen["k"], kind, body)
                if row["post_op"] == op:
                    state = orjson.loads(row["ending"])["outcome"]
                    return Posted(PostOutcome.ENDED, state, intent, self._owned(db, row))
                return Posted(PostOutcome.STORED, intent=intent)
            if row["phase"] in (Phase.SEALED, Phase.FINISHED):
                return Posted(PostOutcome.SETTLED, orjson.loads(row["ending"])["outcome"])
            if decides and (first := _decided(db, row["rk"]).get(decides)) is not None:
                return Posted(PostOutcome.DECIDED, intent=first)
            intent = _put(db, row["rk"], op, kind, body)
            if decides:
                db.execute("INSERT INTO log_decided VALUES (?, ?, ?)", (row["rk"], decides, intent.k))
            # Not before its creator has shown it (n > 0): until then the creator hears the intent itself.
            if row["phase"] == Phase.QUEUED and ending is not None and row["n"] > 0:
                return self._end_queued(db, row, op, intent, ending)
            if row["phase"] == Phase.PARKED:
                _wake(db, row["rk"])
            return Posted(PostOutcome.STORED, intent=intent)

        posted = await self._write(step, request)
        self._woken.set()
        return posted

    async def note(self, request: RequestRef, presented: int, *, conversation: ConversationRef) -> bool:
        def step(db: Connection) -> bool:
            row = _request_row(db, request)
            if row is None or row["phase"] not in (Phase.QUEUED, Phase.RUNNING, Phase.PARKED):
                return False
            db.execute(
                "INSERT INTO log_presented VALUES (?, ?)"
                " ON CONFLICT DO UPDATE SET presented = max(presented, excluded.presented)",
                (row["rk"], presented),
            )
            return True

        return await self._write(step, request)

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
    ) -> Sealed | Unheard | Fenced:
        def step(db: Connection) -> Sealed | Unheard | Fenced:
            row = _request_row(db, request)
            if row is None or row["fence"] != fence or row["phase"] == Phase.PARKED:
                return Fenced()
            if row["ending"] is not None:
                return Sealed(orjson.loads(row["ending"]), _presented(db, row["rk"]))
            if ending["outcome"] != "cancelled" and (unheard := intents(db, row["rk"], taken)):
                return Unheard(unheard)
            db.execute(
                "UPDATE log_requests SET phase = 'sealed', ending = ? WHERE rk = ?",
                (orjson.dumps(ending), row["rk"]),
            )
            return Sealed(ending, _presented(db, row["rk"]))

        return await self._write(step, request)

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
        bodies = [encode_body(event) for event in events]
        now = self._now()

        def step(db: Connection) -> tuple[str, ConversationRef, Finished] | Fenced:
            row = _request_row(db, request)
            if row is None or row["fence"] != fence or row["phase"] not in (Phase.SEALED, Phase.FINISHED):
                return Fenced()
            log = db.execute("SELECT * FROM log_conversations WHERE ck = ?", (row["ck"],)).fetchone()
            ref = ConversationRef(log["tenant"], log["conversation"])
            if row["phase"] == Phase.FINISHED:
                return log["epoch"], ref, self._finished_before(db, row)
            entries = self._add(db, row["ck"], bodies, now, row["rk"], row["n"])
            db.execute(
                "UPDATE log_requests SET phase = 'finished', state = ?, owner = '', floor = 0, archived = ?,"
                " finish_n = ?, n = ?, last_seq = ?, at = ?, checkpoint = NULL WHERE rk = ?",
                (
                    orjson.loads(row["ending"])["outcome"],
                    archived,
                    row["n"],
                    row["n"] + len(bodies),
                    entries[-1].seq,
                    now,
                    row["rk"],
                ),
            )
            following = self._promote(db, row["ck"])
            if following is not None:
                next_rk = _rk(db, following.request)
                db.execute("UPDATE log_requests SET next_rk = ? WHERE rk = ?", (next_rk, row["rk"]))
            return log["epoch"], ref, Finished(entries, following, self._waiting(db, row["ck"]))

        answer = await self._write(step, request)
        if isinstance(answer, Fenced):
            return answer
        epoch, ref, finished = answer
        self._tell(ref, epoch, finished.entries)
        return finished

    async def archived(self, request: RequestRef) -> None:
        key = (request.tenant_id, request.request_id)
        await self._write(
            lambda db: db.execute("UPDATE log_requests SET archived = 1 WHERE tenant = ? AND request = ?", key), request
        )

    async def take_over(self, op: str, request: RequestRef) -> Owned | None:
        def step(db: Connection) -> Owned | None:
            row = _request_row(db, request)
            if row is None or row["phase"] not in (Phase.QUEUED, Phase.RUNNING, Phase.SEALED):
                return None
            if row["owner"] == self.owner:
                return self._owned(db, row) if row["takeover_op"] == op else None
            # A queued request has nobody who ran it, one that was handed over nobody who died: no further run.
            run = row["run"] + (row["phase"] == Phase.RUNNING and row["n"] > 0 and not _is_handed(db, row["rk"]))
            db.execute(
                "UPDATE log_requests SET owner = ?, fence = ?, run = ?, takeover_op = ? WHERE rk = ?",
                (self.owner, self._fence(row["fence"]), run, op, row["rk"]),
            )
            db.execute("DELETE FROM log_handed WHERE rk = ?", (row["rk"],))
            row = _request_row(db, request)
            assert row is not None
            return self._owned(db, row)

        return await self._write(step, request)

    async def hand_over(
        self, request: RequestRef, fence: int, *, parked_until: int | None = None, taken: int = 0
    ) -> bool:
        def step(db: Connection) -> bool:
            row = _request_row(db, request)
            if row is None or row["fence"] != fence:
                return False
            if _is_handed(db, row["rk"]):
                return True
            if row["phase"] != Phase.RUNNING or row["owner"] != self.owner:
                return False
            until = None if intents(db, row["rk"], taken) else parked_until
            db.execute("INSERT INTO log_handed (rk, until) VALUES (?, ?)", (row["rk"], until))
            if until is None:
                db.execute("UPDATE log_requests SET owner = '' WHERE rk = ?", (row["rk"],))
            else:
                db.execute(
                    "UPDATE log_requests SET phase = 'parked', owner = '', checkpoint = NULL WHERE rk = ?",
                    (row["rk"],),
                )
            return True

        done = await self._write(step, request)
        self._woken.set()
        return done

    async def disown(self, request: RequestRef) -> None:
        key = (request.tenant_id, request.request_id, self.owner)
        await self._write(
            lambda db: db.execute(
                "UPDATE log_requests SET owner = '' WHERE tenant = ? AND request = ? AND owner = ?", key
            ),
            request,
        )

    async def mine(self) -> Sequence[RequestRef]:
        query = f"SELECT tenant, request FROM log_requests WHERE {_LIVE} AND owner = ?"
        rows = await self._look(lambda db: db.execute(query, (self.owner,)).fetchall())
        return [RequestRef(row["tenant"], row["request"]) for row in rows]

    def partition(self, conversation: ConversationRef) -> int:
        return 0

    async def in_doubt(self) -> Sequence[Doubt]:
        return []

    async def settle(self, doubt: Doubt) -> None:
        """Never in doubt."""

    async def doubt(self, partition: int) -> None:
        """What the archive knows it knows: both are one file."""

    async def rebuild(
        self,
        op: str,
        conversation: ConversationRef,
        base: Base,
        requests: Sequence[tuple[RequestRef, dict[str, Any]]],
        *,
        above: int = 0,
    ) -> Sequence[RequestRef]:
        now = self._now()

        def step(db: Connection) -> list[RequestRef]:
            log = self._conversation_row(db, conversation)
            assert log is not None
            if base.ordinal > log["ordinal"]:
                db.execute(
                    "UPDATE log_conversations SET ordinal = ?, head = ? WHERE ck = ?",
                    (base.ordinal, base.head, log["ck"]),
                )
            entered = []
            for request, spec in sorted(requests, key=lambda pair: int(pair[1]["ordinal"])):
                known = _request_row(db, request)
                if known is not None:
                    entered += [request] if known["reserve_op"] == op else []  # a repeat answers as the first time
                    continue
                first = not self._waited_for(db, log["ck"])
                db.execute(
                    "INSERT INTO log_requests (tenant, request, conversation, user, fingerprint, at, reserve_op,"
                    " phase, state, floor, ck, ordinal, fence, claim_seq, last_seq, spec, head_before)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        request.tenant_id,
                        request.request_id,
                        conversation.conversation_id,
                        spec["user_id"],
                        spec["fingerprint"],
                        now,
                        op,
                        Phase.RUNNING if first else Phase.QUEUED,
                        "preparing" if first else "queued",
                        first,
                        log["ck"],
                        spec["ordinal"],
                        self._fence(above),
                        log["last_seq"],
                        log["last_seq"],
                        orjson.dumps(spec),
                        spec.get("parent_id"),
                    ),
                )
                entered.append(request)
            return entered

        return await self._write(step, conversation)

    async def delete(self, op: str, conversation: ConversationRef) -> None:
        now = self._now()

        def step(db: Connection) -> None:
            log = self._conversation_row(db, conversation, create=False)
            if log is None or _done(db, op) is not None:
                return
            ck = log["ck"]
            _forget(db, "ck = ?", ck)
            db.execute("DELETE FROM log_events WHERE ck = ?", (ck,))
            db.execute("DELETE FROM log_ops WHERE ck = ?", (ck,))
            db.execute("DELETE FROM log_conversations WHERE ck = ?", (ck,))
            _remember(db, op, now)

        await self._write(step, None)

    # --- looking -------------------------------------------------------------------------------------

    async def position(self, conversation: ConversationRef) -> Position:
        row = await self._read(lambda db: self._conversation_row(db, conversation, create=False), conversation)
        if row is None:
            row = await self._write(lambda db: self._conversation_row(db, conversation), conversation)
        assert row is not None
        return _position(row)

    async def read(self, conversation: ConversationRef, after: int, *, limit: int, max_bytes: int) -> Page:
        def look(db: Connection) -> Page:
            log = self._conversation_row(db, conversation, create=False)
            if log is None:
                return Page(Position("", 0, 0), ())
            entries: list[Entry] = []
            size = 0
            if after >= log["trimmed"]:
                rows = db.execute(
                    "SELECT seq, ts, body FROM log_events WHERE ck = ? AND seq > ? ORDER BY seq LIMIT ?",
                    (log["ck"], after, limit),
                )
                for row in rows:
                    size += len(row[2])
                    if entries and size > max_bytes:
                        break
                    entries.append(Entry(row[0], row[1], row[2]))
            return Page(_position(log), entries)

        return await self._read(look, conversation)

    async def live(self, conversation: ConversationRef) -> Live:
        await self.position(conversation)  # makes the log when there is none

        def look(db: Connection) -> Live | None:
            log = self._conversation_row(db, conversation, create=False)
            if log is None:
                return None
            rows = db.execute(
                f"SELECT * FROM log_requests WHERE ck = ? AND {_LIVE} ORDER BY ordinal DESC", (log["ck"],)
            )
            head = log["head"]
            requests: list[LiveRequest] = []
            hidden: list[str] = []
            for row in rows:
                spec = orjson.loads(row["spec"])
                if row["n"] == 0:  # not shown to anybody yet, so the conversation still ends before it
                    head = row["head_before"] if head == spec["answer_id"] else head
                    hidden.append(row["request"])
                    continue
                requests.append(
                    LiveRequest(
                        row["request"],
                        row["ordinal"],
                        spec,
                        _loads(row["checkpoint"]),
                        log["last_seq"] if row["phase"] == Phase.PARKED else row["checkpoint_seq"],
                        row["claim_seq"] + 1,
                        row["phase"] == Phase.PARKED or (row["checkpoint"] is None and row["checkpoint_seq"] > 0),
                    )
                )
            return Live(_position(log), Base(log["ordinal"], head), requests[::-1], hidden)

        live = await self._read(look, conversation)
        if live is None:
            raise LogUnavailable("the conversation was deleted meanwhile")
        return live

    async def request(self, request: RequestRef, conversation: ConversationRef | None = None) -> RequestInfo | None:
        def look(db: Connection) -> RequestInfo | None:
            row = _request_row(db, request)
            if row is None or row["phase"] == Phase.RESERVED:
                return None
            return self._info(db, row)

        return await self._read(look, request)

    async def running(self, conversations: Sequence[ConversationRef]) -> set[ConversationRef]:
        def look(db: Connection) -> set[ConversationRef]:
            found = set()
            for ref in conversations:
                log = self._conversation_row(db, ref, create=False)
                query = f"SELECT 1 FROM log_requests WHERE ck = ? AND {_LIVE} LIMIT 1"
                if log is not None and db.execute(query, (log["ck"],)).fetchone() is not None:
                    found.add(ref)
            return found

        return await self._read(look, None)

    async def orphans(self) -> Sequence[RequestInfo]:
        def look(db: Connection) -> list[RequestInfo]:
            rows = db.execute(
                f"SELECT * FROM log_requests WHERE {_LIVE} AND phase != 'parked' AND owner != ? ORDER BY ck, ordinal",
                (self.owner,),
            ).fetchall()
            return [self._info(db, row) for row in rows]

        if await self._look(self._has_woken):
            await self._write(self._wake_due, None)
        return await self._read(look, None)

    def _has_woken(self, db: Connection) -> bool:
        query = "SELECT 1 FROM log_handed WHERE until IS NULL OR until <= ? LIMIT 1"
        return db.execute(query, (self._now(),)).fetchone() is not None

    def _wake_due(self, db: Connection) -> None:
        query = "SELECT rk FROM log_handed WHERE until <= ?"
        for row in db.execute(query, (self._now(),)).fetchall():
            _wake(db, row["rk"])

    async def unarchived(self, conversation: ConversationRef | None = None) -> Sequence[Owned]:
        def look(db: Connection) -> list[Owned]:
            rows = db.execute("SELECT * FROM log_requests WHERE phase = 'finished' AND archived = 0 ORDER BY at")
            found = [self._owned(db, row) for row in rows.fetchall()]
            return [owned for owned in found if conversation in (None, owned.conversation)]

        return await self._read(look, None)

    async def elect(self, chore: str, seconds: float) -> bool:
        return True

    async def trim(self) -> int:
        now = self._now()

        def step(db: Connection) -> int:
            keep = now - int(self._retention_s * 1000)
            _forget(db, "phase = 'finished' AND archived = 1 AND at < ?", keep)
            db.execute(
                "DELETE FROM log_requests WHERE phase = 'reserved' AND at < ?", (now - self._reservation_s * 1000,)
            )
            db.execute("DELETE FROM log_recorded WHERE at < ?", (now - self._recorded_cancel_s * 1000,))
            db.execute("DELETE FROM log_ops WHERE at < ?", (keep,))
            return sum(_trim_one(db, row["ck"], keep) for row in _trimmable(db, keep))

        return await self._write(step, None)

    async def now_ms(self) -> int:
        return self._now()

    async def ping(self) -> Sequence[str]:
        # A transaction that changes nothing would not notice a full disk.
        now = self._now()
        await self._transact(lambda db: db.execute("INSERT OR REPLACE INTO log_ping VALUES (0, ?)", (now,)))
        return []

    async def describe(self) -> Mapping[str, str]:
        return {"mode": "embedded", "SQLite": sqlite3.sqlite_version}

    # --- parts of steps ------------------------------------------------------------------------------

    def _now(self) -> int:
        return int(self._clock() * 1000)

    def _fence(self, previous: int) -> int:
        return max(previous + 1, int(self._clock() * 1_000_000))

    def _tell(self, conversation: ConversationRef, epoch: str, entries: Sequence[Entry]) -> None:
        if entries and conversation in self._watched:
            for listener in self._listeners:
                listener(conversation, epoch, entries)

    async def _write(self, step: Callable[[Connection], T], about: About) -> T:
        """Carry out a step on tables that hold everything ``about`` this."""

        def settled(db: Connection) -> T:
            self._journal.settle(db, about)
            return step(db)

        return await self._transact(settled)

    async def _transact(self, step: Callable[[Connection], T]) -> T:
        try:
            return await self._db.write(step)
        except DatabaseUnavailable as error:
            raise LogUnavailable(str(error)) from error

    async def _read(self, look: Callable[[Connection], T], about: About) -> T:
        """Look at tables that hold everything ``about`` this."""
        if self._journal.holds(about):
            try:
                await self._write(lambda db: None, about)
            except LogUnavailable:
                return await self._look(lambda db: _replayed(db, look))
        return await self._look(look)

    async def _look(self, look: Callable[[Connection], T]) -> T:
        try:
            return await self._db.read(look)
        except DatabaseUnavailable as error:
            raise LogUnavailable(str(error)) from error

    def _conversation_row(self, db: Connection, ref: ConversationRef, *, create: bool = True) -> Row | None:
        query = "SELECT * FROM log_conversations WHERE tenant = ? AND conversation = ?"
        row: Row | None = db.execute(query, (ref.tenant_id, ref.conversation_id)).fetchone()
        if row is None and create:
            db.execute(
                "INSERT INTO log_conversations (tenant, conversation, epoch) VALUES (?, ?, ?)",
                (ref.tenant_id, ref.conversation_id, uuid.uuid4().hex[:16]),
            )
            row = db.execute(query, (ref.tenant_id, ref.conversation_id)).fetchone()
        return row

    def _add(
        self, db: Connection, ck: int, bodies: Sequence[bytes], now: int, rk: int | None, n: int | None
    ) -> list[Entry]:
        last_seq, last_ts = db.execute("SELECT last_seq, last_ts FROM log_conversations WHERE ck = ?", (ck,)).fetchone()
        ts = max(now, last_ts)
        entries = [Entry(last_seq + 1 + i, ts, body) for i, body in enumerate(bodies)]
        db.executemany(
            "INSERT INTO log_events (ck, seq, ts, rk, n, body) VALUES (?, ?, ?, ?, ?, ?)",
            [(ck, entry.seq, ts, rk, None if n is None else n + i, entry.body) for i, entry in enumerate(entries)],
        )
        db.execute(
            "UPDATE log_conversations SET last_seq = ?, last_ts = ? WHERE ck = ?", (last_seq + len(bodies), ts, ck)
        )
        return entries

    def _recorded(self, db: Connection, request: RequestRef, user_id: str, now: int) -> list[tuple[str, Any]]:
        rows = db.execute(
            "SELECT kind, body FROM log_recorded WHERE tenant = ? AND request = ? AND user = ? AND at >= ?",
            (request.tenant_id, request.request_id, user_id, now - self._recorded_cancel_s * 1000),
        )
        return [(row["kind"], orjson.loads(row["body"])) for row in rows]

    def _record(
        self, db: Connection, op: str, request: RequestRef, kind: str, body: dict[str, Any], user_id: str, now: int
    ) -> Posted:
        db.execute(
            "INSERT INTO log_recorded (tenant, request, user, at, op, kind, body) VALUES (?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET at = excluded.at",
            (request.tenant_id, request.request_id, user_id, now, op, kind, orjson.dumps(body)),
        )
        return _RECORDED

    def _end_queued(self, db: Connection, row: Row, op: str, intent: Intent, ending: dict[str, Any]) -> Posted:
        db.execute(
            "UPDATE log_requests SET phase = 'sealed', ending = ?, owner = ?, fence = ?,"
            " post_op = ?, taken = ? WHERE rk = ?",
            (orjson.dumps(ending), self.owner, self._fence(row["fence"]), op, intent.k, row["rk"]),
        )
        return Posted(PostOutcome.ENDED, ending["outcome"], intent, self._owned(db, _row(db, row["rk"])))

    def _promote(self, db: Connection, ck: int) -> Owned | None:
        """Give the floor to the next queued request, if nobody has it."""
        if db.execute(f"SELECT 1 FROM log_requests WHERE ck = ? AND {_LIVE} AND floor = 1", (ck,)).fetchone():
            return None
        row = db.execute(
            f"SELECT rk, fence FROM log_requests WHERE ck = ? AND phase = 'queued' ORDER BY {_PLACE} LIMIT 1", (ck,)
        ).fetchone()
        if row is None:
            return None
        db.execute(
            "UPDATE log_requests SET phase = 'running', state = 'preparing', floor = 1, owner = ?, fence = ?"
            " WHERE rk = ?",
            (self.owner, self._fence(row["fence"]), row["rk"]),
        )
        return self._owned(db, _row(db, row["rk"]))

    def _finished_before(self, db: Connection, row: Row) -> Finished:
        entries = entries_of(db, row["ck"], row["claim_seq"], row["rk"], row["finish_n"], row["n"])
        return Finished(entries, self._handed_out(db, row["next_rk"]), self._waiting(db, row["ck"]))

    def _handed_out(self, db: Connection, rk: int | None) -> Owned | None:
        """A successor, again, but only while it stands as it was handed out: it may run long since."""
        row = None if rk is None else _row(db, rk)
        if row is None or row["phase"] != Phase.RUNNING or row["owner"] != self.owner or row["n"] > 2:
            return None
        return self._owned(db, row)

    def _claimed(self, db: Connection, row: Row, *, mine: bool) -> Claimed:
        position, behind = self._place(db, row)
        return Claimed(self._owned(db, row), row["claim_seq"], mine, position, behind)

    def _place(self, db: Connection, row: Row) -> tuple[int | None, str | None]:
        """A queued request's position, from 1, and the one right before it."""
        if row["phase"] != Phase.QUEUED:
            return None, None
        ahead = db.execute(
            f"SELECT request FROM log_requests WHERE ck = ? AND {_LIVE} AND {_WAITED_FOR} AND"
            f" (floor = 1 OR {_PLACE} < (SELECT {_PLACE} FROM log_requests WHERE rk = ?))"
            f" ORDER BY floor DESC, {_PLACE}",
            (row["ck"], row["rk"]),
        ).fetchall()
        return max(len(ahead), 1), ahead[0]["request"] if ahead else None

    def _waiting(self, db: Connection, ck: int) -> list[str]:
        query = f"SELECT request FROM log_requests WHERE ck = ? AND phase = 'queued' ORDER BY {_PLACE}"
        rows = db.execute(query, (ck,))
        return [row["request"] for row in rows]

    def _waited_for(self, db: Connection, ck: int) -> bool:
        query = f"SELECT 1 FROM log_requests WHERE ck = ? AND {_LIVE} AND {_WAITED_FOR} LIMIT 1"
        return db.execute(query, (ck,)).fetchone() is not None

    def _owned(self, db: Connection, row: Row) -> Owned:
        log = db.execute("SELECT epoch FROM log_conversations WHERE ck = ?", (row["ck"],)).fetchone()
        return Owned(
            request=RequestRef(row["tenant"], row["request"]),
            conversation=ConversationRef(row["tenant"], row["conversation"]),
            phase=Phase(row["phase"]),
            spec=orjson.loads(row["spec"]),
            ordinal=row["ordinal"],
            fence=row["fence"],
            run=row["run"],
            n=row["n"],
            taken=row["taken"],
            first_seq=row["claim_seq"] + 1,
            epoch=log["epoch"],
            checkpoint=_loads(row["checkpoint"]),
            checkpoint_seq=row["checkpoint_seq"],
            ending=_loads(row["ending"]),
            intents=tuple(intents(db, row["rk"], row["taken"])),
            presented=_presented(db, row["rk"]),
            age_s=(self._now() - row["at"]) / 1000,
        )

    def _info(self, db: Connection, row: Row) -> RequestInfo:
        position, behind = self._place(db, row)
        return RequestInfo(
            request=RequestRef(row["tenant"], row["request"]),
            conversation=ConversationRef(row["tenant"], row["conversation"]),
            user_id=row["user"],
            fingerprint=row["fingerprint"],
            phase=Phase(row["phase"]),
            state=row["state"],
            run=row["run"],
            ordinal=row["ordinal"],
            last_seq=row["last_seq"],
            confirmed=row["n"] > 0,
            spec=orjson.loads(row["spec"]),
            position=position,
            behind=behind,
            presented=_presented(db, row["rk"]),
            decided=_decided(db, row["rk"]),
        )


def _replayed(db: Connection, look: Callable[[Connection], T]) -> T:
    """Nothing can be written, because the disk is full, say. Looks are never committed: in theirs all is settled."""
    replay(db)
    return look(db)


_RECORDED = Posted(PostOutcome.RECORDED)


def _may_be_told(db: Connection, conversation: ConversationRef, event: LogEvent) -> bool:
    """An event of a request that somebody else than its owner adds: only while it waits, and has been shown."""
    if not isinstance(event, RequestEvent):
        return True
    row = _request_row(db, RequestRef(conversation.tenant_id, event.request_id))
    return row is not None and row["phase"] == Phase.QUEUED and row["n"] > 0


def _row(db: Connection, rk: int) -> Row:
    row: Row = db.execute("SELECT * FROM log_requests WHERE rk = ?", (rk,)).fetchone()
    return row


def _request_row(db: Connection, request: RequestRef) -> Row | None:
    row: Row | None = db.execute(
        "SELECT * FROM log_requests WHERE tenant = ? AND request = ?", (request.tenant_id, request.request_id)
    ).fetchone()
    return row


def _rk(db: Connection, request: RequestRef) -> int:
    row = _request_row(db, request)
    assert row is not None, "only asked for one that was just read"
    rk: int = row["rk"]
    return rk


def _done(db: Connection, op: str) -> Row | None:
    """What an earlier call with this operation id has left to answer its repeat with."""
    row: Row | None = db.execute("SELECT * FROM log_ops WHERE op = ?", (op,)).fetchone()
    return row


def _remember(
    db: Connection, op: str, now: int, ck: int = 0, first: int = 0, last: int = 0, next_rk: int | None = None
) -> None:
    """Recognise a repeat of this call, for as long as events are kept. ``ck`` 0 outlives its conversation."""
    db.execute(
        "INSERT INTO log_ops (op, ck, first, last, at, next_rk) VALUES (?, ?, ?, ?, ?, ?)",
        (op, ck, first, last, now, next_rk),
    )


def _position(log: Row) -> Position:
    return Position(log["epoch"], log["last_seq"], log["trimmed"])


def _wake(db: Connection, rk: int) -> None:
    """A parked turn goes on: an orphan that nobody died with. Nothing of it has come after what the archive holds."""
    db.execute(
        "UPDATE log_requests SET phase = 'running',"
        " checkpoint_seq = (SELECT last_seq FROM log_conversations c WHERE c.ck = log_requests.ck) WHERE rk = ?",
        (rk,),
    )
    db.execute("UPDATE log_handed SET until = NULL WHERE rk = ?", (rk,))


def _is_handed(db: Connection, rk: int) -> bool:
    return db.execute("SELECT 1 FROM log_handed WHERE rk = ?", (rk,)).fetchone() is not None


def _put(db: Connection, rk: int, op: str, kind: str, body: dict[str, Any]) -> Intent:
    (k,) = db.execute("SELECT coalesce(max(k), 0) + 1 FROM log_inbox WHERE rk = ?", (rk,)).fetchone()
    db.execute(
        "INSERT INTO log_inbox (rk, k, op, kind, body) VALUES (?, ?, ?, ?, ?)", (rk, k, op, kind, orjson.dumps(body))
    )
    return Intent(k, kind, body)


def _decided(db: Connection, rk: int) -> dict[str, Intent]:
    rows = db.execute(
        "SELECT question, k, kind, body FROM log_decided JOIN log_inbox USING (rk, k) WHERE rk = ?", (rk,)
    )
    return {row[0]: Intent(row[1], row[2], orjson.loads(row[3])) for row in rows}


def _presented(db: Connection, rk: int) -> int:
    row = db.execute("SELECT presented FROM log_presented WHERE rk = ?", (rk,)).fetchone()
    return 0 if row is None else int(row[0])


def _forget(db: Connection, which: str, value: Any) -> None:
    """Drop the requests that a condition holds for, and all that hangs on them."""
    for table in _OF_REQUESTS:
        db.execute(f"DELETE FROM {table} WHERE rk IN (SELECT rk FROM log_requests WHERE {which})", (value,))
    db.execute(f"DELETE FROM log_requests WHERE {which}", (value,))


def _entries(db: Connection, ck: int, first: int, last: int) -> list[Entry]:
    rows = db.execute(
        "SELECT seq, ts, body FROM log_events WHERE ck = ? AND seq BETWEEN ? AND ? ORDER BY seq", (ck, first, last)
    )
    return [Entry(row[0], row[1], row[2]) for row in rows]


def _trimmable(db: Connection, keep: int) -> list[Row]:
    return db.execute(
        "SELECT ck FROM log_conversations c WHERE trimmed < last_seq AND"
        " (SELECT ts FROM log_events e WHERE e.ck = c.ck ORDER BY seq LIMIT 1) < ?",
        (keep,),
    ).fetchall()


def _trim_one(db: Connection, ck: int, keep: int) -> int:
    """Cut a log below ``keep``, but not what the newest checkpoint of a live request still needs after it."""
    (old,) = db.execute("SELECT max(seq) FROM log_events WHERE ck = ? AND ts < ?", (ck, keep)).fetchone()
    (needed,) = db.execute(
        f"SELECT min(max(checkpoint_seq, claim_seq)) FROM log_requests WHERE ck = ? AND {_LIVE} AND phase != 'parked'",
        (ck,),
    ).fetchone()
    cut = old if needed is None else min(old, needed)
    gone = db.execute("DELETE FROM log_events WHERE ck = ? AND seq <= ?", (ck, cut)).rowcount
    if gone > 0:
        db.execute("UPDATE log_conversations SET trimmed = ? WHERE ck = ?", (cut, ck))
    return max(gone, 0)


def _loads(data: bytes | None) -> Any:
    return None if data is None else orjson.loads(data)
