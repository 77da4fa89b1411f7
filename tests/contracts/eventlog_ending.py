"""The contract of `EventLog`, third part: what is said to a turn, and how it ends."""

from __future__ import annotations

import pytest

from turnwire_server.eventlog.base import Fenced, Phase, PostOutcome, Sealed, Unheard

from .eventlog_writing import places
from .kit import RETENTION_S, LogKit, ended, ending, op


class Posting:
    async def test_a_running_turn_gets_it_into_its_inbox(self, kit: LogKit) -> None:
        owned = await kit.begin("r1", "a")
        posted = await kit.cancel("r1")
        assert (posted.outcome, posted.state, posted.owned) == (PostOutcome.STORED, None, None)
        assert (posted.intent.k, posted.intent.kind, posted.intent.body) == (1, "cancel", {"by": "ann"})
        assert list((await kit.say(owned, 1, "b")).intents) == [posted.intent]

    async def test_a_repeat_is_not_stored_twice(self, kit: LogKit) -> None:
        owned = await kit.begin("r1", "a")
        again = op()
        posts = [await kit.log.post(again, owned.request, "cancel", {"by": "ann"}, user_id="ann") for _ in range(2)]
        assert posts[0] == posts[1]
        assert len((await kit.say(owned, 1, "b")).intents) == 1

    async def test_a_queued_request_that_was_shown_is_ended_by_it(self, kit: LogKit) -> None:
        await kit.begin("r1")
        queued = await kit.begin("r2", "created", "queued")
        again = op()
        posts = [
            await kit.log.post(again, queued.request, "cancel", {}, user_id="ann", ending=ending("cancelled"))
            for _ in range(2)
        ]
        for posted in posts:
            assert (posted.outcome, posted.state) == (PostOutcome.ENDED, "cancelled")
            assert posted.owned is not None
            assert (posted.owned.phase, posted.owned.ending) == (Phase.SEALED, ending("cancelled"))
            assert posted.owned.fence == posts[0].owned.fence > queued.fence  # type: ignore[union-attr]
        assert await kit.log.append([kit.append(queued, 2, "late")]) == [Fenced()]
        finished = await kit.finish(posts[0].owned)  # type: ignore[arg-type]
        assert finished.next is None, "the floor is still the first one's"

    async def test_a_queued_request_that_was_not_shown_hears_it_from_its_creator(self, kit: LogKit) -> None:
        await kit.begin("r1")
        queued = (await kit.claim("r2")).owned
        posted = await kit.cancel("r2", ending=ending("cancelled"))
        assert posted.outcome is PostOutcome.STORED
        assert list((await kit.say(queued, 0, "created")).intents) == [posted.intent]

    async def test_without_an_ending_a_queued_request_hears_it_when_it_runs(self, kit: LogKit) -> None:
        first = await kit.begin("r1")
        await kit.begin("r2")
        posted = await kit.cancel("r2")
        assert posted.outcome is PostOutcome.STORED
        following = (await kit.end(first)).next
        assert following is not None
        assert list(following.intents) == [posted.intent]

    async def test_after_the_seal_it_is_too_late(self, kit: LogKit) -> None:
        owned = await kit.begin("r1")
        await kit.seal(owned, "failed")
        posted = await kit.cancel("r1")
        assert (posted.outcome, posted.state) == (PostOutcome.SETTLED, "failed")
        await kit.finish(owned)
        assert await kit.cancel("r1") == posted

    async def test_a_second_cancel_of_what_the_first_has_ended_is_too_late(self, kit: LogKit) -> None:
        await kit.begin("r1")
        await kit.begin("r2")
        await kit.cancel("r2", ending=ending("cancelled"))
        posted = await kit.cancel("r2", ending=ending("cancelled"))
        assert (posted.outcome, posted.state) == (PostOutcome.SETTLED, "cancelled")

    async def test_an_unknown_request_is_recorded(self, kit: LogKit) -> None:
        assert (await kit.cancel("r1")).outcome is PostOutcome.RECORDED
        assert await kit.log.request(kit.request("r1")) is None

    async def test_a_reserved_request_is_recorded(self, kit: LogKit) -> None:
        await kit.reserve("r1")
        assert (await kit.cancel("r1")).outcome is PostOutcome.RECORDED
        assert len((await kit.claim("r1")).owned.intents) == 1

    async def test_a_repeat_of_what_was_recorded_is_not_stored_when_the_request_runs(self, kit: LogKit) -> None:
        again = op()
        for _ in range(2):
            posted = await kit.log.post(again, kit.request("r1"), "cancel", {}, user_id="ann")
            assert posted.outcome is PostOutcome.RECORDED
            claimed = await kit.claim("r1")
        assert len((await kit.say(claimed.owned, 0, "a")).intents) == 1

    async def test_another_user_learns_and_changes_nothing(self, kit: LogKit) -> None:
        owned = await kit.begin("r1")
        posted = await kit.cancel("r1", user="bob")
        assert (posted.outcome, posted.intent, posted.state) == (PostOutcome.RECORDED, None, None)
        assert list((await kit.say(owned, 1, "a")).intents) == []
        await kit.end(owned)
        assert (await kit.cancel("r1", user="bob")).outcome is PostOutcome.RECORDED

    async def test_whoever_may_act_for_any_user_is_heard(self, kit: LogKit) -> None:
        owned = await kit.begin("r1")
        assert (await kit.cancel("r1", user="bob", any_user=True)).outcome is PostOutcome.STORED
        assert len((await kit.say(owned, 1, "a")).intents) == 1

    async def test_another_tenant_has_requests_of_its_own(self, kit: LogKit) -> None:
        owned = await kit.begin("r1")
        kit.tenant = "other"
        assert (await kit.cancel("r1")).outcome is PostOutcome.RECORDED
        kit.tenant = "acme"
        assert list((await kit.say(owned, 1, "a")).intents) == []


class Sealing:
    async def test_the_first_ending_stays(self, kit: LogKit) -> None:
        owned = await kit.begin("r1")
        assert await kit.seal(owned, "completed") == ending("completed")
        assert await kit.seal(owned, "failed") == ending("completed")
        assert await kit.seal(owned, "cancelled") == ending("completed")

    async def test_a_cancel_before_the_seal_wins(self, kit: LogKit) -> None:
        owned = await kit.begin("r1")
        posted = await kit.cancel("r1")
        refused = await kit.log.seal(op(), owned.request, owned.fence, ending("completed"), taken=0)
        assert isinstance(refused, Unheard)
        assert list(refused.intents) == [posted.intent]
        assert await kit.seal(owned, "cancelled", taken=1) == ending("cancelled")

    @pytest.mark.parametrize("outcome", ["completed", "failed", "incomplete"])
    async def test_no_other_ending_passes_an_unheard_cancel(self, kit: LogKit, outcome: str) -> None:
        owned = await kit.begin("r1")
        await kit.cancel("r1")
        refused = await kit.log.seal(op(), owned.request, owned.fence, ending(outcome), taken=0)
        assert isinstance(refused, Unheard)
        info = await kit.log.request(owned.request)
        assert info is not None
        assert info.phase is Phase.RUNNING

    async def test_a_cancel_needs_no_hearing(self, kit: LogKit) -> None:
        owned = await kit.begin("r1")
        await kit.cancel("r1")
        assert await kit.seal(owned, "cancelled", taken=0) == ending("cancelled")

    async def test_a_cancel_after_the_seal_changes_nothing(self, kit: LogKit) -> None:
        owned = await kit.begin("r1")
        await kit.seal(owned, "completed")
        await kit.cancel("r1")
        assert await kit.seal(owned, "completed") == ending("completed")

    async def test_only_the_owner_seals(self, kit: LogKit) -> None:
        owned = await kit.begin("r1")
        assert await kit.log.seal(op(), owned.request, owned.fence - 1, ending(), taken=0) == Fenced()
        assert await kit.log.seal(op(), kit.request("unknown"), owned.fence, ending(), taken=0) == Fenced()

    async def test_the_end_can_still_be_asked_for_after_it(self, kit: LogKit) -> None:
        owned = await kit.begin("r1")
        await kit.end(owned, "completed")
        answer = await kit.log.seal(op(), owned.request, owned.fence, ending("failed"), taken=0)
        assert answer == Sealed(ending("completed"))


class Finishing:
    async def test_the_last_events_are_added_and_the_request_has_ended(self, kit: LogKit) -> None:
        owned = await kit.begin("r1", "a")
        finished = await kit.end(owned)
        assert [entry.seq for entry in finished.entries] == [2]
        assert (finished.next, list(finished.waiting)) == (None, [])
        info = await kit.log.request(owned.request)
        assert info is not None
        assert (info.phase, info.state, info.last_seq) == (Phase.FINISHED, "completed", 2)
        assert (await kit.log.live(kit.ref())).requests == []
        assert await kit.log.running([kit.ref()]) == set()

    async def test_what_is_not_sealed_is_not_finished(self, kit: LogKit) -> None:
        owned = await kit.begin("r1", "a")
        assert await kit.log.finish(op(), owned.request, owned.fence, [ended(owned)]) == Fenced()
        assert await kit.texts() == ["a"]

    async def test_only_the_owner_finishes(self, kit: LogKit) -> None:
        owned = await kit.begin("r1", "a")
        await kit.seal(owned)
        assert await kit.log.finish(op(), owned.request, owned.fence + 1, [ended(owned)]) == Fenced()
        assert await kit.texts() == ["a"]

    async def test_the_next_in_line_gets_the_floor(self, kit: LogKit) -> None:
        first = await kit.begin("r1")
        second = await kit.begin("r2")
        await kit.begin("r3")
        await kit.begin("r4")
        finished = await kit.end(first)
        assert finished.next is not None
        assert (finished.next.request, finished.next.phase) == (second.request, Phase.RUNNING)
        assert finished.next.fence > second.fence
        assert (finished.next.n, finished.next.run) == (1, 1)
        assert list(finished.waiting) == ["r3", "r4"]
        assert await kit.log.append([kit.append(second, 1, "its creator")]) == [Fenced()]
        await kit.say(finished.next, 1, "its runner")

    async def test_a_repeat_gives_the_same_entries_and_the_same_next(self, kit: LogKit) -> None:
        first = await kit.begin("r1")
        await kit.begin("r2")
        await kit.seal(first)
        again = op()
        one = await kit.log.finish(again, first.request, first.fence, [ended(first)])
        two = await kit.log.finish(again, first.request, first.fence, [ended(first)])
        assert not isinstance(one, Fenced)
        assert not isinstance(two, Fenced)
        assert places(one.entries) == places(two.entries)
        assert one.next == two.next is not None
        assert await kit.texts() == ["begin", "begin", "<message.completed>"]

    async def test_a_late_repeat_does_not_hand_out_a_turn_that_runs_already(self, kit: LogKit) -> None:
        first = await kit.begin("r1")
        await kit.begin("r2", "created", "queued")
        following = (await kit.end(first)).next
        assert following is not None
        await kit.say(following, 2, "started")
        repeat = await kit.log.finish(op(), first.request, first.fence, [ended(first)])
        assert not isinstance(repeat, Fenced)
        assert repeat.next is None

    async def test_a_cancelled_queued_request_ends_out_of_turn(self, kit: LogKit) -> None:
        first = await kit.begin("r1")
        await kit.begin("r2")
        third = await kit.begin("r3")
        posted = await kit.cancel("r2", ending=ending("cancelled"))
        assert (await kit.finish(posted.owned)).next is None
        following = (await kit.end(first)).next
        assert following is not None
        assert following.request == third.request

    async def test_a_cancelled_queued_request_holds_nobody_up_before_it_is_finished(self, kit: LogKit) -> None:
        first = await kit.begin("r1")
        await kit.begin("r2")
        third = await kit.begin("r3")
        posted = await kit.cancel("r2", ending=ending("cancelled"))
        finished = await kit.end(first)
        assert finished.next is not None
        assert finished.next.request == third.request
        assert (await kit.finish(posted.owned)).next is None

    async def test_what_the_archive_does_not_have_yet_is_kept(self, kit: LogKit) -> None:
        owned = await kit.begin("r1")
        await kit.end(owned, "failed", archived=False)
        kit.clock.forward(RETENTION_S * 3)
        await kit.log.trim()
        (kept,) = await kit.log.unarchived()
        assert (kept.request, kept.ending, kept.run) == (owned.request, ending("failed"), 1)
        await kit.log.archived(owned.request)
        assert await kit.log.unarchived() == []
        await kit.log.trim()
        assert await kit.log.request(owned.request) is None

    async def test_what_is_kept_for_the_archive_survives_a_restart(self, kit: LogKit) -> None:
        owned = await kit.begin("r1")
        await kit.end(owned, archived=False)
        await kit.restarted()
        assert [kept.request for kept in await kit.log.unarchived()] == [owned.request]
        assert await kit.log.orphans() == []

    async def test_the_oldest_is_archived_first(self, kit: LogKit) -> None:
        for request_id in ("r2", "r1"):
            await kit.end(await kit.begin(request_id), archived=False)
            kit.clock.forward(1)
        assert [kept.request.request_id for kept in await kit.log.unarchived()] == ["r2", "r1"]
