"""A model in memory of the embedded log, and random steps that are carried out on both.

The steps are met by faults of the disk (`Disk`): a statement in the middle fails, a COMMIT fails, or it is done and
says that it failed. Now and then the files are copied as they are and opened elsewhere, which is what the next process
finds after kill -9. Tables are looked at seldom, so that much waits in the journal.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import anyio
import anyio.lowlevel
import pytest

from turnwire_protocol import Entry
from turnwire_server.eventlog import sqlite_journal
from turnwire_server.eventlog.base import (
    Append,
    Appended,
    Base,
    Claimed,
    ConversationRef,
    Fenced,
    Finished,
    LogUnavailable,
    OnBusy,
    Owned,
    PostOutcome,
    RequestRef,
    Sealed,
)
from turnwire_server.sqlite import Database, DatabaseUnavailable

from .engines import SCHEMA, sqlite_log_on
from .eventlog_writing import member
from .kit import RETENTION_S, Clock, ended, ending, op, said

T = TypeVar("T")
TALKS = ("a", "b", "c")
STEPS = 100


@dataclass
class Turn:
    owned: Owned
    talk: str
    queued: bool
    entries: list[Entry] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)
    checkpoint: dict[str, Any] | None = None
    checkpoint_seq: int = 0
    heard: int = 0
    repeats_from: int = 0
    sealed: bool = False


class Disk:
    """The writer's connection, with one fault at a time. Unlike a disk, it works again at once."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.fault: str | int | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, *arguments: Any) -> Any:
        self._meet(statement)
        answer = self._connection.execute(statement, *arguments)
        if statement == "COMMIT" and self.fault == "lost":
            self._fail()
        return answer

    def executemany(self, statement: str, *arguments: Any) -> Any:
        self._meet(statement)
        return self._connection.executemany(statement, *arguments)

    def _meet(self, statement: str) -> None:
        if statement == "COMMIT" and self.fault == "missed":
            self._fail()
        if isinstance(self.fault, int) and statement.split(None, 1)[0] in ("INSERT", "UPDATE", "DELETE"):
            self.fault -= 1
            if self.fault == 0:
                self._fail()

    def _fail(self) -> None:
        self.fault = None
        raise sqlite3.OperationalError("disk I/O error")


def plain(entries: Sequence[Entry]) -> list[tuple[int, int, bytes]]:
    return [(entry.seq, entry.ts, entry.body) for entry in entries]


class Model:
    """Draws the steps, carries them out, and knows what must be there."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.rng = random.Random(seed)
        self.folder = folder
        self.clock = Clock()
        self.entries: dict[str, list[Entry]] = {name: [] for name in TALKS}
        self.turns: dict[str, Turn] = {}
        self.former: list[Append] = []
        self.made = self.requests = 0
        self.log: Any
        self.disk: Disk
        self.database: Database

    # --- the surroundings --------------------------------------------------------------------------------

    async def open(self) -> None:
        self.made += 1
        self.database = Database(self.folder / str(self.made))
        await self.database.open(SCHEMA)
        self.disk = Disk(self.database._writer)
        self.database._writer = cast(Any, self.disk)
        self.log = await sqlite_log_on(self.database, self.clock)

    async def killed(self) -> None:
        """What the next process finds: the files as they are, in a new place."""
        old, new = self.folder / str(self.made), self.folder / str(self.made + 1)
        new.mkdir()
        for name in ("turnwire.db", "turnwire.db-wal"):
            shutil.copy(old / name, new / name)
        await self.database.aclose()
        await self.open()
        orphans = {info.request.request_id for info in await self.log.orphans()}
        assert orphans == set(self.turns)
        for request_id, turn in self.turns.items():
            owned = await self.log.take_over(op(), turn.owned.request)
            assert owned is not None
            self.check_owned(owned)
            assert owned.phase != "running" or owned.run == turn.owned.run + bool(turn.entries)
            turn.owned = owned
            assert (owned.ending is not None) == turn.sealed, request_id

    async def sure(self, step: Callable[[], Awaitable[T]]) -> T:
        """Until it is acknowledged, as the callers of the log do; beside others, of which one may fail."""
        self.clock.forward(0.001)
        self.disk.fault = self.rng.choice([None, None, None, None, "missed", "lost", 1, 2, 3, 5])

        async def beside() -> None:
            with pytest.raises((ZeroDivisionError, DatabaseUnavailable)):
                await self.database.write(lambda _: 1 // 0)

        async with anyio.create_task_group() as tasks:
            if self.rng.random() < 0.1:
                tasks.start_soon(beside)
            while True:
                try:
                    answer = await step()
                    break
                except LogUnavailable:
                    pass
        self.disk.fault = None
        return answer

    def ref(self, talk: str) -> ConversationRef:
        return ConversationRef("acme", talk)

    def some(self, choose: Callable[[Turn], bool]) -> Turn | None:
        found = [turn for turn in self.turns.values() if choose(turn)]
        return self.rng.choice(found) if found else None

    # --- steps -------------------------------------------------------------------------------------------

    async def claim(self) -> None:
        if len(self.turns) >= 8:
            return
        self.requests += 1
        request, talk = RequestRef("acme", f"r{self.requests}"), self.rng.choice(TALKS)
        first, second = op(), op()
        await self.sure(lambda: self.log.reserve(first, request, talk, "ann", "print"))
        spec = {"user_id": "ann", "fingerprint": "print", "answer_id": f"answer-{request.request_id}"}
        how = self.rng.choice([OnBusy.PARALLEL, OnBusy.QUEUE, OnBusy.FRONT])
        claimed = await self.sure(
            lambda: self.log.claim(second, request, self.ref(talk), spec, base=Base(), on_busy=how, queue_limit=9)
        )
        assert isinstance(claimed, Claimed)
        assert claimed.seq == len(self.entries[talk])
        self.turns[request.request_id] = Turn(claimed.owned, talk, claimed.owned.phase == "queued")

    async def append(self) -> None:
        turns = self.rng.sample(list(self.turns.values()), min(len(self.turns), self.rng.randint(1, 4)))
        # Whoever waits has few events: its start and its places.
        turns = [turn for turn in turns if not turn.sealed and not (turn.queued and len(turn.entries) >= 2)]
        batch = [self.an_append(turn) for turn in turns]
        answers = await self.sure(lambda: self.log.append(batch))
        for turn, append, answer in zip(turns, batch, answers, strict=True):
            self.appended(turn, append, answer)
        self.former += batch

    def an_append(self, turn: Turn) -> Append:
        repeated = self.rng.choice([0, 0, 0, 1, 3])
        n = max(len(turn.events) - repeated, turn.repeats_from)
        fresh = [said(turn.owned, f"{turn.owned.request.request_id} {len(turn.events) + i}") for i in range(2)]
        fresh = fresh[: self.rng.randint(0 if n < len(turn.events) else 1, 1 if turn.queued else 2)]
        kept: dict[str, Any] = {}
        if fresh and self.rng.random() < 0.3:
            kept = {"state": "streaming", "checkpoint": {"up to": len(turn.events) + len(fresh)}}
        return Append(turn.owned.request, self.ref(turn.talk), turn.owned.fence, n, turn.events[n:] + fresh, **kept)

    def appended(self, turn: Turn, append: Append, answer: Any) -> None:
        assert isinstance(answer, Appended)
        repeated = turn.entries[append.n :]
        assert plain(answer.entries[: len(repeated)]) == plain(repeated)
        assert [intent.k for intent in answer.intents] == list(range(1, turn.heard + 1))
        fresh = answer.entries[len(repeated) :]
        assert len(repeated) + len(fresh) == len(append.events)
        turn.events = turn.events[: append.n] + list(append.events)
        self.added(turn.talk, fresh)
        turn.entries += fresh
        if append.checkpoint is not None:
            turn.checkpoint, turn.checkpoint_seq = append.checkpoint, fresh[-1].seq

    async def append_again(self) -> None:
        """A reply was lost long ago, or somebody does not know yet that it is over."""
        if not self.former:
            return
        append = self.rng.choice(self.former)
        turn = self.turns.get(append.request.request_id)
        (answer,) = await self.sure(lambda: self.log.append([append]))
        if turn is None or turn.sealed or turn.owned.fence != append.fence:
            assert isinstance(answer, Fenced)
        else:
            assert plain(answer.entries) == plain(turn.entries[append.n : append.n + len(append.events)])

    async def emit(self) -> None:
        talk, same = self.rng.choice(TALKS), op()
        event = member(talk)
        entries = await self.sure(lambda: self.log.emit(same, self.ref(talk), [event]))
        self.added(talk, entries)
        if self.rng.random() < 0.3:
            assert plain(await self.log.emit(same, self.ref(talk), [event])) == plain(entries)

    async def post(self) -> None:
        turn = self.some(lambda turn: not turn.sealed)
        if turn is None:
            return
        same = op()
        end = ending("cancelled") if self.rng.random() < 0.3 else None
        request = turn.owned.request
        posted = await self.sure(lambda: self.log.post(same, request, "say", {}, user_id="ann", ending=end))
        turn.heard += 1
        if posted.outcome is PostOutcome.ENDED:
            assert posted.owned is not None
            self.check_owned(posted.owned)
            turn.owned, turn.sealed = posted.owned, True
        else:
            assert posted.outcome is PostOutcome.STORED

    async def seal(self) -> None:
        turn = self.some(lambda turn: not turn.sealed and not turn.queued)
        if turn is None:
            return
        if self.rng.random() < 0.5:
            await self.append_to(turn)
        same, owned = op(), turn.owned
        sealed = await self.sure(lambda: self.log.seal(same, owned.request, owned.fence, ending(), taken=turn.heard))
        assert isinstance(sealed, Sealed)
        turn.sealed = True
        late = Append(owned.request, self.ref(turn.talk), owned.fence, len(turn.events), [said(owned, "late")])
        assert list(await self.sure(lambda: self.log.append([late]))) == [Fenced()]

    async def finish(self) -> None:
        turn = self.some(lambda turn: turn.sealed)
        if turn is None:
            return
        same, owned = op(), turn.owned
        finished = await self.sure(lambda: self.log.finish(same, owned.request, owned.fence, [ended(owned)]))
        assert isinstance(finished, Finished)
        self.added(turn.talk, finished.entries)
        del self.turns[owned.request.request_id]
        self.follows(finished.next)

    async def release(self) -> None:
        turn = self.some(lambda turn: not turn.events and not turn.sealed)
        if turn is None:
            return
        same, request = op(), turn.owned.request
        following = await self.sure(lambda: self.log.release(same, request))
        del self.turns[request.request_id]
        self.follows(following)
        if following is not None:
            await self.append_to(self.turns[following.request.request_id])
            again = await self.sure(lambda: self.log.release(same, request))
            if again is not None:
                self.check_owned(again)

    async def append_to(self, turn: Turn) -> None:
        append = self.an_append(turn)
        (answer,) = await self.sure(lambda: self.log.append([append]))
        self.appended(turn, append, answer)

    async def delete(self) -> None:
        if self.rng.random() < 0.4:
            return
        talk, same = self.rng.choice(TALKS), op()
        await self.sure(lambda: self.log.delete(same, self.ref(talk)))
        self.entries[talk] = []
        self.turns = {name: turn for name, turn in self.turns.items() if turn.talk != talk}
        self.former = [append for append in self.former if append.conversation != self.ref(talk)]

    async def trim(self) -> None:
        self.clock.forward(self.rng.choice([1, RETENTION_S / 2, RETENTION_S / 2, RETENTION_S]))
        await self.sure(self.log.trim)
        # What was answered before may be gone.
        self.former.clear()
        for turn in self.turns.values():
            turn.repeats_from = len(turn.events)

    async def reopen(self) -> None:
        if self.rng.random() < 0.3:
            await self.killed()

    # --- what must hold ----------------------------------------------------------------------------------

    def added(self, talk: str, entries: Any) -> None:
        known = self.entries[talk]
        assert [entry.seq for entry in entries] == list(range(len(known) + 1, len(known) + 1 + len(entries)))
        known += entries

    def follows(self, following: Owned | None) -> None:
        if following is not None:
            self.check_owned(following)
            turn = self.turns[following.request.request_id]
            assert turn.queued
            turn.owned, turn.queued = following, False

    def check_owned(self, owned: Owned) -> None:
        turn = self.turns[owned.request.request_id]
        assert owned.n == len(turn.entries)
        assert (owned.checkpoint, owned.checkpoint_seq) == (turn.checkpoint, turn.checkpoint_seq)
        assert len(owned.intents) + owned.taken == turn.heard

    async def look(self) -> None:
        # One by one: the first settles everything for the next.
        await self.rng.choice([self.look_at, self.look_at_end, self.look_for_live, self.look_for_requests])(
            self.rng.choice(TALKS)
        )

    async def look_at(self, talk: str) -> None:
        trimmed = (await self.log.position(self.ref(talk))).trimmed
        page = await self.log.read(self.ref(talk), trimmed, limit=10_000, max_bytes=10_000_000)
        assert plain(page.entries) == plain(self.entries[talk][trimmed:])
        assert page.position.seq == len(self.entries[talk])
        old = int((self.clock() - RETENTION_S) * 1000)
        assert all(entry.ts < old for entry in self.entries[talk][:trimmed])

    async def look_at_end(self, talk: str) -> None:
        known = self.entries[talk]
        after = max(len(known) - 5, 0)
        page = await self.log.read(self.ref(talk), after, limit=10_000, max_bytes=10_000_000)
        assert page.position.seq == len(known)
        assert after < page.position.trimmed or plain(page.entries) == plain(known[after:])

    async def look_for_live(self, talk: str) -> None:
        live = await self.log.live(self.ref(talk))
        shown = {found.request_id: (found.checkpoint, found.checkpoint_seq) for found in live.requests}
        turns = {name: turn for name, turn in self.turns.items() if turn.talk == talk and turn.entries}
        assert shown == {name: (turn.checkpoint, turn.checkpoint_seq) for name, turn in turns.items()}
        assert live.position.seq == len(self.entries[talk])

    async def look_for_requests(self, talk: str) -> None:
        for turn in self.turns.values():
            if turn.talk == talk:
                info = await self.log.request(turn.owned.request)
                assert info is not None
                assert info.confirmed == bool(turn.entries)
                assert not turn.entries or info.last_seq == turn.entries[-1].seq

    async def look_at_journal(self) -> None:
        (rows,) = await self.database.read(lambda db: db.execute("SELECT count(*) FROM log_journal").fetchone())
        assert rows <= sqlite_journal._BATCHES_WAIT + sqlite_journal._CUT + 2

    async def go(self) -> None:
        await self.open()
        steps = {
            self.append: 20,
            self.claim: 5,
            self.append_again: 2,
            self.emit: 2,
            self.post: 2,
            self.seal: 2,
            self.finish: 2,
            self.release: 1,
            self.look: 3,
            self.look_at_journal: 1,
            self.delete: 1,
            self.trim: 1,
            self.reopen: 1,
        }
        for _ in range(STEPS):
            (step,) = self.rng.choices(list(steps), list(steps.values()))
            await step()
        await self.killed()
        for talk in TALKS:
            await self.look_for_requests(talk)
            await self.look_at(talk)
            await self.look_for_live(talk)
        await self.database.aclose()
