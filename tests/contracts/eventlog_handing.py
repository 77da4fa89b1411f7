"""The contract of `EventLog`, fifth part: a turn that its owner gives up, for good or until something happens."""

from __future__ import annotations

import pytest

from turnwire_server.eventlog.base import Base, Claimed, Fenced, Outdated, Owned, Phase, PostOutcome

from .eventlog_writing import member
from .kit import RETENTION_S, LogKit, ended, ending, op

_HOUR_S = 3600


async def orphans(kit: LogKit) -> list[str]:
    return [info.request.request_id for info in await kit.log.orphans()]


async def taken(kit: LogKit, request_id: str = "r1") -> Owned:
    owned = await kit.log.take_over(op(), kit.request(request_id))
    assert owned is not None
    return owned


async def parked(kit: LogKit, request_id: str = "r1") -> Owned:
    """A turn that waits for a person, for an hour at most. It has said more than its checkpoint in the log holds."""
    owned = await kit.begin(request_id, "a", checkpoint={"so": "far"})
    await kit.say(owned, 1, "b")
    assert await kit.log.hand_over(owned.request, owned.fence, parked_until=in_an_hour(kit))
    return owned


def in_an_hour(kit: LogKit) -> int:
    return int((kit.clock.now + _HOUR_S) * 1000)


class HandingOver:
    async def test_a_turn_that_is_handed_over_is_an_orphan_at_once(self, kit: LogKit) -> None:
        owned = await kit.begin("r1")
        assert await kit.log.hand_over(owned.request, owned.fence)
        assert await orphans(kit) == ["r1"]
        info = await kit.log.request(owned.request)
        assert info is not None
        assert (info.phase, info.run) == (Phase.RUNNING, 1)

    async def test_its_next_owner_is_no_further_run_and_gets_all_that_is_known_of_it(self, kit: LogKit) -> None:
        owned = await kit.begin("r1", "a", "b", checkpoint={"so": "far"})
        await kit.say(owned, 2, "c")
        await kit.cancel("r1")
        await kit.log.hand_over(owned.request, owned.fence)
        got = await taken(kit)
        assert (got.run, got.n, got.phase, got.epoch) == (1, 3, Phase.RUNNING, owned.epoch)
        assert got.fence > owned.fence
        assert (got.checkpoint, got.checkpoint_seq) == ({"so": "far"}, 2)
        assert [intent.kind for intent in got.intents] == ["cancel"]
        assert await orphans(kit) == []
        await kit.say(got, 3, "d")
        assert await kit.texts() == ["a", "b", "c", "d"]

    async def test_the_former_owner_can_write_nothing_after_the_take_over(self, kit: LogKit) -> None:
        owned = await kit.begin("r1", "a")
        await kit.log.hand_over(owned.request, owned.fence)
        got = await taken(kit)
        assert await kit.log.append([kit.append(owned, 1, "ghost")]) == [Fenced()]
        assert await kit.log.seal(op(), owned.request, owned.fence, ending(), taken=0) == Fenced()
        await kit.seal(got)
        assert await kit.log.finish(op(), owned.request, owned.fence, [ended(owned)]) == Fenced()

    async def test_a_late_repeat_takes_nothing_from_the_next_owner(self, kit: LogKit) -> None:
        owned = await kit.begin("r1", "a")
        assert await kit.log.hand_over(owned.request, owned.fence)
        assert await kit.log.hand_over(owned.request, owned.fence)
        got = await taken(kit)
        assert not await kit.log.hand_over(owned.request, owned.fence)
        assert await orphans(kit) == []
        await kit.say(got, 1, "b")

    async def test_another_fence_is_refused(self, kit: LogKit) -> None:
        owned = await kit.begin("r1", "a")
        for fence in (owned.fence - 1, owned.fence + 1):
            assert not await kit.log.hand_over(owned.request, fence)
            assert not await kit.log.hand_over(owned.request, fence, parked_until=in_an_hour(kit))
        assert await orphans(kit) == []
        await kit.say(owned, 1, "b")

    async def test_only_what_runs_is_handed_over(self, kit: LogKit) -> None:
        first = await kit.begin("r1")
        queued = await kit.begin("r2")
        assert not await kit.log.hand_over(queued.request, queued.fence)
        await kit.seal(first)
        assert not await kit.log.hand_over(first.request, first.fence)
        await kit.finish(first)
        assert not await kit.log.hand_over(first.request, first.fence)
        assert not await kit.log.hand_over(kit.request("unknown"), 1)
        assert await orphans(kit) == []

    async def test_a_death_after_it_counts_again(self, kit: LogKit) -> None:
        owned = await kit.begin("r1")
        await kit.log.hand_over(owned.request, owned.fence)
        await taken(kit)
        await kit.restarted()
        assert (await taken(kit)).run == 2

    async def test_one_that_was_promised_but_never_begun_can_be_handed_over(self, kit: LogKit) -> None:
        owned = (await kit.claim("r1")).owned
        assert await kit.log.hand_over(owned.request, owned.fence)
        got = await taken(kit)
        assert (got.run, got.n) == (1, 0)
        await kit.say(got, 0, "a")

    async def test_those_behind_it_wait_on(self, kit: LogKit) -> None:
        owned = await kit.begin("r1")
        await kit.begin("r2")
        await kit.log.hand_over(owned.request, owned.fence)
        assert (await kit.claim("r3")).position == 2
        finished = await kit.end(await taken(kit))
        assert finished.next is not None
        assert finished.next.request == kit.request("r2")

    async def test_it_waits_for_the_next_start_of_a_node(self, kit: LogKit) -> None:
        owned = await kit.begin("r1")
        await kit.log.hand_over(owned.request, owned.fence)
        await kit.restarted()
        assert await orphans(kit) == ["r1"]
        assert (await taken(kit)).run == 1


class Parking:
    async def test_what_is_parked_is_no_orphan_and_nobodys(self, kit: LogKit) -> None:
        owned = await parked(kit)
        assert await orphans(kit) == []
        assert await kit.log.take_over(op(), owned.request) is None
        info = await kit.log.request(owned.request)
        assert info is not None
        assert (info.phase, info.run) == (Phase.PARKED, 1)
        await kit.restarted()
        assert await orphans(kit) == []
        assert await kit.log.take_over(op(), owned.request) is None

    async def test_its_former_owner_can_write_nothing(self, kit: LogKit) -> None:
        owned = await parked(kit)
        assert await kit.log.append([kit.append(owned, 2, "ghost")]) == [Fenced()]
        assert await kit.log.seal(op(), owned.request, owned.fence, ending(), taken=0) == Fenced()
        assert await kit.texts() == ["a", "b"]

    async def test_when_its_time_has_come_it_is_an_orphan_that_is_no_further_run(self, kit: LogKit) -> None:
        owned = await parked(kit)
        kit.clock.forward(_HOUR_S - 1)
        assert await orphans(kit) == []
        kit.clock.forward(1)
        assert await orphans(kit) == ["r1"]
        got = await taken(kit)
        assert (got.run, got.n, got.phase) == (1, 2, Phase.RUNNING)
        assert got.fence > owned.fence
        assert await orphans(kit) == []
        await kit.say(got, 2, "c")
        await kit.end(got)

    async def test_a_time_that_is_past_has_come(self, kit: LogKit) -> None:
        owned = await kit.begin("r1")
        await kit.log.hand_over(owned.request, owned.fence, parked_until=int(kit.clock.now * 1000))
        assert await orphans(kit) == ["r1"]

    @pytest.mark.parametrize("kind", ["cancel", "approve"])
    async def test_what_is_said_to_it_is_stored_and_wakes_it(self, kit: LogKit, kind: str) -> None:
        owned = await parked(kit)
        again = op()
        posts = [
            await kit.log.post(again, owned.request, kind, {"a": 1}, user_id="ann", ending=ending("cancelled"))
            for _ in range(2)
        ]
        assert [posted.outcome for posted in posts] == [PostOutcome.STORED] * 2
        assert await orphans(kit) == ["r1"]
        got = await taken(kit)
        assert (got.run, got.n) == (1, 2)
        assert list(got.intents) == [posts[0].intent]

    async def test_what_somebody_else_says_does_not_wake_it(self, kit: LogKit) -> None:
        await parked(kit)
        await kit.cancel("r1", user="bob")
        assert await orphans(kit) == []

    async def test_it_is_woken_once(self, kit: LogKit) -> None:
        await parked(kit)
        await kit.cancel("r1")
        got = await taken(kit)
        kit.clock.forward(_HOUR_S + 1)
        await kit.log.orphans()
        await kit.say(got, 2, "c")
        info = await kit.log.request(got.request)
        assert info is not None
        assert info.phase is Phase.RUNNING

    async def test_it_can_be_parked_again_by_its_next_owner_only(self, kit: LogKit) -> None:
        owned = await parked(kit)
        await kit.cancel("r1")
        got = await taken(kit)
        assert not await kit.log.hand_over(owned.request, owned.fence, parked_until=in_an_hour(kit))
        assert await kit.log.hand_over(got.request, got.fence, parked_until=in_an_hour(kit), taken=1)
        assert await orphans(kit) == []
        kit.clock.forward(_HOUR_S)
        assert (await taken_when_orphan(kit)).run == 1

    async def test_what_was_said_before_it_is_parked_is_not_slept_over(self, kit: LogKit) -> None:
        owned = await kit.begin("r1")
        await kit.cancel("r1")
        assert await kit.log.hand_over(owned.request, owned.fence, parked_until=in_an_hour(kit), taken=0)
        (intent,) = (await taken_when_orphan(kit)).intents
        assert intent.kind == "cancel"

    async def test_its_checkpoint_is_in_the_archive_and_no_longer_here(self, kit: LogKit) -> None:
        owned = await parked(kit)
        live = await kit.log.live(kit.ref())
        (request,) = live.requests
        assert (request.request_id, request.is_parked, request.checkpoint) == ("r1", True, None)
        assert request.checkpoint_seq == live.position.seq == 2, "nothing of it lies above"
        assert live.base.head == owned.spec["answer_id"]
        await kit.cancel("r1")
        got = await taken(kit)
        assert (got.checkpoint, got.checkpoint_seq) == (None, 2)

    async def test_a_woken_turn_is_in_the_archive_until_it_has_a_checkpoint_again(self, kit: LogKit) -> None:
        await parked(kit)
        await kit.log.emit(op(), kit.ref(), [member("bob")])
        await kit.cancel("r1")
        assert await live_of(kit) == [(True, None, 3)]
        got = await taken(kit)
        assert (got.checkpoint, got.checkpoint_seq) == (None, 3)
        await kit.say(got, 2, "c")
        assert await live_of(kit) == [(True, None, 3)], "what was said since is to be folded"
        await kit.say(got, 3, "d", checkpoint={"now": "here"})
        assert await live_of(kit) == [(False, {"now": "here"}, 5)]

    async def test_it_keeps_the_floor(self, kit: LogKit) -> None:
        await parked(kit)
        assert await kit.log.running([kit.ref()]) == {kit.ref()}
        assert (await kit.claim("r2")).behind == "r1"

    async def test_trimming_is_not_held_up_by_it(self, kit: LogKit) -> None:
        await parked(kit)
        kit.clock.forward(RETENTION_S + 1)
        await kit.log.trim()
        assert (await kit.log.position(kit.ref())).trimmed == 2
        (live,) = (await kit.log.live(kit.ref())).requests
        assert (live.is_parked, live.checkpoint_seq) == (True, 2)

    async def test_woken_after_a_trim_it_goes_on_and_keeps_what_it_says(self, kit: LogKit) -> None:
        await parked(kit)
        other = await kit.begin("r2", "b2", parent_id=None)
        kit.clock.forward(RETENTION_S + 1)
        await kit.log.trim()
        await kit.cancel("r1")
        got = await taken(kit)
        seq = (await kit.log.position(kit.ref())).seq
        assert got.checkpoint_seq >= 2, "the archive's checkpoint stands for all that was trimmed"
        await kit.say(got, 2, "c")
        kit.clock.forward(RETENTION_S + 1)
        await kit.log.trim()
        assert (await kit.texts(after=seq)) == ["c"]
        live = {request.request_id: request for request in (await kit.log.live(kit.ref())).requests}
        assert live["r1"].checkpoint_seq >= (await kit.log.position(kit.ref())).trimmed
        assert live[other.request.request_id].first_seq == 3

    async def test_however_long_it_waits_it_stays(self, kit: LogKit) -> None:
        owned = await kit.begin("r1", "a")
        until = int((kit.clock.now + 30 * 86_400) * 1000)
        await kit.log.hand_over(owned.request, owned.fence, parked_until=until)
        kit.clock.forward(29 * 86_400)
        await kit.log.trim()
        await kit.log.trim()
        assert await kit.log.request(owned.request) is not None
        assert (await kit.cancel("r1")).outcome is PostOutcome.STORED
        assert (await taken(kit)).n == 1

    async def test_a_rebuild_leaves_it_alone(self, kit: LogKit) -> None:
        owned = await parked(kit)
        spec = {**owned.spec, "ordinal": 1}
        assert list(await kit.log.rebuild(op(), kit.ref(), Base(1, "answer-r1"), [(owned.request, spec)])) == []
        assert await orphans(kit) == []

    async def test_deleted_it_wakes_no_more(self, kit: LogKit) -> None:
        await parked(kit)
        await kit.log.delete(op(), kit.ref())
        kit.clock.forward(_HOUR_S + 1)
        assert await orphans(kit) == []


async def taken_when_orphan(kit: LogKit) -> Owned:
    assert await orphans(kit) == ["r1"]
    return await taken(kit)


async def live_of(kit: LogKit) -> list[tuple[bool, object, int]]:
    requests = (await kit.log.live(kit.ref())).requests
    return [(request.is_parked, request.checkpoint, request.checkpoint_seq) for request in requests]


class Disowning:
    async def test_what_is_disowned_is_an_orphan_as_if_its_node_had_died(self, kit: LogKit) -> None:
        owned = await kit.begin("r1", "a")
        assert owned.request in await kit.log.mine()
        await kit.log.disown(owned.request)
        assert await orphans(kit) == ["r1"]
        got = await taken(kit)
        assert (got.run, got.n) == (2, 1)
        assert await kit.log.append([kit.append(owned, 1, "ghost")]) == [Fenced()]
        await kit.say(got, 1, "b")

    async def test_what_waits_or_is_sealed_counts_no_run(self, kit: LogKit) -> None:
        first = await kit.begin("r1")
        await kit.begin("r2")
        await kit.log.disown(kit.request("r2"))
        assert (await taken(kit, "r2")).run == 1
        await kit.seal(first)
        await kit.log.disown(first.request)
        got = await taken(kit)
        assert (got.run, got.ending) == (1, ending())
        await kit.finish(got)

    async def test_what_is_nobodys_or_not_known_stays_as_it_is(self, kit: LogKit) -> None:
        await kit.end(await kit.begin("r1"))
        await parked(kit, "r2")
        for request_id in ("r1", "r2", "unknown"):
            await kit.log.disown(kit.request(request_id))
        assert await orphans(kit) == []


class Placing:
    async def test_a_conversation_lies_in_one_part_always(self, kit: LogKit) -> None:
        refs = [kit.ref(f"talk-{n}") for n in range(50)]
        parts = [kit.log.partition(ref) for ref in refs]
        lanes = [kit.log.lane(ref) for ref in refs]
        assert [kit.log.partition(ref) for ref in refs] == parts
        await kit.restarted()
        assert [kit.log.partition(ref) for ref in refs] == parts
        assert [kit.log.lane(ref) for ref in refs] == lanes

    async def test_turns_of_one_lane_are_appended_together(self, kit: LogKit) -> None:
        turns = [await kit.begin(f"r{n}", "a", conversation=f"talk-{n}") for n in range(8)]
        lane = kit.log.lane(turns[0].conversation)
        together = [owned for owned in turns if kit.log.lane(owned.conversation) == lane]
        answers = await kit.log.append([kit.append(owned, 1, "b") for owned in together])
        assert len(answers) == len(together)
        for owned in together:
            assert await kit.texts(owned.conversation.conversation_id) == ["a", "b"]

    async def test_whoever_knows_where_a_request_lies_may_say_so(self, kit: LogKit) -> None:
        owned = await kit.begin("r1")
        info = await kit.log.request(owned.request, kit.ref())
        assert info is not None
        assert info.conversation == kit.ref()
        assert (await kit.cancel("r1", conversation=kit.ref())).outcome is PostOutcome.STORED

    async def test_a_wrong_place_finds_nothing_that_is_not_there(self, kit: LogKit) -> None:
        assert await kit.log.request(kit.request("unknown"), kit.ref("else")) is None
        assert (await kit.cancel("r1", conversation=kit.ref("else"))).outcome is PostOutcome.RECORDED
        assert len((await kit.claim("r1")).owned.intents) == 1

    async def test_this_node_does_its_chores(self, kit: LogKit) -> None:
        assert await kit.log.elect("sweep", 60)
        assert await kit.log.elect("sweep", 60)
        assert await kit.log.elect("look", 60)

    async def test_a_base_that_is_not_fresh_does_for_a_log_that_knows(self, kit: LogKit) -> None:
        await kit.end(await kit.begin("r1", base=Base(4, "archived")))
        claimed = await kit.claim("r2", base=Base(2, "old", is_fresh=False))
        assert (claimed.owned.ordinal, claimed.owned.spec["parent_id"]) == (6, "answer-r1")

    async def test_a_base_that_is_not_fresh_is_no_claim_where_the_log_has_forgotten(self, kit: LogKit) -> None:
        answer = await kit.try_claim("r1", base=Base(2, "old", is_fresh=False))
        if kit.log.is_shared:
            assert answer == Outdated()
            assert await kit.log.request(kit.request("r1")) is None
            assert await kit.log.running([kit.ref()]) == set()
            answer = await kit.try_claim("r1", base=Base(3, "new"))
        assert isinstance(answer, Claimed)
        assert answer.owned.ordinal == (4 if kit.log.is_shared else 3)

    async def test_nothing_that_was_not_lost_is_in_doubt(self, kit: LogKit) -> None:
        assert list(await kit.log.in_doubt()) == []
        assert await kit.log.ping() == []
        assert await kit.log.describe()
