"""The event log against a simple model in memory: any steps in any order, any of them met by any fault.

Hypothesis draws the steps; the model says what each must answer. After every step the whole log is compared: each seq
written once and without gaps, one request with the floor, one ending, and no acknowledged cancel that ends otherwise.
Derive, give the factory, and use `.TestCase`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.support.unreliable import LOG_STEPS, Fault, Intercepted, Repeating, Unreliable

from turnwire_server.eventlog.base import (
    Busy,
    EventLog,
    Fenced,
    LogUnavailable,
    OnBusy,
    Owned,
    Phase,
    PostOutcome,
    Sealed,
    Unheard,
)

from .eventlog import LogFactory
from .eventlog_writing import member
from .kit import RECORDED_CANCEL_S, RESERVATION_S, RETENTION_S, Clock, LogKit, ended, ending, op, text_of

T = TypeVar("T")
REQUESTS = [f"r{n}" for n in range(5)]
LIMIT = 2
faults = st.sampled_from([Fault.NONE, Fault.NONE, Fault.TWICE, Fault.LOST, Fault.MISSED])


@dataclass
class Talk:
    """The model of a conversation."""

    epoch: str = ""
    texts: list[tuple[int, int, str]] = field(default_factory=list)  # seq, ts, what
    seq: int = 0
    trimmed: int = 0
    ts: int = 0
    ordinal: int = 0
    head: str | None = None


@dataclass
class Turn:
    """The model of a request from its claim on."""

    owned: Owned
    phase: Phase
    floor: bool
    claim_seq: int
    n: int = 0
    run: int = 1
    inbox: int = 0
    outcome: str | None = None
    archived: bool = True
    finished_at: int = 0
    checkpoint_seq: int = 0

    @property
    def is_live(self) -> bool:
        return self.phase in (Phase.QUEUED, Phase.RUNNING, Phase.SEALED)

    @property
    def is_waited_for(self) -> bool:
        return self.is_live and (self.floor or self.phase is Phase.QUEUED)


def has(*phases: Phase) -> Callable[[Any], bool]:
    """Only while some request is in one of these phases."""
    return lambda machine: any(turn.phase in phases for turn in machine.turns.values())


class EventLogMachine(RuleBasedStateMachine):
    factory: Callable[[Clock], Any]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.clock = Clock()
        self.talks: dict[str, Talk] = {"even": Talk(), "odd": Talk()}
        self.turns: dict[str, Turn] = {}
        self.recorded: dict[str, int] = {}
        self.former: list[Owned] = []
        self.kit: LogKit

    def run(self, awaitable: Awaitable[T]) -> T:
        async def main() -> T:
            async with asyncio.timeout(60):
                return await awaitable

        return self.runner.run(main())

    @initialize()
    def start(self) -> None:
        factory: LogFactory = type(self).factory
        self.kit = self.run(self.stack.enter_async_context(factory(self.clock)))
        self.engine = self.kit.log
        self.meet(Fault.NONE)
        for name, talk in self.talks.items():
            talk.epoch = self.run(self.kit.log.position(self.kit.ref(name))).epoch

    def teardown(self) -> None:
        if hasattr(self, "kit"):
            self.run(self.stack.aclose())
        self.runner.close()

    def meet(self, fault: Fault) -> None:
        """The next step meets this fault, and time goes on a little."""
        self.clock.forward(0.001)
        around = Unreliable(fault, lambda: LogUnavailable("by the test")).around
        log: Any = Repeating(Intercepted(self.engine, LOG_STEPS, around), LOG_STEPS)
        self.kit.log = log

    @property
    def now(self) -> int:
        return int(self.clock() * 1000)

    def talk_of(self, request_id: str) -> tuple[str, Talk]:
        name = "odd" if int(request_id[1:]) % 2 else "even"
        return name, self.talks[name]

    def line(self, name: str) -> list[Turn]:
        """Those of a conversation, by ordinal."""
        mine = [turn for turn in self.turns.values() if turn.owned.conversation.conversation_id == name]
        return sorted(mine, key=lambda turn: turn.owned.ordinal)

    def add(self, talk: Talk, *texts: str) -> None:
        talk.ts = max(talk.ts, self.now)
        for text in texts:
            talk.seq += 1
            talk.texts.append((talk.seq, talk.ts, text))

    def promoted(self, name: str, following: Owned | None) -> None:
        """The model gives the floor on, and expects the log to have given it to the same."""
        line = self.line(name)
        queued = [turn for turn in line if turn.phase is Phase.QUEUED]
        if not queued or any(turn.floor for turn in line):
            assert following is None
            return
        turn = queued[0]
        assert following is not None
        assert (following.request, following.n, following.run) == (turn.owned.request, turn.n, turn.run)
        assert following.fence > turn.owned.fence
        assert len(following.intents) == turn.inbox
        self.former.append(turn.owned)
        turn.owned, turn.phase, turn.floor = following, Phase.RUNNING, True

    # --- steps -----------------------------------------------------------------------------------------

    def some(self, data: st.DataObject, *phases: Phase) -> tuple[str, Turn]:
        """A request in one of these phases."""
        request_id = data.draw(st.sampled_from([name for name in self.turns if self.turns[name].phase in phases]))
        return request_id, self.turns[request_id]

    @rule(request_id=st.sampled_from(REQUESTS), reject=st.booleans(), fault=faults)
    def claim(self, request_id: str, reject: bool, fault: Fault) -> None:
        self.meet(fault)
        name, talk = self.talk_of(request_id)
        answer = self.run(
            self.kit.try_claim(
                request_id, conversation=name, on_busy=OnBusy.REJECT if reject else OnBusy.QUEUE, queue_limit=LIMIT
            )
        )
        known = self.turns.get(request_id)
        if known is not None:
            assert not isinstance(answer, Busy)
            assert not answer.mine
            assert answer.owned.fence == known.owned.fence
            return
        waiting = [turn for turn in self.line(name) if turn.is_waited_for]
        if waiting and (reject or len(waiting) > LIMIT):
            assert answer == Busy(waiting[0].owned.request.request_id, full=not reject)
            return
        assert not isinstance(answer, Busy)
        assert answer.mine
        assert answer.seq == talk.seq
        heard = self.recorded.get(request_id, 0) >= self.now - RECORDED_CANCEL_S * 1000
        talk.ordinal += 1
        assert answer.owned.ordinal == talk.ordinal
        assert answer.owned.spec["parent_id"] == talk.head
        assert len(answer.owned.intents) == heard
        talk.head = f"answer-{request_id}"
        phase = Phase.QUEUED if waiting else Phase.RUNNING
        assert answer.owned.phase is phase
        self.turns[request_id] = Turn(answer.owned, phase, not waiting, talk.seq, inbox=int(heard))

    @precondition(has(Phase.QUEUED, Phase.RUNNING))
    @rule(data=st.data(), count=st.integers(1, 3), checkpoint=st.booleans(), fault=faults)
    def say(self, data: st.DataObject, count: int, checkpoint: bool, fault: Fault) -> None:
        request_id, turn = self.some(data, Phase.QUEUED, Phase.RUNNING)
        if turn.phase is Phase.QUEUED:
            # One that waits says that it is there and where it stands; more than that tells a log that it runs.
            count = min(count, 2 - turn.n)
            if count <= 0:
                return
        self.meet(fault)
        _, talk = self.talk_of(request_id)
        texts = [f"{request_id}.{turn.owned.ordinal}.{turn.n + i}" for i in range(count)]
        kept = {"at": turn.n + count} if checkpoint else None
        answer = self.run(self.kit.say(turn.owned, turn.n, *texts, checkpoint=kept))
        assert [entry.seq for entry in answer.entries] == list(range(talk.seq + 1, talk.seq + 1 + count))
        assert len(answer.intents) == turn.inbox
        self.add(talk, *texts)
        turn.n += count
        if checkpoint:
            turn.checkpoint_seq = talk.seq

    @precondition(lambda self: self.former)
    @rule(data=st.data(), fault=faults)
    def ghost(self, data: st.DataObject, fault: Fault) -> None:
        """Whoever owned a turn once changes nothing any more."""
        self.meet(fault)
        owned = data.draw(st.sampled_from(self.former))
        assert self.run(self.kit.log.append([self.kit.append(owned, owned.n, "ghost")])) == [Fenced()]
        assert self.run(self.kit.log.finish(op(), owned.request, owned.fence, [ended(owned)])) == Fenced()

    @rule(request_id=st.sampled_from(REQUESTS), fault=faults)
    def cancel(self, request_id: str, fault: Fault) -> None:
        self.meet(fault)
        turn = self.turns.get(request_id)
        queued = turn is not None and turn.phase is Phase.QUEUED
        posted = self.run(self.kit.cancel(request_id, ending=ending("cancelled") if queued else None))
        if turn is None:
            assert posted.outcome is PostOutcome.RECORDED
            self.recorded[request_id] = self.now
        elif turn.phase in (Phase.SEALED, Phase.FINISHED):
            assert (posted.outcome, posted.state) == (PostOutcome.SETTLED, turn.outcome)
        elif turn.phase is Phase.QUEUED and turn.n > 0:
            assert posted.outcome is PostOutcome.ENDED
            self.former.append(turn.owned)
            turn.owned, turn.phase, turn.outcome = posted.owned, Phase.SEALED, "cancelled"
            turn.inbox += 1
        else:
            assert posted.outcome is PostOutcome.STORED
            turn.inbox += 1
            assert posted.intent.k == turn.inbox

    @precondition(has(Phase.RUNNING))
    @rule(data=st.data(), hears=st.booleans(), good=st.booleans(), fault=faults)
    def seal(self, data: st.DataObject, hears: bool, good: bool, fault: Fault) -> None:
        _, turn = self.some(data, Phase.RUNNING)
        self.meet(fault)
        outcome = "cancelled" if hears and turn.inbox else "completed" if good else "failed"
        taken = turn.inbox if hears else 0
        answer = self.run(self.kit.log.seal(op(), turn.owned.request, turn.owned.fence, ending(outcome), taken=taken))
        if turn.inbox and not hears:
            assert isinstance(answer, Unheard)
            assert len(answer.intents) == turn.inbox
            return
        assert answer == Sealed(ending(outcome))
        turn.phase, turn.outcome = Phase.SEALED, outcome

    @precondition(has(Phase.SEALED))
    @rule(data=st.data(), archived=st.booleans(), fault=faults)
    def finish(self, data: st.DataObject, archived: bool, fault: Fault) -> None:
        request_id, turn = self.some(data, Phase.SEALED)
        self.meet(fault)
        name, talk = self.talk_of(request_id)
        finished = self.run(self.kit.finish(turn.owned, archived=archived))
        self.add(talk, f"<end {request_id}>")
        assert [entry.seq for entry in finished.entries] == [talk.seq]
        turn.phase, turn.floor, turn.n = Phase.FINISHED, False, turn.n + 1
        turn.finished_at, turn.archived = self.now, archived
        self.promoted(name, finished.next)
        queued = [turn for turn in self.line(name) if turn.phase is Phase.QUEUED]
        assert list(finished.waiting) == [turn.owned.request.request_id for turn in queued]

    @precondition(has(Phase.FINISHED))
    @rule(data=st.data(), fault=faults)
    def archive(self, data: st.DataObject, fault: Fault) -> None:
        _, turn = self.some(data, Phase.FINISHED)
        self.meet(fault)
        self.run(self.kit.log.archived(turn.owned.request))
        turn.archived = True

    @rule(request_id=st.sampled_from(REQUESTS), fault=faults)
    def release(self, request_id: str, fault: Fault) -> None:
        self.meet(fault)
        following = self.run(self.kit.log.release(op(), self.kit.request(request_id)))
        turn = self.turns.get(request_id)
        if turn is None or turn.n > 0 or turn.phase not in (Phase.QUEUED, Phase.RUNNING):
            assert following is None
            return
        name, talk = self.talk_of(request_id)
        del self.turns[request_id]
        self.former.append(turn.owned)
        if talk.head == f"answer-{request_id}":
            talk.head = turn.owned.spec["parent_id"]
        self.promoted(name, following)

    @precondition(has(*Phase))
    @rule(fault=faults)
    def emit(self, fault: Fault) -> None:
        self.meet(fault)
        self.run(self.kit.log.emit(op(), self.kit.ref("odd"), [member("bob")]))
        self.add(self.talks["odd"], "<member.changed>")

    @precondition(has(Phase.QUEUED, Phase.RUNNING, Phase.SEALED))
    @rule(fault=faults)
    def restart(self, fault: Fault) -> None:
        """The node dies; its next start takes over whatever has not ended."""
        self.engine = self.run(self.kit.restart())
        self.meet(fault)
        orphans = [info.request.request_id for info in self.run(self.kit.log.orphans())]
        assert sorted(orphans) == sorted(name for name, turn in self.turns.items() if turn.is_live)
        for request_id in orphans:
            turn = self.turns[request_id]
            taken = self.run(self.kit.log.take_over(op(), turn.owned.request))
            assert taken is not None
            turn.run += turn.phase is Phase.RUNNING and turn.n > 0
            assert (taken.run, taken.n, taken.phase) == (turn.run, turn.n, turn.phase)
            assert taken.fence > turn.owned.fence
            assert (taken.ending or {}).get("outcome") == turn.outcome
            assert taken.checkpoint_seq == turn.checkpoint_seq
            self.former.append(turn.owned)
            turn.owned = taken

    @precondition(has(*Phase))
    @rule(seconds=st.sampled_from([-100.0, 1.0, RESERVATION_S, RETENTION_S + 1]))
    def time_goes(self, seconds: float) -> None:
        self.clock.forward(seconds)

    @precondition(lambda self: any(talk.texts for talk in self.talks.values()))
    @rule(fault=faults)
    def trim(self, fault: Fault) -> None:
        self.meet(fault)
        self.run(self.kit.log.trim())
        keep = self.now - int(RETENTION_S * 1000)
        for request_id, turn in list(self.turns.items()):
            if turn.phase is Phase.FINISHED and turn.archived and turn.finished_at < keep:
                del self.turns[request_id]
                self.former.append(turn.owned)
        for name, talk in self.talks.items():
            needed = [max(turn.checkpoint_seq, turn.claim_seq) for turn in self.line(name) if turn.is_live]
            cut = min([*(needed or [talk.seq]), max([0, *(seq for seq, ts, _ in talk.texts if ts < keep)])])
            if cut > talk.trimmed:
                talk.trimmed = cut
                talk.texts = [entry for entry in talk.texts if entry[0] > cut]

    @precondition(lambda self: sum(len(talk.texts) for talk in self.talks.values()) > 6)  # or nothing ever grows
    @rule(name=st.sampled_from(["even", "odd"]), fault=faults)
    def delete(self, name: str, fault: Fault) -> None:
        self.meet(fault)
        self.run(self.kit.log.delete(op(), self.kit.ref(name)))
        for turn in self.line(name):
            del self.turns[turn.owned.request.request_id]
            self.former.append(turn.owned)
        before, self.talks[name] = self.talks[name], Talk()
        position = self.run(self.kit.log.position(self.kit.ref(name)))
        assert (position.seq, position.trimmed) == (0, 0)
        assert position.epoch != before.epoch
        self.talks[name].epoch = position.epoch

    # --- what must always hold -------------------------------------------------------------------------

    @invariant()
    def the_log_is_as_the_model(self) -> None:
        if hasattr(self, "kit"):
            self.run(self._compare(self.engine))

    async def _compare(self, log: EventLog) -> None:
        for name, talk in self.talks.items():
            ref = self.kit.ref(name)
            page = await log.read(ref, talk.trimmed, limit=1_000, max_bytes=1_000_000)
            assert (page.position.epoch, page.position.seq, page.position.trimmed) == (
                talk.epoch,
                talk.seq,
                talk.trimmed,
            )
            shown = [(entry.seq, entry.ts, _what(entry.event)) for entry in page.entries]
            assert shown == talk.texts
            assert [ts for _, ts, _ in shown] == sorted(ts for _, ts, _ in shown)
            line = self.line(name)
            live = await log.live(ref)
            assert [r.request_id for r in live.requests] == [
                turn.owned.request.request_id for turn in line if turn.is_live and turn.n > 0
            ]
            assert (ref in await log.running([ref])) == any(turn.is_waited_for for turn in line)
            assert sum(turn.floor for turn in line) <= 1
        for request_id in REQUESTS:
            await self._compare_request(log, request_id)
        kept = {owned.request.request_id for owned in await log.unarchived()}
        finished = {name for name, turn in self.turns.items() if turn.phase is Phase.FINISHED and not turn.archived}
        assert kept == finished

    async def _compare_request(self, log: EventLog, request_id: str) -> None:
        info, turn = await log.request(self.kit.request(request_id)), self.turns.get(request_id)
        if turn is None:
            assert info is None
            return
        assert info is not None
        assert (info.phase, info.run, info.confirmed) == (turn.phase, turn.run, turn.n > 0)
        if turn.phase is Phase.FINISHED:
            assert info.state == turn.outcome
            assert turn.inbox == 0 or turn.outcome == "cancelled", "a cancel that was stored is a fact"


def _what(event: Any) -> str:
    text = text_of(event)
    return f"<end {event.request_id}>" if text == "<message.completed>" else text
