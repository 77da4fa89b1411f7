"""The contract of `EventLog`, second part: events, their order, and who hears of them."""

from __future__ import annotations

import asyncio

from turnwire_protocol import Entry, MemberChanged
from turnwire_server.eventlog.base import Appended, ConversationRef, Fenced, Owned

from .kit import LogKit, op, said, text_of


def member(name: str) -> MemberChanged:
    return MemberChanged(conversation_id="talk", user_id=name, role="viewer", by="ann")


def answered(answer: Appended | Fenced) -> Appended:
    assert isinstance(answer, Appended)
    return answer


class Appending:
    async def test_events_get_the_next_seqs_and_come_back_as_they_were(self, kit: LogKit) -> None:
        owned = (await kit.claim("r1")).owned
        first = await kit.say(owned, 0, "a", "b")
        second = await kit.say(owned, 2, "c")
        assert [entry.seq for entry in (*first.entries, *second.entries)] == [1, 2, 3]
        assert first.epoch == owned.epoch
        assert [text_of(entry.event) for entry in first.entries] == ["a", "b"]
        assert first.entries[0].event == said_at(owned, "a", first.entries[0])

    async def test_turns_of_one_conversation_share_its_seqs_without_gaps(self, kit: LogKit) -> None:
        one, two = (await kit.claim("r1")).owned, (await kit.claim("r2")).owned
        answers = await kit.log.append([kit.append(one, 0, "a"), kit.append(two, 0, "b"), kit.append(one, 1, "c")])
        assert [entry.seq for answer in answers for entry in answered(answer).entries] == [1, 2, 3]
        assert await kit.texts() == ["a", "b", "c"]

    async def test_conversations_count_for_themselves(self, kit: LogKit) -> None:
        one, two = (await kit.claim("r1")).owned, (await kit.claim("r2", conversation="else")).owned
        answers = await kit.log.append([kit.append(one, 0, "a"), kit.append(two, 0, "b")])
        assert [[entry.seq for entry in answered(answer).entries] for answer in answers] == [[1], [1]]
        assert one.epoch != two.epoch

    async def test_a_repeated_append_is_answered_with_the_same_entries(self, kit: LogKit) -> None:
        owned = (await kit.claim("r1")).owned
        first = await kit.say(owned, 0, "a", "b")
        other = await kit.begin("r2", "between")
        again = await kit.say(owned, 0, "a", "b")
        assert places(again.entries) == places(first.entries)
        assert await kit.texts() == ["a", "b", "between"]
        assert other.n == 0

    async def test_a_longer_repeat_adds_only_what_is_new(self, kit: LogKit) -> None:
        owned = (await kit.claim("r1")).owned
        first = await kit.say(owned, 0, "a")
        await kit.begin("r2", "between")
        again = await kit.say(owned, 0, "a", "b")
        assert [entry.seq for entry in again.entries] == [1, 3]
        assert places(again.entries)[:1] == places(first.entries)
        assert await kit.texts() == ["a", "between", "b"]

    async def test_a_repeat_beside_the_first_in_one_write_is_answered_with_the_same_entries(self, kit: LogKit) -> None:
        owned, other = (await kit.claim("r1")).owned, (await kit.claim("r2")).owned
        appends = [
            kit.append(owned, 0, "a"),
            kit.append(other, 0, "between"),
            kit.append(owned, 0, "a", "b"),
            kit.append(owned, 0, "a", "b"),
        ]
        answers = [answered(answer) for answer in await kit.log.append(appends)]
        assert [[entry.seq for entry in answer.entries] for answer in answers] == [[1], [2], [1, 3], [1, 3]]
        assert await kit.texts() == ["a", "between", "b"]

    async def test_a_fenced_turn_fails_alone(self, kit: LogKit) -> None:
        lost = await kit.begin("r1", "a")
        await kit.restarted()
        assert await kit.log.take_over(op(), lost.request) is not None
        mine = (await kit.claim("r2", conversation="else")).owned
        answers = await kit.log.append([kit.append(lost, 1, "ghost"), kit.append(mine, 0, "b")])
        assert answers[0] == Fenced()
        assert [entry.seq for entry in answered(answers[1]).entries] == [1]
        assert await kit.texts() == ["a"]

    async def test_nothing_is_added_after_the_seal(self, kit: LogKit) -> None:
        owned = await kit.begin("r1", "a")
        await kit.seal(owned)
        assert await kit.log.append([kit.append(owned, 1, "late")]) == [Fenced()]
        await kit.finish(owned)
        assert await kit.log.append([kit.append(owned, 1, "later")]) == [Fenced()]
        assert await kit.texts() == ["a", "<message.completed>"]

    async def test_an_unknown_turn_is_fenced(self, kit: LogKit) -> None:
        owned = (await kit.claim("r1")).owned
        await kit.log.release(op(), owned.request)
        assert await kit.log.append([kit.append(owned, 0, "nobody")]) == [Fenced()]

    async def test_ts_never_falls_when_the_clock_goes_back(self, kit: LogKit) -> None:
        owned = (await kit.claim("r1")).owned
        stamps = [(await kit.say(owned, 0, "a")).entries[0].ts]
        for n, seconds in enumerate((-3600, 1, 7200, -1), start=1):
            kit.clock.forward(seconds)
            stamps.append((await kit.say(owned, n, "x")).entries[0].ts)
        assert stamps == sorted(stamps)
        assert stamps[3] > stamps[0], "and goes on once the clock has caught up"

    async def test_the_state_and_the_checkpoint_are_stored_with_the_events(self, kit: LogKit) -> None:
        owned = (await kit.claim("r1")).owned
        await kit.say(owned, 0, "a", "b", state="streaming", checkpoint={"at": "b"})
        await kit.say(owned, 2, "c")
        info = await kit.log.request(owned.request)
        assert info is not None
        assert (info.state, info.last_seq, info.confirmed) == ("streaming", 3, True)
        (live,) = (await kit.log.live(kit.ref())).requests
        assert (live.checkpoint, live.checkpoint_seq) == ({"at": "b"}, 2)

    async def test_a_repeat_does_not_bring_an_old_checkpoint_back(self, kit: LogKit) -> None:
        owned = (await kit.claim("r1")).owned
        await kit.say(owned, 0, "a", checkpoint={"at": "a"}, state="preparing")
        await kit.say(owned, 1, "b", checkpoint={"at": "b"}, state="streaming")
        await kit.say(owned, 0, "a", checkpoint={"at": "a"}, state="preparing")
        (live,) = (await kit.log.live(kit.ref())).requests
        assert (live.checkpoint, live.checkpoint_seq) == ({"at": "b"}, 2)
        info = await kit.log.request(owned.request)
        assert info is not None
        assert info.state == "streaming"

    async def test_only_newer_intents_come_with_the_answer(self, kit: LogKit) -> None:
        owned = (await kit.claim("r1")).owned
        await kit.cancel("r1")
        (first,) = (await kit.say(owned, 0, "a")).intents
        assert (await kit.say(owned, 1, "b", taken=first.k)).intents == []
        await kit.cancel("r1")
        (second,) = (await kit.say(owned, 2, "c", taken=first.k)).intents
        assert (first.k, second.k) == (1, 2)

    async def test_concurrent_appends_leave_no_gap(self, kit: LogKit) -> None:
        turns = [(await kit.claim(f"r{n}", queue_limit=20)).owned for n in range(8)]

        async def talk(owned: Owned) -> list[int]:
            seqs = []
            for n in range(5):
                seqs += [entry.seq for entry in (await kit.say(owned, n, f"{owned.ordinal}.{n}")).entries]
            return seqs

        seqs = await asyncio.gather(*map(talk, turns))
        assert sorted(seq for mine in seqs for seq in mine) == list(range(1, 41))
        assert all(mine == sorted(mine) for mine in seqs)
        page = await kit.log.read(kit.ref(), 0, limit=100, max_bytes=1_000_000)
        assert [entry.seq for entry in page.entries] == list(range(1, 41))


class Emitting:
    async def test_events_of_nobody_stand_among_the_others(self, kit: LogKit) -> None:
        owned = await kit.begin("r1", "a")
        entries = await kit.log.emit(op(), kit.ref(), [member("bob"), member("eve")])
        assert [entry.seq for entry in entries] == [2, 3]
        await kit.say(owned, 1, "b")
        assert await kit.texts() == ["a", "<member.changed>", "<member.changed>", "b"]

    async def test_a_repeat_writes_nothing_and_answers_the_same(self, kit: LogKit) -> None:
        again = op()
        first = await kit.log.emit(again, kit.ref(), [member("bob")])
        await kit.begin("r1", "between")
        assert places(await kit.log.emit(again, kit.ref(), [member("bob")])) == places(first)
        assert await kit.texts() == ["<member.changed>", "between"]

    async def test_a_conversation_without_a_log_gets_one(self, kit: LogKit) -> None:
        (entry,) = await kit.log.emit(op(), kit.ref("new"), [member("bob")])
        assert entry.seq == (await kit.log.position(kit.ref("new"))).seq == 1

    async def test_no_events_are_no_error(self, kit: LogKit) -> None:
        assert list(await kit.log.emit(op(), kit.ref(), [])) == []
        assert (await kit.log.position(kit.ref())).seq == 0


class Hearing:
    async def test_a_watcher_hears_every_entry_of_every_step_in_order(self, kit: LogKit) -> None:
        heard = Heard(kit)
        kit.log.watch(kit.ref())
        owned = await kit.begin("r1", "a", "b")
        await kit.log.emit(op(), kit.ref(), [member("bob")])
        await kit.end(owned)
        assert heard.texts() == await kit.texts() == ["a", "b", "<member.changed>", "<message.completed>"]
        assert heard.places == {(kit.ref(), owned.epoch)}

    async def test_what_is_not_watched_is_not_heard(self, kit: LogKit) -> None:
        heard = Heard(kit)
        kit.log.watch(kit.ref())
        await kit.begin("r1", "elsewhere", conversation="else")
        owned = await kit.begin("r2", "here")
        kit.log.unwatch(kit.ref())
        await kit.say(owned, 1, "gone")
        assert heard.texts() == ["here"]

    async def test_letting_go_of_what_was_not_watched_is_no_error(self, kit: LogKit) -> None:
        kit.log.unwatch(kit.ref("never"))


class Heard:
    """A listener. The same entry may come again with a repeated step; its place tells."""

    def __init__(self, kit: LogKit) -> None:
        self.places: set[tuple[ConversationRef, str]] = set()
        self._entries: dict[int, Entry] = {}
        kit.log.listen(self._listen)

    def _listen(self, conversation: ConversationRef, epoch: str, entries: list[Entry]) -> None:
        self.places.add((conversation, epoch))
        for entry in entries:
            known = self._entries.setdefault(entry.seq, entry)
            assert (known.ts, known.body) == (entry.ts, entry.body), "one seq, one event"
            assert entry.seq <= max(self._entries), "in order"

    def texts(self) -> list[str]:
        assert list(self._entries) == sorted(self._entries)
        return [text_of(entry.event) for entry in self._entries.values()]


def places(entries: object) -> list[tuple[int, int, bytes]]:
    return [(entry.seq, entry.ts, entry.body) for entry in entries]  # type: ignore[attr-defined]


def said_at(owned: Owned, text: str, entry: Entry) -> object:
    event = said(owned, text)
    event.seq, event.ts = entry.seq, entry.ts
    return event
