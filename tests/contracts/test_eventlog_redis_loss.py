"""The clustered log loses what it has acknowledged: what it refuses, what the living put back, what is entered anew.

Real servers are killed and emptied. Time is the test's own, so that "within the first lease time" is exact; that a
server is another one, or has begun anew, is found out by the engine itself.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.support.redis import RedisServer, running_redis

from turnwire_server.eventlog.base import (
    Append,
    Appended,
    Base,
    Claimed,
    Doubt,
    Fenced,
    Finished,
    Forgotten,
    LogUnavailable,
    OnBusy,
    Outdated,
    Owned,
    Phase,
    PostOutcome,
    Reentry,
    Sealed,
)
from turnwire_server.eventlog.redis import log as redis_log_module

from .kit import Clock, LogKit, ended, ending, op
from .nodes import LEASE_S, PARTITIONS, listening, past_the_lease, redis_engine, redis_nodes, settle

_SHORT_LEASE_S = 0.6


@dataclass
class Losing:
    """A server that loses, and two nodes that live on."""

    redis: RedisServer
    here: LogKit
    there: LogKit
    clock: Clock

    async def restart(self) -> None:
        """The server dies and comes back with what it had written down: nothing is lost, but nobody can know."""
        await self.redis.kill()
        await self.redis.start()

    def keep(self) -> None:
        """Remember what the server has written down until now."""
        shutil.rmtree(self._copy, ignore_errors=True)
        shutil.copytree(self._data, self._copy)

    async def go_back(self) -> None:
        """The server dies and comes back with what `keep` remembered: all that came after is lost."""
        await self.redis.kill()
        shutil.rmtree(self._data)
        shutil.copytree(self._copy, self._data)
        await self.redis.start()

    @property
    def _data(self) -> Path:
        return self.redis.directory / "data"

    @property
    def _copy(self) -> Path:
        return self.redis.directory / "copy"

    async def lose_everything(self) -> None:
        await self.redis.flushall()

    async def settle(self) -> None:
        await settle(self.there.log)

    async def past_the_lease(self) -> None:
        await past_the_lease(self.there.log, self.clock)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_log_module, "_DOUBT_WAIT_S", 0.02)


@asynccontextmanager
async def losing(**options: Any) -> AsyncIterator[Losing]:
    clock = Clock()
    async with running_redis() as redis, redis_nodes(2, url=redis.url, clock=clock, **options) as (here, there):
        yield Losing(redis, here, there, clock)


@asynccontextmanager
async def redis_with_a_short_lease() -> AsyncIterator[tuple[RedisServer, LogKit, LogKit]]:
    """By the server's own time."""
    async with running_redis() as redis, redis_nodes(2, url=redis.url, lease_s=_SHORT_LEASE_S) as (here, there):
        yield redis, here, there


def reentry(owned: Owned, n: int, **fields: Any) -> Reentry:
    known = {"run": owned.run, "state": "streaming", "checkpoint": {"events": n}, **fields}
    return Reentry(spec=owned.spec, ordinal=owned.ordinal, n=n, **known)


def again(owned: Owned, n: int, epoch: str | None = None, **fields: Any) -> Append:
    """The turn as its owner knows it, after `n` events."""
    known = epoch or owned.epoch
    return Append(
        owned.request, owned.conversation, owned.fence, n, (), epoch=known, reentry=reentry(owned, n, **fields)
    )


async def put_back(kit: LogKit, owned: Owned, n: int, **fields: Any) -> str:
    """The new epoch."""
    (forgotten,) = await kit.log.append([kit.append(owned, n, "not yet", epoch=owned.epoch)])
    assert forgotten == Forgotten()
    (answer,) = await kit.log.append([again(owned, n, **fields)])
    assert isinstance(answer, Appended)
    assert list(answer.entries) == []
    return answer.epoch


# --- what a loss does ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["restart", "lose_everything"])
async def test_a_loss_begins_another_incarnation_and_every_part_is_in_doubt(how: str) -> None:
    async with losing() as place:
        owned = await place.here.begin("r1", "a")
        before = owned.epoch
        await getattr(place, how)()
        doubts = await place.there.log.in_doubt()
        assert [doubt.partition for doubt in doubts] == list(range(PARTITIONS))
        assert {doubt.age_s for doubt in doubts} == {0.0}
        assert {doubt.incarnation for doubt in await place.here.log.in_doubt()} == {d.incarnation for d in doubts}
        place.clock.forward(3)
        assert {doubt.age_s for doubt in await place.here.log.in_doubt()} == {3.0}
        await place.settle()
        assert await place.here.log.in_doubt() == []
        assert (await place.here.log.position(place.here.ref())).epoch != before


async def test_a_server_that_lost_nothing_shows_all_in_another_epoch() -> None:
    async with losing() as place:
        owned = await place.here.begin("r1", "a", "b", checkpoint={"so": "far"})
        await place.restart()
        live = await place.there.log.live(place.there.ref())
        assert (live.position.seq, [r.request_id for r in live.requests]) == (2, ["r1"])
        assert live.position.epoch != owned.epoch
        assert await place.there.texts() == ["a", "b"]


@pytest.mark.parametrize("how", ["restart", "lose_everything"])
async def test_in_doubt_nothing_new_begins_and_nothing_is_dropped(how: str) -> None:
    async with losing() as place:
        here, there = place.here, place.there
        owned = await here.begin("r1", "a")
        await there.reserve("r2", "else")
        await getattr(place, how)()
        await there.reserve("r2", "else")
        with pytest.raises(LogUnavailable):
            await there.log.claim(
                op(),
                there.request("r2"),
                there.ref("else"),
                there.spec("r2"),
                base=Base(),
                on_busy=OnBusy.QUEUE,
                queue_limit=5,
            )
        with pytest.raises(LogUnavailable):
            await there.log.delete(op(), there.ref())
        for look in (there.log.position, there.log.live):
            with pytest.raises(LogUnavailable):
                await look(there.ref("new"))
        with pytest.raises(LogUnavailable):
            await there.log.emit(op(), there.ref("new"), [])
        assert await there.log.trim() == 0
        await place.past_the_lease()
        assert await there.log.orphans() == []
        assert await there.log.take_over(op(), owned.request) is None
        await place.settle()
        assert (await there.claim("r2", conversation="else")).owned.ordinal == 1
        assert (await there.log.position(there.ref("new"))).seq == 0


async def test_what_is_there_can_be_read_and_asked_for_while_in_doubt() -> None:
    async with losing() as place:
        await place.here.begin("r1", "a")
        await place.restart()
        there = place.there
        assert await there.texts() == ["a"]
        assert (await there.log.position(there.ref())).seq == 1
        assert await there.log.running([there.ref()]) == {there.ref()}
        info = await there.log.request(there.request("r1"))
        assert info is not None
        assert (await there.cancel("r1")).outcome is PostOutcome.STORED
        assert await there.log.ping() == []


@pytest.mark.parametrize("by", ["here", "there"])
async def test_what_comes_while_in_doubt_waits_until_its_own_part_is_settled(
    by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts are settled one by one: a server that was just started on an empty Redis answers its first client."""
    monkeypatch.setattr(redis_log_module, "_DOUBT_WAIT_S", 5.0)
    async with losing() as place:
        kit: LogKit = place.here
        await place.lose_everything()
        doubts = list(await kit.log.in_doubt())
        own = kit.log.partition(kit.ref("new"))
        doubts.sort(key=lambda doubt: doubt.partition == own)
        found = []

        async def look() -> None:
            found.append(await kit.log.position(kit.ref("new")))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(look)
            for doubt in doubts:
                await anyio.wait_all_tasks_blocked()
                assert found == []
                await getattr(place, by).log.settle(doubt)
        assert found[0].seq == 0


async def test_an_outdated_incarnation_settles_nothing() -> None:
    async with losing() as place:
        await place.restart()
        old = await place.here.log.in_doubt()
        await place.lose_everything()
        for doubt in old:
            await place.here.log.settle(doubt)
        doubts = await place.here.log.in_doubt()
        assert len(doubts) == PARTITIONS
        await place.here.log.settle(Doubt(0, "never was", 9.0))
        assert await place.here.log.in_doubt() == doubts


async def test_nobody_is_taken_over_within_the_first_lease_time_after_a_loss() -> None:
    async with losing() as place:
        here, there = place.here, place.there
        running, handed = await here.begin("r1", "a"), await here.begin("r2", "b", conversation="else")
        await here.log.hand_over(handed.request, handed.fence)
        await place.past_the_lease()
        assert len(await there.log.orphans()) == 2
        await place.restart()
        await place.settle()
        for request in (running.request, handed.request):
            assert await there.log.orphans() == []
            assert await there.log.take_over(op(), request) is None
        for seconds in (LEASE_S / 2, LEASE_S / 2 - 0.001):
            place.clock.forward(seconds)
            assert await there.log.orphans() == []
            assert await there.log.take_over(op(), running.request) is None
        place.clock.forward(0.001)
        assert {info.request for info in await there.log.orphans()} == {running.request, handed.request}
        for request, run in ((running.request, 2), (handed.request, 1)):
            taken = await there.log.take_over(op(), request)
            assert taken is not None
            assert taken.run == run


async def test_what_is_handed_over_since_the_loss_is_free_at_once() -> None:
    async with losing() as place:
        owned = await place.here.begin("r1", "a")
        await place.restart()
        await put_back(place.here, owned, 1)
        assert await place.here.log.hand_over(owned.request, owned.fence)
        assert [info.request for info in await place.there.log.orphans()] == [owned.request]
        assert await place.there.log.take_over(op(), owned.request) is not None


# --- re-entry ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["restart", "lose_everything"])
async def test_a_living_owner_puts_its_turn_back_and_goes_on_under_its_fence(how: str) -> None:
    async with losing() as place:
        here, there = place.here, place.there
        await here.end(await here.begin("r0", "before"))
        owned = await here.begin("r1", "a", "b")
        kept = 0 if how == "lose_everything" else 4
        await getattr(place, how)()
        epoch = await put_back(here, owned, 3)
        assert epoch != owned.epoch
        live = await there.log.live(there.ref())
        assert (live.position.epoch, live.position.seq, live.base) == (
            epoch,
            kept,
            Base(2, "answer-r1", is_fresh=False),
        )
        (request,) = live.requests
        assert (request.checkpoint, request.checkpoint_seq, request.is_parked) == ({"events": 3}, kept, False)
        said = await here.say(owned, 3, "c", epoch=epoch)
        assert [entry.seq for entry in said.entries] == [kept + 1]
        assert said.epoch == epoch
        info = await there.log.request(owned.request, owned.conversation)
        assert info is not None
        assert (info.phase, info.state, info.run, info.ordinal) == (Phase.RUNNING, "streaming", 1, 2)
        await place.settle()
        assert (await there.claim("r2", base=Base(2, "answer-r1"))).behind == "r1"
        await here.end(owned)


@pytest.mark.parametrize("how", ["restart", "lose_everything"])
async def test_an_owner_with_nothing_to_write_is_told_to_ask(how: str) -> None:
    """Its turn may be waiting for a provider that thinks for longer than the living have to show themselves."""
    async with redis_with_a_short_lease() as (redis, here, there):
        owned = await here.begin("r1", "a")
        async with listening(here.log) as ear:
            await ear.until(lambda: bool(ear.positions) or bool(ear.orphans))
            if how == "restart":
                await redis.kill()
                await redis.start()
            else:
                await redis.flushall()
            await ear.until(lambda: owned.request in ear.missing)
            await put_back(here, owned, 1)
            await settle(there.log)
            # And from now on its lease is kept as before: nobody ever finds it without an owner.
            with anyio.move_on_after(2.5 * _SHORT_LEASE_S):
                while True:
                    assert await there.log.orphans() == []
                    await anyio.sleep(_SHORT_LEASE_S / 10)


async def test_a_turn_that_was_put_back_is_found_by_its_id_again() -> None:
    """Even by a node that has looked for it meanwhile and did not find it."""
    async with losing() as place:
        owned = await place.here.begin("r1", "a")
        await place.lose_everything()
        assert await place.here.log.request(owned.request) is None
        epoch = await put_back(place.here, owned, 1)
        info = await place.there.log.request(owned.request)
        assert info is not None
        assert info.fingerprint == "print-r1"
        await place.here.say(owned, 1, "b", epoch=epoch)
        assert isinstance(await place.here.end(owned), Finished)


async def test_a_repeated_re_entry_is_one_re_entry() -> None:
    async with losing() as place:
        owned = await place.here.begin("r1", "a")
        await place.lose_everything()
        epoch = await put_back(place.here, owned, 1)
        (answer,) = await place.here.log.append([again(owned, 1)])
        assert isinstance(answer, Appended)
        assert answer.epoch == epoch
        await place.here.say(owned, 1, "b", epoch=epoch)
        (answer,) = await place.here.log.append([again(owned, 1)])
        assert isinstance(answer, Appended)
        assert (answer.epoch, list(answer.entries)) == (epoch, [])
        assert await place.here.texts() == ["b"]


async def test_what_was_said_to_it_and_not_lost_is_heard_by_the_re_entry() -> None:
    async with losing() as place:
        owned = await place.here.begin("r1", "a")
        await place.restart()
        await place.there.cancel("r1")
        (answer,) = await place.here.log.append([again(owned, 1)])
        assert isinstance(answer, Appended)
        assert [intent.kind for intent in answer.intents] == ["cancel"]


async def test_a_turn_cannot_come_back_once_its_part_is_settled() -> None:
    async with losing() as place:
        owned = await place.here.begin("r1", "a")
        await place.lose_everything()
        await place.settle()
        assert await place.here.log.append([place.here.append(owned, 1, "b", epoch=owned.epoch)]) == [Fenced()]
        assert await place.here.log.append([again(owned, 1)]) == [Fenced()]
        assert (await place.there.log.position(place.there.ref())).seq == 0


@pytest.mark.parametrize("how", ["restart", "lose_everything"])
async def test_a_turn_cannot_come_back_once_another_has_it(how: str) -> None:
    async with losing() as place:
        here, there = place.here, place.there
        owned = await here.begin("r1", "a")
        await getattr(place, how)()
        await there.log.in_doubt()
        await place.past_the_lease()
        spec = {**owned.spec, "ordinal": 1}
        await there.log.rebuild(op(), there.ref(), Base(1, "answer-r1"), [(owned.request, spec)])
        await place.settle()
        taken = await there.log.take_over(op(), owned.request)
        assert taken is not None
        assert taken.fence > owned.fence
        assert await here.log.append([again(owned, 1)]) == [Fenced()]
        assert (
            await here.log.seal(
                op(), owned.request, owned.fence, ending(), taken=0, epoch=owned.epoch, home=owned.conversation
            )
            == Fenced()
        )
        await there.say(taken, taken.n, "theirs")


@pytest.mark.parametrize("is_kept", [True, False], ids=["an older copy", "nothing"])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["earlier first", "later first"])
async def test_of_two_that_owned_the_turn_the_later_keeps_it(is_kept: bool, order: tuple[int, int]) -> None:
    """A take-over is among what was lost, and the earlier owner lives. Both put the turn back, in either order."""
    async with losing() as place:
        first = await place.here.begin("r1", "a")
        place.keep()
        await place.past_the_lease()
        second = await place.there.log.take_over(op(), first.request)
        assert second is not None
        if is_kept:
            await place.go_back()
        else:
            await place.lose_everything()
        nodes = ((place.here, first), (place.there, second))
        answers: dict[int, object] = {}
        for which in order:
            kit, owned = nodes[which]
            (answers[which],) = await kit.log.append([again(owned, 1)])
        assert isinstance(answers[1], Appended)
        assert isinstance(answers[0], Appended) == (order == (0, 1)), "at first nobody can know better"
        assert await place.here.log.append([place.here.append(first, 1, "x")]) == [Fenced()]
        assert await place.here.log.append([again(first, 1)]) == [Fenced()]
        await place.there.say(second, 1, "y")


async def test_what_was_asked_before_another_loss_counts_no_more() -> None:
    """Between the two a successor may have come, and gone with the second."""
    async with losing() as place:
        here = place.here
        owned = await here.begin("r1", "a")
        asked_in = []
        for _ in range(2):
            await place.lose_everything()
            (forgotten,) = await here.log.append([here.append(owned, 1, "not yet", epoch=owned.epoch)])
            assert isinstance(forgotten, Forgotten)
            asked_in.append(forgotten.incarnation)
        assert len({"", *asked_in}) == 3
        assert await here.log.append([again(owned, 1, incarnation=asked_in[0])]) == [Forgotten()]
        (back,) = await here.log.append([again(owned, 1, incarnation=asked_in[1])])
        assert isinstance(back, Appended)
        await here.say(owned, 1, "b")


async def test_what_is_entered_again_gets_a_higher_fence_than_any_before() -> None:
    """Redis' time may have been set back."""
    async with losing() as place:
        owned = await place.here.begin("r1", "a")
        await place.lose_everything()
        await place.there.log.in_doubt()
        await place.past_the_lease()
        spec, above = {**owned.spec, "ordinal": 1}, owned.fence + 10**12
        await place.there.log.rebuild(
            op(), place.there.ref(), Base(1, "answer-r1"), [(owned.request, spec)], above=above
        )
        await place.settle()
        taken = await place.there.log.take_over(op(), owned.request)
        assert taken is not None
        assert taken.fence > above


async def test_those_that_waited_wait_again_in_their_order() -> None:
    async with losing() as place:
        here, there = place.here, place.there
        first = await here.begin("r1", "a")
        specs = []
        for request_id in ("r2", "r3"):
            queued = await there.begin(request_id, "created", "queued")
            specs.append((queued.request, {**queued.spec, "ordinal": queued.ordinal}))
        await place.lose_everything()
        await put_back(here, first, 1)
        await place.past_the_lease()
        entered = await there.log.rebuild(op(), there.ref(), Base(3, "answer-r3"), specs)
        assert [request.request_id for request in entered] == ["r2", "r3"]
        await place.settle()
        finished = await here.end(first)
        assert finished.next is not None
        assert (finished.next.request, finished.next.is_rebuilt) == (here.request("r2"), True)
        assert list(finished.waiting) == ["r3"]
        assert (await there.claim("r4")).owned.ordinal == 4


# --- endings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["restart", "lose_everything"])
async def test_a_seal_of_a_forgotten_turn_waits_until_its_owner_has_put_it_back(how: str) -> None:
    """The seal put it back itself, before its owner could ask the archive whether it had a successor."""
    async with losing() as place:
        owned = await place.here.begin("r1", "a")
        await getattr(place, how)()
        once = op()

        async def seal() -> object:
            return await place.here.log.seal(
                once, owned.request, owned.fence, ending(), taken=0, epoch=owned.epoch, home=owned.conversation
            )

        for _ in range(2):
            assert await seal() == Forgotten()
        await put_back(place.here, owned, 5)
        (live,) = (await place.there.log.live(place.there.ref())).requests
        assert live.checkpoint == {"events": 5}
        assert await seal() == Sealed(ending())
        assert await seal() == Sealed(ending())
        finished = await place.here.finish(owned, epoch=owned.epoch, reentry=reentry(owned, 5, ending=ending()))
        assert len(finished.entries) == 1


async def test_a_cancel_that_came_in_doubt_is_not_passed_by_the_seal() -> None:
    async with losing() as place:
        owned = await place.here.begin("r1", "a")
        await place.lose_everything()
        once = op()

        async def seal(outcome: str) -> object:
            return await place.here.log.seal(
                once, owned.request, owned.fence, ending(outcome), taken=0, epoch=owned.epoch, home=owned.conversation
            )

        assert await seal("completed") == Forgotten()
        await put_back(place.here, owned, 1)
        assert (await place.there.cancel("r1", conversation=owned.conversation)).outcome is PostOutcome.STORED
        assert type(await seal("completed")).__name__ == "Unheard"
        assert await seal("cancelled") == Sealed(ending("cancelled"))


async def test_an_unknown_request_is_not_sealed_in_doubt_without_its_story() -> None:
    async with losing() as place:
        owned = await place.here.begin("r1", "a")
        await place.lose_everything()
        assert await place.here.log.seal(op(), owned.request, owned.fence, ending(), taken=0) == Fenced()


@pytest.mark.parametrize("how", ["restart", "lose_everything"])
async def test_a_forgotten_turn_is_finished_in_one_step(how: str) -> None:
    async with losing() as place:
        here, there = place.here, place.there
        owned = await here.begin("r1", "a")
        await here.seal(owned)
        await getattr(place, how)()
        once = op()
        story = reentry(owned, 1, ending=ending())
        answers = [
            await here.log.finish(
                once, owned.request, owned.fence, [ended(owned)], archived=False, epoch=owned.epoch, reentry=story
            )
            for _ in range(2)
        ]
        for answer in answers:
            assert isinstance(answer, Finished)
            assert [entry.seq for entry in answer.entries] == [1 if how == "lose_everything" else 2]
        (kept,) = await there.log.unarchived()
        assert (kept.request, kept.ending) == (owned.request, ending())
        live = await there.log.live(there.ref())
        assert (live.requests, live.base.ordinal, live.base.head) == ([], 1, "answer-r1")
        await here.log.archived(owned.request)
        await place.settle()
        assert (await there.claim("r2")).owned.spec["parent_id"] == "answer-r1"


async def test_what_was_finished_stays_finished_after_a_restart() -> None:
    async with losing() as place:
        owned = await place.here.begin("r1", "a")
        await place.here.end(owned)
        await place.restart()
        answer = await place.here.log.finish(
            op(),
            owned.request,
            owned.fence,
            [ended(owned)],
            epoch=owned.epoch,
            reentry=reentry(owned, 1, ending=ending()),
        )
        assert isinstance(answer, Finished)
        assert await place.there.texts() == ["a", "<message.completed>"]


async def test_a_finish_that_comes_too_late_ends_nothing_twice() -> None:
    async with losing() as place:
        owned = await place.here.begin("r1", "a")
        await place.here.seal(owned)
        await place.lose_everything()
        await place.settle()
        answer = await place.here.log.finish(
            op(),
            owned.request,
            owned.fence,
            [ended(owned)],
            epoch=owned.epoch,
            reentry=reentry(owned, 1, ending=ending()),
        )
        assert answer == Fenced()


# --- rebuild ----------------------------------------------------------------------------------------------------


async def test_a_rebuild_enters_what_is_unknown_once_and_begins_another_epoch() -> None:
    async with losing() as place:
        there = place.there
        await place.lose_everything()
        specs = [(there.request(f"r{n}"), there.spec(f"r{n}", ordinal=n, parent_id=None)) for n in (4, 2, 3)]
        once = op()
        entered = [await there.log.rebuild(once, there.ref(), Base(4, "answer-r4"), specs) for _ in range(2)]
        assert [request.request_id for request in entered[0]] == ["r2", "r3", "r4"]
        assert entered[0] == entered[1]
        epoch = (await there.log.position(there.ref())).epoch
        assert list(await there.log.rebuild(op(), there.ref(), Base(4, "answer-r4"), specs)) == []
        assert (await there.log.position(there.ref())).epoch == epoch, "nothing was entered"
        more = (there.request("r5"), there.spec("r5", ordinal=5, parent_id=None))
        assert list(await there.log.rebuild(op(), there.ref(), Base(5, "answer-r5"), [*specs, more])) == [more[0]]
        assert (await there.log.position(there.ref())).epoch != epoch
        orphans = await there.log.orphans()
        assert [(info.request.request_id, info.phase) for info in orphans] == [
            ("r2", Phase.RUNNING),
            ("r3", Phase.QUEUED),
            ("r4", Phase.QUEUED),
            ("r5", Phase.QUEUED),
        ]
        taken = await there.log.take_over(op(), there.request("r2"))
        assert taken is not None
        assert (taken.is_rebuilt, taken.n, taken.run) == (True, 0, 1)
        assert not (await there.log.reserve(op(), there.request("r3"), "talk", "ann", "print-r3")).fresh


async def test_a_rebuild_leaves_what_has_come_back_alone() -> None:
    async with losing() as place:
        here, there = place.here, place.there
        owned = await here.begin("r1", "a")
        await place.lose_everything()
        epoch = await put_back(here, owned, 1)
        spec = {**owned.spec, "ordinal": 1}
        assert list(await there.log.rebuild(op(), there.ref(), Base(1, "answer-r1"), [(owned.request, spec)])) == []
        await here.say(owned, 1, "b", epoch=epoch)
        assert (await there.log.position(there.ref())).epoch == epoch


# --- what does not lose -----------------------------------------------------------------------------------------


async def test_a_server_that_writes_everything_down_keeps_its_epoch_over_a_restart() -> None:
    clock = Clock()
    async with running_redis(appendonly="yes", appendfsync="always") as redis:
        async with redis_nodes(1, url=redis.url, clock=clock, durability="always") as (kit,):
            owned = await kit.begin("r1", "a")
            await redis.kill()
            await redis.start()
            said = await kit.say(owned, 1, "b", epoch=owned.epoch)
            assert said.epoch == owned.epoch
            assert await kit.log.in_doubt() == []
            assert isinstance(await kit.try_claim("r2"), Claimed)
            assert await kit.texts() == ["a", "b"]
            await redis.flushall()
            assert len(await kit.log.in_doubt()) == PARTITIONS, "but nobody keeps what is deleted"


async def test_an_older_copy_of_the_data_is_another_incarnation() -> None:
    async with losing() as place:
        owned = await place.here.begin("r1", "a")
        place.keep()
        await place.here.say(owned, 1, "lost")
        await place.go_back()
        position = await place.there.log.position(place.there.ref())
        assert position.seq == 1
        assert position.epoch != owned.epoch
        epoch = await put_back(place.here, owned, 2)
        said = await place.here.say(owned, 2, "c", epoch=epoch)
        assert [entry.seq for entry in said.entries] == [2]
        assert epoch not in (owned.epoch, position.epoch)


async def test_after_a_loss_the_archive_is_asked_once_for_what_is_newest() -> None:
    """The log went on from its own older state: two requests got one ordinal, and the lost one was in no history."""
    async with losing() as place:
        here, there = place.here, place.there
        await here.end(await here.begin("r1"))
        place.keep()
        await here.end(await here.begin("r2"))
        await place.go_back()
        assert (await there.log.live(there.ref())).base == Base(1, "answer-r1", is_fresh=False)
        await place.settle()
        assert await there.try_claim("r3", base=Base(2, "answer-r2", is_fresh=False)) == Outdated()
        claimed = await there.claim("r3", base=Base(2, "answer-r2"))
        assert (claimed.owned.ordinal, claimed.owned.spec["parent_id"]) == (3, "answer-r2")
        assert (await there.log.live(there.ref())).base.is_fresh
        assert (await there.claim("r4", base=Base(2, "answer-r2", is_fresh=False))).owned.ordinal == 4


async def test_engines_that_open_after_a_loss_find_it_in_doubt() -> None:
    async with losing() as place:
        await place.lose_everything()
        log = redis_engine(place.redis.url, prefix=place.here.log._prefix, clock=place.clock)  # type: ignore[attr-defined]
        await log.open()
        try:
            assert len(await log.in_doubt()) == PARTITIONS
        finally:
            await log.aclose()
