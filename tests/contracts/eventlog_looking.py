"""The contract of `EventLog`, fourth part: looking, forgetting, deleting."""

from __future__ import annotations

from turnwire_server.eventlog.base import Base, Fenced, Phase, RequestRef

from .kit import RECORDED_CANCEL_S, RESERVATION_S, RETENTION_S, LogKit, op


class Looking:
    async def test_a_conversation_without_a_log_gets_an_empty_one(self, kit: LogKit) -> None:
        first = await kit.log.position(kit.ref())
        assert (first.seq, first.trimmed) == (0, 0)
        assert first.epoch
        assert await kit.log.position(kit.ref()) == first
        assert (await kit.log.position(kit.ref("else"))).epoch != first.epoch

    async def test_pages_follow_each_other_without_gaps(self, kit: LogKit) -> None:
        await kit.begin("r1", *"abcdefg")
        after, pages = 0, []
        while True:
            page = await kit.log.read(kit.ref(), after, limit=3, max_bytes=10_000)
            assert page.position.seq == 7
            if not page.entries:
                break
            pages.append([entry.seq for entry in page.entries])
            after = page.entries[-1].seq
        assert pages == [[1, 2, 3], [4, 5, 6], [7]]

    async def test_a_page_holds_at_least_one_entry_whatever_its_size(self, kit: LogKit) -> None:
        await kit.begin("r1", "x" * 500, "y" * 500)
        page = await kit.log.read(kit.ref(), 0, limit=10, max_bytes=1)
        assert [entry.seq for entry in page.entries] == [1]

    async def test_a_page_stays_within_its_bytes(self, kit: LogKit) -> None:
        await kit.begin("r1", *("x" * 500 for _ in range(5)))
        page = await kit.log.read(kit.ref(), 0, limit=10, max_bytes=1500)
        assert [entry.seq for entry in page.entries] == [1, 2]

    async def test_beyond_the_end_there_is_nothing(self, kit: LogKit) -> None:
        await kit.begin("r1", "a")
        page = await kit.log.read(kit.ref(), 99, limit=10, max_bytes=1000)
        assert (list(page.entries), page.position.seq) == ([], 1)

    async def test_another_tenant_reads_nothing(self, kit: LogKit) -> None:
        await kit.begin("r1", "secret")
        kit.tenant = "other"
        assert await kit.texts() == []
        assert await kit.log.request(kit.request("r1")) is None
        assert (await kit.log.position(kit.ref())).seq == 0

    async def test_live_shows_what_has_not_ended_by_ordinal(self, kit: LogKit) -> None:
        first = await kit.begin("r1", "a", checkpoint={"so": "far"})
        await kit.begin("r2", "b")
        await kit.begin("r3", "c")
        live = await kit.log.live(kit.ref())
        assert (live.position.seq, live.base) == (3, Base(3, "answer-r3"))
        assert [(r.request_id, r.ordinal, r.first_seq) for r in live.requests] == [
            ("r1", 1, 1),
            ("r2", 2, 2),
            ("r3", 3, 3),
        ]
        assert [r.checkpoint for r in live.requests] == [{"so": "far"}, None, None]
        assert live.requests[0].spec == first.spec
        await kit.end(first)
        assert [r.request_id for r in (await kit.log.live(kit.ref())).requests] == ["r2", "r3"]

    async def test_a_sealed_request_is_live_until_it_is_finished(self, kit: LogKit) -> None:
        owned = await kit.begin("r1")
        await kit.seal(owned)
        assert [r.request_id for r in (await kit.log.live(kit.ref())).requests] == ["r1"]

    async def test_what_has_not_been_shown_is_not_in_live(self, kit: LogKit) -> None:
        await kit.end(await kit.begin("r1"))
        await kit.claim("r2")
        await kit.claim("r3")
        live = await kit.log.live(kit.ref())
        assert live.requests == []
        assert live.base.head == "answer-r1"
        assert sorted(live.hidden) == ["r2", "r3"]

    async def test_a_request_is_described(self, kit: LogKit) -> None:
        owned = await kit.begin("r1", "a", state="streaming")
        info = await kit.log.request(owned.request)
        assert info is not None
        assert (info.request, info.conversation, info.user_id) == (owned.request, kit.ref(), "ann")
        assert (info.fingerprint, info.phase, info.state) == ("print-r1", Phase.RUNNING, "streaming")
        assert (info.run, info.ordinal, info.last_seq, info.confirmed) == (1, 1, 1, True)
        assert (info.position, info.spec) == (None, owned.spec)

    async def test_a_claim_is_confirmed_by_its_first_event(self, kit: LogKit) -> None:
        claimed = await kit.claim("r1")
        info = await kit.log.request(kit.request("r1"))
        assert info is not None
        assert not info.confirmed
        await kit.say(claimed.owned, 0, "a")
        info = await kit.log.request(kit.request("r1"))
        assert info is not None
        assert info.confirmed

    async def test_running_names_the_conversations_with_something_unfinished(self, kit: LogKit) -> None:
        await kit.begin("r1")
        await kit.end(await kit.begin("r2", conversation="ended"))
        refs = [kit.ref(), kit.ref("ended"), kit.ref("never")]
        assert await kit.log.running(refs) == {kit.ref()}
        assert await kit.log.running([]) == set()

    async def test_it_answers(self, kit: LogKit) -> None:
        await kit.log.ping()


class Trimming:
    async def test_the_old_goes_and_seqs_go_on(self, kit: LogKit) -> None:
        await kit.end(await kit.begin("r1", "a", "b"))
        kit.clock.forward(RETENTION_S + 1)
        before = await kit.log.position(kit.ref())
        assert await kit.log.trim() in (0, 3)  # a repeat finds nothing left
        position = await kit.log.position(kit.ref())
        assert (position.epoch, position.seq, position.trimmed) == (before.epoch, 3, 3)
        assert await kit.log.request(kit.request("r1")) is None
        claimed = await kit.claim("r2")
        assert (claimed.owned.ordinal, claimed.owned.spec["parent_id"]) == (2, "answer-r1")
        assert [entry.seq for entry in (await kit.say(claimed.owned, 0, "c")).entries] == [4]

    async def test_the_new_stays(self, kit: LogKit) -> None:
        await kit.end(await kit.begin("r1", "a"))
        kit.clock.forward(RETENTION_S - 1)
        assert await kit.log.trim() == 0
        assert await kit.texts() == ["a", "<message.completed>"]

    async def test_only_what_is_past_its_time_goes(self, kit: LogKit) -> None:
        await kit.end(await kit.begin("r1", "old"))
        kit.clock.forward(RETENTION_S / 2)
        await kit.end(await kit.begin("r2", "new"))
        kit.clock.forward(RETENTION_S / 2 + 1)
        await kit.log.trim()
        assert await kit.texts(after=2) == ["new", "<message.completed>"]
        assert (await kit.log.position(kit.ref())).trimmed == 2

    async def test_reading_before_the_cut_gives_nothing_and_says_why(self, kit: LogKit) -> None:
        await kit.end(await kit.begin("r1", "old"))
        kit.clock.forward(RETENTION_S + 1)
        await kit.begin("r2", "new")
        await kit.log.trim()
        page = await kit.log.read(kit.ref(), 1, limit=10, max_bytes=1000)
        assert (list(page.entries), page.position.trimmed) == ([], 2)
        assert await kit.texts(after=2) == ["new"]

    async def test_what_a_live_request_needs_stays_however_old(self, kit: LogKit) -> None:
        await kit.end(await kit.begin("r1", "gone"))
        owned = await kit.begin("r2", "a", "b", checkpoint={"at": "b"})
        await kit.say(owned, 2, "c")
        kit.clock.forward(RETENTION_S * 10)
        await kit.log.trim()
        (live,) = (await kit.log.live(kit.ref())).requests
        assert live.checkpoint_seq == 4
        assert await kit.texts(after=4) == ["c"]
        assert (await kit.log.position(kit.ref())).trimmed == 4

    async def test_a_live_request_without_a_checkpoint_keeps_all_its_events(self, kit: LogKit) -> None:
        await kit.end(await kit.begin("r1", "gone"))
        await kit.begin("r2", "a", "b")
        kit.clock.forward(RETENTION_S * 10)
        await kit.log.trim()
        assert await kit.texts(after=2) == ["a", "b"]

    async def test_a_live_request_and_its_inbox_stay(self, kit: LogKit) -> None:
        owned = await kit.begin("r1")
        await kit.cancel("r1")
        kit.clock.forward(RETENTION_S * 10)
        await kit.log.trim()
        assert len((await kit.say(owned, 1, "a")).intents) == 1

    async def test_lapsed_reservations_and_records_go(self, kit: LogKit) -> None:
        await kit.reserve("r1")
        await kit.cancel("r2")
        kit.clock.forward(max(RESERVATION_S, RECORDED_CANCEL_S) + 1)
        await kit.log.trim()
        assert (await kit.log.reserve(op(), kit.request("r1"), "talk", "bob", "q")).fresh
        assert (await kit.claim("r2")).owned.intents == ()


class Deleting:
    async def test_nothing_of_it_remains(self, kit: LogKit) -> None:
        owned = await kit.begin("r1", "a")
        await kit.begin("r2", "b")
        await kit.log.delete(op(), kit.ref())
        for request_id in ("r1", "r2"):
            assert await kit.log.request(kit.request(request_id)) is None
        assert await kit.log.running([kit.ref()]) == set()
        assert await kit.texts() == []
        assert await kit.log.append([kit.append(owned, 1, "ghost")]) == [Fenced()]
        assert await kit.log.orphans() == []

    async def test_its_name_begins_anew_in_a_new_epoch(self, kit: LogKit) -> None:
        before = (await kit.begin("r1", "a")).epoch
        await kit.log.delete(op(), kit.ref())
        owned = await kit.begin("r1", "b")
        assert owned.epoch != before
        assert (owned.ordinal, owned.first_seq) == (1, 1)
        assert await kit.texts() == ["b"]

    async def test_a_late_repeat_spares_what_began_anew(self, kit: LogKit) -> None:
        await kit.begin("r1", "a")
        again = op()
        await kit.log.delete(again, kit.ref())
        owned = await kit.begin("r2", "b")
        await kit.log.delete(again, kit.ref())
        await kit.say(owned, 1, "c")
        assert await kit.texts() == ["b", "c"]

    async def test_others_are_left_alone(self, kit: LogKit) -> None:
        await kit.begin("r1")
        other = await kit.begin("r2", "b", conversation="else")
        await kit.log.delete(op(), kit.ref())
        await kit.say(other, 1, "c")
        assert await kit.texts("else") == ["b", "c"]

    async def test_an_absent_conversation_is_no_error(self, kit: LogKit) -> None:
        await kit.log.delete(op(), kit.ref("never"))

    async def test_another_tenant_deletes_only_its_own(self, kit: LogKit) -> None:
        await kit.begin("r1", "a")
        kit.tenant = "other"
        await kit.log.delete(op(), kit.ref())
        kit.tenant = "acme"
        assert await kit.texts() == ["a"]
        assert await kit.log.request(RequestRef("acme", "r1")) is not None

    async def test_it_tells_the_time_by_its_own_clock(self, kit: LogKit) -> None:
        before = await kit.log.now_ms()
        kit.clock.forward(2.5)
        assert await kit.log.now_ms() == before + 2500
