"""The contract of `EventLog`, sixth part: what lets people steer turns: places in the queue, first answers, how far an
answer was presented."""

from __future__ import annotations

import pytest

from turnwire_server.eventlog.base import Busy, OnBusy, Phase, PostOutcome, Sealed, Unheard

from .kit import LogKit, ending, op


class Competing:
    async def test_the_front_waits_before_all_others(self, kit: LogKit) -> None:
        first = await kit.begin("r1")
        await kit.begin("r2")
        third = await kit.claim("r3", on_busy=OnBusy.FRONT)
        assert (third.owned.phase, third.position, third.behind) == (Phase.QUEUED, 1, "r1")
        await kit.say(third.owned, 0, "created")
        await kit.claim("r4", on_busy=OnBusy.FRONT)
        places = {name: await kit.log.request(kit.request(name)) for name in ("r2", "r3", "r4")}
        assert {name: info and info.position for name, info in places.items()} == {"r4": 1, "r3": 2, "r2": 3}
        finished = await kit.end(first)
        assert finished.next is not None
        assert finished.next.request == kit.request("r4")
        assert list(finished.waiting) == ["r3", "r2"]

    async def test_the_front_of_nobody_runs(self, kit: LogKit) -> None:
        assert (await kit.claim("r1", on_busy=OnBusy.FRONT)).owned.phase is Phase.RUNNING

    async def test_a_parallel_request_runs_at_once_and_nobody_waits_for_it(self, kit: LogKit) -> None:
        first = await kit.begin("r1")
        beside = await kit.claim("r2", on_busy=OnBusy.PARALLEL, parent_id="elsewhere")
        assert (beside.owned.phase, beside.position) == (Phase.RUNNING, None)
        await kit.say(beside.owned, 0, "created")
        assert (await kit.end(first)).next is None
        assert await kit.log.running([kit.ref()]) == {kit.ref()}
        following = await kit.claim("r3", on_busy=OnBusy.REJECT)
        assert following.owned.spec["parent_id"] == "answer-r1", "the newest message is that of those in line"
        assert (await kit.end(beside.owned)).next is None

    async def test_its_end_leaves_the_floor_where_it_is(self, kit: LogKit) -> None:
        await kit.begin("r1")
        beside = await kit.begin("r2", on_busy=OnBusy.PARALLEL, parent_id="elsewhere")
        await kit.begin("r3")
        finished = await kit.end(beside)
        assert (finished.next, list(finished.waiting)) == (None, ["r3"])

    async def test_too_many_side_by_side_are_refused(self, kit: LogKit) -> None:
        await kit.begin("r1")
        await kit.begin("r2", on_busy=OnBusy.PARALLEL, queue_limit=1)
        answer = await kit.try_claim("r3", on_busy=OnBusy.PARALLEL, queue_limit=1)
        assert answer == Busy("r1", full=True)


class Deciding:
    async def test_the_first_answer_counts(self, kit: LogKit) -> None:
        owned = await kit.begin("r1", "a")
        yes = await kit.log.post(op(), owned.request, "approve", {"by": "ann"}, user_id="ann", decides="c1")
        no = await kit.log.post(op(), owned.request, "deny", {"by": "bob"}, user_id="bob", any_user=True, decides="c1")
        other = await kit.log.post(op(), owned.request, "deny", {"by": "ann"}, user_id="ann", decides="c2")
        assert (yes.outcome, no.outcome, other.outcome) == (PostOutcome.STORED, PostOutcome.DECIDED, PostOutcome.STORED)
        assert no.intent == yes.intent
        assert [intent.kind for intent in (await kit.say(owned, 1, "b")).intents] == ["approve", "deny"]
        info = await kit.log.request(owned.request)
        assert info is not None
        assert info.decided == {"c1": yes.intent, "c2": other.intent}

    async def test_its_repeat_is_the_first_answer(self, kit: LogKit) -> None:
        owned = await kit.begin("r1")
        again = op()
        posts = [await kit.log.post(again, owned.request, "approve", {}, user_id="ann", decides="c1") for _ in range(2)]
        assert posts[0] == posts[1]

    async def test_a_parked_turn_goes_on_with_it(self, kit: LogKit) -> None:
        owned = await kit.begin("r1")
        until = await kit.log.now_ms() + 3_600_000
        assert await kit.log.hand_over(owned.request, owned.fence, parked_until=until)
        posted = await kit.log.post(op(), owned.request, "approve", {}, user_id="ann", decides="c1")
        taken = await kit.log.take_over(op(), owned.request)
        assert taken is not None
        assert list(taken.intents) == [posted.intent]


class Noting:
    async def test_it_only_grows_and_the_seal_tells_it(self, kit: LogKit) -> None:
        owned = await kit.begin("r1")
        for presented in (7, 3):
            assert await kit.log.note(owned.request, presented, conversation=owned.conversation)
        info = await kit.log.request(owned.request)
        assert info is not None
        assert info.presented == 7
        for _ in range(2):
            answer = await kit.log.seal("s", owned.request, owned.fence, ending(), taken=0)
            assert answer == Sealed(ending(), 7)

    async def test_after_the_seal_it_is_too_late(self, kit: LogKit) -> None:
        owned = await kit.begin("r1")
        await kit.seal(owned)
        assert not await kit.log.note(owned.request, 7, conversation=owned.conversation)
        await kit.finish(owned)
        assert not await kit.log.note(owned.request, 7, conversation=owned.conversation)

    async def test_of_what_is_unknown_nothing_is_kept(self, kit: LogKit) -> None:
        assert not await kit.log.note(kit.request("r9"), 7, conversation=kit.ref())

    async def test_a_taker_knows_it(self, kit: LogKit) -> None:
        owned = await kit.begin("r1")
        await kit.log.note(owned.request, 7, conversation=owned.conversation)
        assert await kit.log.hand_over(owned.request, owned.fence)
        taken = await kit.log.take_over(op(), owned.request)
        assert taken is not None
        assert taken.presented == 7

    @pytest.mark.parametrize("kind", ["interrupt", "approve"])
    async def test_whatever_was_said_is_heard_before_the_seal(self, kit: LogKit, kind: str) -> None:
        owned = await kit.begin("r1")
        posted = await kit.log.post(op(), owned.request, kind, {}, user_id="ann")
        answer = await kit.log.seal(op(), owned.request, owned.fence, ending(), taken=0)
        assert isinstance(answer, Unheard)
        assert list(answer.intents) == [posted.intent]
        assert await kit.seal(owned, taken=1) == ending()
