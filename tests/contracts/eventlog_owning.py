"""The contract of `EventLog`, first part: who holds a request id, who has the floor, who owns a turn."""

from __future__ import annotations

import pytest

from turnwire_server.eventlog.base import Base, Busy, Fenced, OnBusy, Owned, Phase, RequestRef, ReservationLost

from .kit import RECORDED_CANCEL_S, RESERVATION_S, LogKit, ended, ending, op


class Reserving:
    async def test_a_free_id_is_taken(self, kit: LogKit) -> None:
        held = await kit.log.reserve(op(), kit.request("r1"), "talk", "ann", "print")
        assert held.fresh
        assert (held.conversation_id, held.user_id, held.fingerprint) == ("talk", "ann", "print")

    async def test_the_same_content_may_go_on_to_claim_a_reservation(self, kit: LogKit) -> None:
        assert await kit.reserve("r1")
        assert await kit.reserve("r1")

    @pytest.mark.parametrize("other", [("else", "ann", "p"), ("talk", "bob", "p"), ("talk", "ann", "q")])
    async def test_other_content_learns_who_holds_the_id(self, kit: LogKit, other: tuple[str, str, str]) -> None:
        await kit.log.reserve(op(), kit.request("r1"), "talk", "ann", "p")
        held = await kit.log.reserve(op(), kit.request("r1"), *other)
        assert not held.fresh
        assert (held.conversation_id, held.user_id, held.fingerprint) == ("talk", "ann", "p")

    async def test_a_claimed_id_is_not_fresh(self, kit: LogKit) -> None:
        await kit.claim("r1")
        assert not await kit.reserve("r1")

    async def test_a_finished_id_is_not_fresh(self, kit: LogKit) -> None:
        await kit.end(await kit.begin("r1"))
        assert not await kit.reserve("r1")

    async def test_a_reservation_without_a_claim_lapses(self, kit: LogKit) -> None:
        await kit.log.reserve(op(), kit.request("r1"), "talk", "ann", "p")
        kit.clock.forward(RESERVATION_S + 1)
        assert (await kit.log.reserve(op(), kit.request("r1"), "talk", "bob", "q")).fresh

    async def test_tenants_do_not_share_ids(self, kit: LogKit) -> None:
        await kit.log.reserve(op(), kit.request("r1"), "talk", "ann", "p")
        assert (await kit.log.reserve(op(), RequestRef("other", "r1"), "talk", "bob", "q")).fresh

    async def test_a_reservation_is_no_request_yet(self, kit: LogKit) -> None:
        await kit.reserve("r1")
        assert await kit.log.request(kit.request("r1")) is None
        assert await kit.log.running([kit.ref()]) == set()


class Claiming:
    async def test_the_first_claim_runs(self, kit: LogKit) -> None:
        claimed = await kit.claim("r1", color="red")
        owned = claimed.owned
        position = await kit.log.position(kit.ref())
        assert claimed.mine
        assert (claimed.position, claimed.behind, claimed.seq) == (None, None, 0)
        assert (owned.phase, owned.ordinal, owned.run, owned.n, owned.taken) == (Phase.RUNNING, 1, 1, 0, 0)
        assert (owned.first_seq, owned.epoch) == (1, position.epoch)
        assert (owned.request, owned.conversation) == (kit.request("r1"), kit.ref())
        assert owned.spec == {**kit.spec("r1"), "color": "red", "parent_id": None}
        assert (owned.checkpoint, owned.ending, owned.intents) == (None, None, ())

    async def test_a_claim_needs_a_reservation(self, kit: LogKit) -> None:
        with pytest.raises(ReservationLost):
            await kit.log.claim(
                op(), kit.request("r1"), kit.ref(), kit.spec("r1"), base=Base(), on_busy=OnBusy.QUEUE, queue_limit=1
            )
        assert await kit.log.request(kit.request("r1")) is None

    async def test_events_of_a_claim_lie_above_its_seq(self, kit: LogKit) -> None:
        first = await kit.begin("r1", "a", "b")
        claimed = await kit.claim("r2")
        assert (claimed.seq, claimed.owned.first_seq) == (2, 3)
        await kit.end(first)

    async def test_later_claims_wait_in_line(self, kit: LogKit) -> None:
        await kit.begin("r1")
        second, third = await kit.claim("r2"), await kit.claim("r3")
        assert (second.owned.phase, second.position, second.behind) == (Phase.QUEUED, 1, "r1")
        assert (third.owned.phase, third.position, third.behind) == (Phase.QUEUED, 2, "r1")
        info = await kit.log.request(kit.request("r3"))
        assert info is not None
        assert (info.state, info.phase, info.position) == ("queued", Phase.QUEUED, 2)

    async def test_a_claim_that_will_not_wait_is_refused_and_leaves_nothing(self, kit: LogKit) -> None:
        await kit.begin("r1")
        assert await kit.try_claim("r2", on_busy=OnBusy.REJECT) == Busy("r1", full=False)
        assert await kit.log.request(kit.request("r2")) is None
        assert (await kit.claim("r3")).owned.ordinal == 2

    async def test_a_full_queue_refuses(self, kit: LogKit) -> None:
        await kit.begin("r1")
        await kit.claim("r2", queue_limit=2)
        await kit.claim("r3", queue_limit=2)
        assert await kit.try_claim("r4", queue_limit=2) == Busy("r1", full=True)

    async def test_a_queue_of_none_refuses_the_second(self, kit: LogKit) -> None:
        await kit.claim("r1", queue_limit=0)
        assert await kit.try_claim("r2", queue_limit=0) == Busy("r1", full=True)

    async def test_conversations_do_not_wait_for_each_other(self, kit: LogKit) -> None:
        await kit.begin("r1")
        assert (await kit.claim("r2", conversation="else")).owned.phase is Phase.RUNNING

    async def test_a_finished_request_is_waited_for_no_more(self, kit: LogKit) -> None:
        await kit.end(await kit.begin("r1"))
        assert (await kit.claim("r2", on_busy=OnBusy.REJECT)).owned.phase is Phase.RUNNING

    async def test_a_sealed_request_is_waited_for_until_it_is_finished(self, kit: LogKit) -> None:
        owned = await kit.begin("r1")
        await kit.seal(owned)
        assert await kit.try_claim("r2", on_busy=OnBusy.REJECT) == Busy("r1")

    async def test_without_a_parent_the_newest_answer_becomes_it(self, kit: LogKit) -> None:
        await kit.begin("r1")
        assert (await kit.claim("r2")).owned.spec["parent_id"] == "answer-r1"
        assert (await kit.claim("r3")).owned.spec["parent_id"] == "answer-r2"

    @pytest.mark.parametrize("parent", ["chosen", None])
    async def test_a_given_parent_stays(self, kit: LogKit, parent: str | None) -> None:
        await kit.begin("r1")
        assert (await kit.claim("r2", parent_id=parent)).owned.spec["parent_id"] == parent
        assert (await kit.claim("r3")).owned.spec["parent_id"] == "answer-r2"

    async def test_a_log_that_has_forgotten_goes_on_from_the_archive(self, kit: LogKit) -> None:
        first = (await kit.claim("r1", base=Base(7, "archived"))).owned
        assert (first.ordinal, first.spec["parent_id"]) == (8, "archived")
        second = (await kit.claim("r2", base=Base(7, "archived"))).owned
        assert (second.ordinal, second.spec["parent_id"]) == (9, "answer-r1")

    async def test_another_claim_of_the_same_request_owns_nothing(self, kit: LogKit) -> None:
        first = await kit.claim("r1")
        second = await kit.claim("r1", color="ignored")
        assert not second.mine
        assert second.owned == first.owned

    async def test_a_recorded_cancel_is_heard_by_the_claim(self, kit: LogKit) -> None:
        await kit.cancel("r1")
        (intent,) = (await kit.claim("r1")).owned.intents
        assert (intent.k, intent.kind, intent.body) == (1, "cancel", {"by": "ann"})

    async def test_a_cancel_recorded_by_another_user_is_not_heard(self, kit: LogKit) -> None:
        await kit.cancel("r1", user="bob")
        assert (await kit.claim("r1")).owned.intents == ()

    async def test_a_recorded_cancel_lapses(self, kit: LogKit) -> None:
        await kit.cancel("r1")
        kit.clock.forward(RECORDED_CANCEL_S + 1)
        assert (await kit.claim("r1")).owned.intents == ()

    async def test_a_cancel_is_recorded_afresh_by_its_repeat(self, kit: LogKit) -> None:
        await kit.cancel("r1")
        kit.clock.forward(RECORDED_CANCEL_S - 1)
        await kit.cancel("r1")
        kit.clock.forward(RECORDED_CANCEL_S - 1)
        assert len((await kit.claim("r1")).owned.intents) == 1


class Releasing:
    async def test_a_released_reservation_is_free_for_other_content(self, kit: LogKit) -> None:
        await kit.log.reserve(op(), kit.request("r1"), "talk", "ann", "p")
        assert await kit.log.release(op(), kit.request("r1")) is None
        assert (await kit.log.reserve(op(), kit.request("r1"), "else", "bob", "q")).fresh

    async def test_an_absent_request_is_no_error(self, kit: LogKit) -> None:
        assert await kit.log.release(op(), kit.request("r1")) is None

    async def test_a_released_claim_is_as_if_it_had_never_been(self, kit: LogKit) -> None:
        await kit.end(await kit.begin("r0"))
        await kit.claim("r1")
        assert await kit.log.release(op(), kit.request("r1")) is None
        assert await kit.log.request(kit.request("r1")) is None
        assert await kit.log.running([kit.ref()]) == set()
        assert (await kit.claim("r2", on_busy=OnBusy.REJECT)).owned.spec["parent_id"] == "answer-r0"

    async def test_a_released_claim_gives_the_floor_to_the_next(self, kit: LogKit) -> None:
        await kit.claim("r1")
        await kit.claim("r2")
        await kit.claim("r3")
        following = await kit.log.release(op(), kit.request("r1"))
        assert following is not None
        assert (following.request, following.phase) == (kit.request("r2"), Phase.RUNNING)
        assert following.fence > kit.claims["r2"].owned.fence

    async def test_a_released_queued_claim_lets_the_others_move_up(self, kit: LogKit) -> None:
        await kit.begin("r1")
        await kit.claim("r2")
        await kit.claim("r3")
        assert await kit.log.release(op(), kit.request("r2")) is None
        info = await kit.log.request(kit.request("r3"))
        assert info is not None
        assert info.position == 1

    async def test_what_has_been_shown_is_not_released(self, kit: LogKit) -> None:
        owned = await kit.begin("r1")
        await kit.claim("r2")
        assert await kit.log.release(op(), kit.request("r1")) is None
        await kit.say(owned, 1, "still mine")
        assert (await kit.claim("r3")).position == 2

    async def test_a_late_repeat_of_a_release_takes_nothing_from_a_new_claim(self, kit: LogKit) -> None:
        again = op()
        await kit.claim("r1")
        await kit.log.release(again, kit.request("r1"))
        claimed = await kit.claim("r1")
        await kit.log.release(again, kit.request("r1"))
        await kit.say(claimed.owned, 0, "mine")


class TakingOver:
    async def test_what_lives_here_is_no_orphan_and_not_taken(self, kit: LogKit) -> None:
        await kit.begin("r1")
        assert await kit.log.orphans() == []
        assert await kit.log.take_over(op(), kit.request("r1")) is None

    async def test_a_running_turn_is_taken_with_all_that_is_known_of_it(self, kit: LogKit) -> None:
        owned = await kit.begin("r1", "a", "b", checkpoint={"so": "far"})
        await kit.say(owned, 2, "c")
        await kit.cancel("r1")
        await kit.restarted()
        assert [info.request.request_id for info in await kit.log.orphans()] == ["r1"]
        taken = await kit.log.take_over(op(), kit.request("r1"))
        assert taken is not None
        assert (taken.run, taken.n, taken.phase) == (2, 3, Phase.RUNNING)
        assert taken.fence > owned.fence
        assert (taken.checkpoint, taken.checkpoint_seq) == ({"so": "far"}, 2)
        assert (taken.spec, taken.first_seq, taken.epoch) == (owned.spec, owned.first_seq, owned.epoch)
        assert [intent.kind for intent in taken.intents] == ["cancel"]
        assert await kit.log.orphans() == []

    async def test_the_former_owner_can_write_nothing_more(self, kit: LogKit) -> None:
        owned = await kit.begin("r1", "a")
        await kit.restarted()
        taken = await kit.log.take_over(op(), kit.request("r1"))
        assert taken is not None
        assert await kit.log.append([kit.append(owned, 1, "ghost")]) == [Fenced()]
        assert await kit.log.seal(op(), owned.request, owned.fence, ending(), taken=0) == Fenced()
        await kit.seal(taken)
        assert await kit.log.finish(op(), owned.request, owned.fence, [ended(owned)]) == Fenced()
        await kit.finish(taken)
        assert await kit.texts() == ["a", "<message.completed>"]

    async def test_a_turn_that_was_never_shown_begins_its_first_run(self, kit: LogKit) -> None:
        await kit.claim("r1")
        await kit.restarted()
        taken = await kit.log.take_over(op(), kit.request("r1"))
        assert taken is not None
        assert (taken.run, taken.n) == (1, 0)

    async def test_a_queued_request_is_owned_but_not_run_by_a_take_over(self, kit: LogKit) -> None:
        running = await kit.begin("r1")
        await kit.begin("r2", "created", "queued")
        await kit.restarted()
        assert [info.request.request_id for info in await kit.log.orphans()] == ["r1", "r2"]
        queued = await kit.log.take_over(op(), kit.request("r2"))
        assert queued is not None
        assert (queued.phase, queued.run) == (Phase.QUEUED, 1)
        taken = await kit.log.take_over(op(), running.request)
        assert taken is not None
        following = (await kit.end(taken)).next
        assert following is not None
        assert (following.request, following.phase) == (queued.request, Phase.RUNNING)

    async def test_a_sealed_request_keeps_its_ending(self, kit: LogKit) -> None:
        owned = await kit.begin("r1")
        decided = await kit.seal(owned, "completed")
        await kit.restarted()
        taken = await kit.log.take_over(op(), kit.request("r1"))
        assert taken is not None
        assert (taken.phase, taken.ending, taken.run) == (Phase.SEALED, decided, 1)
        await kit.finish(taken)

    async def test_what_has_ended_or_is_not_known_cannot_be_taken(self, kit: LogKit) -> None:
        await kit.end(await kit.begin("r1"))
        await kit.restarted()
        assert await kit.log.orphans() == []
        assert await kit.log.take_over(op(), kit.request("r1")) is None
        assert await kit.log.take_over(op(), kit.request("unknown")) is None

    async def test_each_take_over_is_one_more_run_under_a_higher_fence(self, kit: LogKit) -> None:
        owned = await kit.begin("r1")
        fences = [owned.fence]
        for run in (2, 3, 4):
            kit.clock.forward(-10)  # a clock that goes back must not bring an old fence back
            await kit.restarted()
            taken = await kit.log.take_over(op(), kit.request("r1"))
            assert taken is not None
            assert taken.run == run
            fences.append(taken.fence)
        assert fences == sorted(set(fences))

    async def test_events_survive_with_their_places(self, kit: LogKit) -> None:
        await kit.begin("r1", "a", "b")
        before = await kit.log.position(kit.ref())
        await kit.restarted()
        assert await kit.log.position(kit.ref()) == before
        assert await kit.texts() == ["a", "b"]


class Rebuilding:
    async def test_unknown_requests_are_entered_in_their_order(self, kit: LogKit) -> None:
        wanted = [(kit.request(f"r{n}"), kit.spec(f"r{n}", ordinal=n, parent_id=None)) for n in (3, 2)]
        entered = await kit.log.rebuild(op(), kit.ref(), Base(3, "answer-r3"), wanted)
        assert list(entered) == [kit.request("r2"), kit.request("r3")]
        orphans = await kit.log.orphans()
        assert [(info.request.request_id, info.phase, info.ordinal) for info in orphans] == [
            ("r2", Phase.RUNNING, 2),
            ("r3", Phase.QUEUED, 3),
        ]
        assert (await kit.claim("r4")).owned.spec["parent_id"] == "answer-r3"

    async def test_what_was_entered_can_be_taken_and_ended(self, kit: LogKit) -> None:
        spec = kit.spec("r2", ordinal=2, parent_id="answer-r1")
        await kit.log.rebuild(op(), kit.ref(), Base(2, "answer-r2"), [(kit.request("r2"), spec)])
        taken = await kit.log.take_over(op(), kit.request("r2"))
        assert taken is not None
        assert (taken.ordinal, taken.n, taken.spec["parent_id"]) == (2, 0, "answer-r1")
        await kit.say(taken, 0, "again")
        await kit.end(taken)

    async def test_known_requests_are_left_alone(self, kit: LogKit) -> None:
        owned: Owned = await kit.begin("r1")
        spec = kit.spec("r1", ordinal=1, parent_id=None)
        assert list(await kit.log.rebuild(op(), kit.ref(), Base(), [(kit.request("r1"), spec)])) == []
        assert await kit.log.orphans() == []
        await kit.say(owned, 1, "mine")

    async def test_a_log_that_knows_more_keeps_its_head(self, kit: LogKit) -> None:
        for request_id in ("r1", "r2"):
            await kit.end(await kit.begin(request_id))
        await kit.log.rebuild(op(), kit.ref(), Base(1, "answer-r1"), [])
        claimed = await kit.claim("r3")
        assert (claimed.owned.ordinal, claimed.owned.spec["parent_id"]) == (3, "answer-r2")
