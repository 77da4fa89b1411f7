"""Two nodes on one clustered log: what one does, the other hears, at once with pub/sub and soon without."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest
from tests.support.redis import running_redis

from turnwire_server.eventlog.base import Appended, ConversationRef, Fenced, Phase, PostOutcome
from turnwire_server.eventlog.redis import RedisEventLog
from turnwire_server.eventlog.redis.views import partition_of

from .eventlog_writing import member, places
from .kit import Clock, LogKit, ending, op, text_of
from .nodes import LEASE_S, Ear, listening, past_the_lease, redis_nodes, settle


async def test_entries_of_every_step_are_heard_by_the_other_node_with_their_places() -> None:
    async with redis_nodes(2) as (here, there):
        there.log.watch(there.ref())
        async with listening(there.log) as ear:
            owned = await here.begin("r1", "a", "b")
            await here.log.emit(op(), here.ref(), [member("bob")])
            await here.end(owned)
            await here.begin("r2", "elsewhere", conversation="else")
            await ear.until(lambda: len(ear.texts(here.ref())) == 4)
            assert ear.texts(here.ref()) == await there.texts() == ["a", "b", "<member.changed>", "<message.completed>"]
            page = await there.log.read(there.ref(), 0, limit=10, max_bytes=10_000)
            assert {epoch for epoch, _ in ear.entries[here.ref()]} == {owned.epoch}
            assert places([entry for _, entry in ear.entries[here.ref()]]) == places(page.entries)
            assert list(ear.entries) == [here.ref()]


async def test_what_is_no_longer_watched_is_no_longer_heard() -> None:
    async with redis_nodes(2) as (here, there):
        other = there.ref("else")
        there.log.watch(there.ref())
        there.log.watch(other)
        async with listening(there.log) as ear:
            owned = await here.begin("r1", "a")
            await ear.until(lambda: ear.texts(there.ref()) == ["a"])
            there.log.unwatch(there.ref())
            await here.say(owned, 1, "b")
            await here.begin("r2", "c", conversation="else")
            await ear.until(lambda: ear.texts(other) == ["c"])
            assert ear.texts(there.ref()) == ["a"]


async def test_what_is_said_elsewhere_is_heard_by_the_owner_at_once() -> None:
    async with redis_nodes(2) as (here, there), listening(here.log) as ear:
        owned = await here.begin("r1")
        assert (await there.cancel("r1")).outcome is PostOutcome.STORED
        await ear.until(lambda: bool(ear.intents), within_s=1)
        request, conversation, intent = ear.intents[0]
        assert (request, conversation) == (owned.request, owned.conversation)
        assert (intent.k, intent.kind, intent.body) == (1, "cancel", {"by": "ann"})


async def test_what_somebody_who_may_says_to_anothers_request_is_heard_from_a_node_that_has_never_seen_it() -> None:
    async with redis_nodes(2) as (here, there), listening(here.log) as ear:
        await here.begin("r1")
        assert (await there.cancel("r1", user="bob")).outcome is PostOutcome.RECORDED
        assert (await there.cancel("r1", user="bob", any_user=True)).outcome is PostOutcome.STORED
        await ear.until(lambda: [intent.body for _, _, intent in ear.intents] == [{"by": "bob"}], within_s=1)


async def test_what_is_said_is_heard_within_a_third_of_the_lease_when_its_message_is_lost() -> None:
    async with redis_nodes(2, lease_s=0.9) as (here, there), listening(here.log) as ear:
        deafen(here.log)
        await here.begin("r1")
        await there.cancel("r1")
        await ear.until(lambda: ear.kinds() == ["cancel"], within_s=0.3 + 1)


async def test_a_hole_shows_by_the_position_when_messages_are_lost() -> None:
    async with redis_nodes(2) as (here, there):
        there.log.watch(there.ref())
        async with listening(there.log) as ear:
            deafen(there.log)
            owned = await here.begin("r1", "a", "b")
            await ear.until(lambda: ear.positions.get(there.ref()) == (owned.epoch, 2))
            assert ear.texts(there.ref()) == []
            assert await there.texts() == ["a", "b"]


@pytest.mark.parametrize("odd", ["é日本😀", "a b\tc", "{x}%s", "\\n\"'", "\x7f\u2028", "-1", "1e5", "\x00z", "x" * 300])
async def test_odd_names_and_texts_come_as_they_are(odd: str) -> None:
    async with redis_nodes(2) as (here, there), listening(there.log) as ear:
        here.tenant = there.tenant = odd
        there.log.watch(there.ref(odd))
        owned = await here.begin(odd, odd, "b", conversation=odd, state=odd, checkpoint={odd: odd})
        again = await here.say(owned, 0, odd, "b", "c")
        assert [text_of(entry.event) for entry in again.entries] == [odd, "b", "c"]
        await ear.until(lambda: ear.texts(there.ref(odd)) == [odd, "b", "c"])
        await there.cancel(odd)
        nothing = await here.say(owned, 3)
        assert (list(nothing.entries), [intent.k for intent in nothing.intents]) == ([], [1])
        info = await there.log.request(owned.request, there.ref(odd))
        assert info is not None
        assert (info.state, info.conversation.conversation_id) == (odd, odd)


async def test_after_a_reconnect_the_position_is_asked_for_at_once() -> None:
    async with running_redis() as redis, redis_nodes(2, url=redis.url) as (here, there):
        there.log.watch(there.ref())
        async with listening(there.log) as ear:
            owned = await here.begin("r1", "a")
            for number in range(1, 6):
                await redis.command("CLIENT", "KILL", "TYPE", "pubsub")
                await here.say(owned, number, str(number))
                await ear.until(lambda n=number: ear.positions.get(there.ref()) == (owned.epoch, n + 1))  # type: ignore[misc]


async def test_a_subscription_that_falls_silent_is_given_up_and_begun_anew() -> None:
    async with running_redis() as redis, redis_nodes(1, url=redis.url) as (here,):
        assert isinstance(here.log, RedisEventLog)
        following = here.log._following
        async with listening(here.log):
            await _until(lambda: following.is_connected)
            redis.stop()  # its sockets stay, and say nothing
            try:
                await _until(lambda: not following.is_connected)
            finally:
                redis.cont()
            await _until(lambda: following.is_connected)


async def _until(holds: Callable[[], bool]) -> None:
    with anyio.fail_after(30):
        while not holds():
            await anyio.sleep(0.05)


async def test_a_conversation_that_is_deleted_elsewhere_is_gone_here() -> None:
    async with redis_nodes(2) as (here, there):
        there.log.watch(there.ref())
        async with listening(there.log) as ear:
            await here.begin("r1", "a")
            await here.log.delete(op(), here.ref())
            await ear.until(lambda: ear.positions.get(there.ref(), ("?", 0))[0] == "")
            await here.begin("r2", "b")
            epoch = (await here.log.position(here.ref())).epoch
            await ear.until(lambda: ear.positions.get(there.ref(), ("?", 0))[0] == epoch)


async def test_what_is_handed_over_is_told_at_once_and_taken_by_the_other() -> None:
    async with redis_nodes(2) as (here, there), listening(there.log) as ear:
        owned = await here.begin("r1", "a", checkpoint={"so": "far"})
        before = ear.orphans
        assert await here.log.hand_over(owned.request, owned.fence)
        await ear.until(lambda: ear.orphans > before, within_s=1)
        assert [info.request for info in await there.log.orphans()] == [owned.request]
        taken = await there.log.take_over(op(), owned.request)
        assert taken is not None
        assert (taken.run, taken.n, taken.checkpoint) == (1, 1, {"so": "far"})
        assert await here.log.append([here.append(owned, 1, "ghost")]) == [Fenced()]
        assert await here.log.take_over(op(), owned.request) is None
        await there.say(taken, 1, "b")
        assert await here.texts() == ["a", "b"]


async def test_what_wakes_elsewhere_is_told_at_once() -> None:
    async with redis_nodes(2) as (here, there), listening(here.log) as ear:
        owned = await here.begin("r1")
        until = 2**45  # far away
        await here.log.hand_over(owned.request, owned.fence, parked_until=until)
        before = ear.orphans
        await there.cancel("r1")
        await ear.until(lambda: ear.orphans > before, within_s=1)
        assert [info.request for info in await here.log.orphans()] == [owned.request]


async def test_a_node_that_renews_keeps_its_turns_and_one_that_stops_loses_them() -> None:
    async with redis_nodes(2, lease_s=0.5) as (here, there), listening(there.log) as ear:
        owned = await here.begin("r1", "a")
        async with listening(here.log):
            with anyio.move_on_after(1.2):
                while True:
                    assert await there.log.orphans() == []
                    await anyio.sleep(0.02)
        before = ear.orphans
        with anyio.fail_after(2):
            while not await there.log.orphans():
                await ear.until(lambda seen=before: ear.orphans > seen)  # type: ignore[misc]
                before = ear.orphans
        taken = await there.log.take_over(op(), owned.request)
        assert taken is not None
        assert (taken.run, taken.n) == (2, 1)
        assert await here.log.append([here.append(owned, 1, "ghost")]) == [Fenced()]
        assert await here.log.seal(op(), owned.request, owned.fence, ending(), taken=0) == Fenced()


async def test_a_lease_is_judged_by_the_servers_time_alone() -> None:
    clock = Clock()
    async with redis_nodes(2, clock=clock) as (here, there):
        owned = await here.begin("r1", "a")
        for _ in range(4):
            clock.forward(LEASE_S / 4)
            assert await there.log.orphans() == []
            assert await there.log.take_over(op(), owned.request) is None
        clock.forward(0.01)
        assert [info.request for info in await there.log.orphans()] == [owned.request]
        await here.say(owned, 1, "b")  # nobody has taken it: it is still the first owner's
        taken = await there.log.take_over(op(), owned.request)
        assert taken is not None
        assert taken.n == 2


async def test_leases_that_nobody_could_renew_cost_nobody_its_turns() -> None:
    """Redis stood still, or was out of everybody's reach: the owners live, and get a lease time to show themselves."""
    clock = Clock()
    async with redis_nodes(2, clock=clock) as (here, there):
        owned = await here.begin("r1", "a")
        given_up = await here.begin("r2", "a", conversation="else")
        await here.log.hand_over(given_up.request, given_up.fence)
        clock.forward(10 * LEASE_S)
        assert [info.request for info in await there.log.orphans()] == [given_up.request], "nobody's for certain"
        assert await there.log.take_over(op(), owned.request) is None
        clock.forward(LEASE_S / 2)
        assert await there.log.take_over(op(), owned.request) is None
        await here.say(owned, 1, "b")
        clock.forward(LEASE_S / 2)
        taken = await there.log.take_over(op(), owned.request)
        assert taken is not None, "it has not shown itself"
        assert (taken.run, taken.n) == (2, 2)


async def test_only_one_of_many_takers_gets_it() -> None:
    clock = Clock()
    async with redis_nodes(4, clock=clock) as kits:
        owned = await kits[0].begin("r1", "a")
        await past_the_lease(kits[1].log, clock)
        taken = []

        async def take(kit: LogKit) -> None:
            if (got := await kit.log.take_over(op(), owned.request)) is not None:
                taken.append(got)

        async with anyio.create_task_group() as tasks:
            for kit in kits[1:]:
                tasks.start_soon(take, kit)
        assert [got.run for got in taken] == [2]


async def test_a_node_that_ends_gives_up_everything_at_once() -> None:
    async with redis_nodes(2) as (here, there):
        owned = await here.begin("r1", "a")
        await here.log.aclose()
        assert [info.request for info in await there.log.orphans()] == [owned.request]
        assert await there.log.take_over(op(), owned.request) is not None


async def test_what_was_owned_by_another_is_not_given_up_here() -> None:
    async with redis_nodes(2) as (here, there):
        owned = await here.begin("r1", "a")
        await there.log.disown(owned.request)
        assert not await there.log.hand_over(owned.request, owned.fence)
        assert await there.log.orphans() == []
        await here.say(owned, 1, "b")


async def test_a_request_queued_here_may_be_run_by_whoever_ends_the_one_before() -> None:
    async with redis_nodes(2) as (here, there):
        first = await here.begin("r1")
        second = await there.begin("r2", "created", "queued")
        finished = await here.end(first)
        assert finished.next is not None
        assert (finished.next.request, finished.next.phase) == (second.request, Phase.RUNNING)
        assert await there.log.append([there.append(second, 2, "ghost")]) == [Fenced()]
        await here.say(finished.next, 2, "run")


async def test_a_chore_is_one_nodes_for_its_time() -> None:
    async with redis_nodes(2) as (here, there):
        assert await here.log.elect("sweep", 0.3)
        assert not await there.log.elect("sweep", 0.3)
        assert await here.log.elect("sweep", 0.3)
        assert await there.log.elect("another", 0.3)
        with anyio.fail_after(2):
            while not await there.log.elect("sweep", 60):
                await anyio.sleep(0.02)
        assert not await here.log.elect("sweep", 60)


async def test_doubt_is_told_to_every_node() -> None:
    async with redis_nodes(2) as (here, there), listening(there.log) as ear:
        before = ear.doubts
        await here.log.doubt(2)
        await ear.until(lambda: ear.doubts > before, within_s=1)
        (doubt,) = await there.log.in_doubt()
        assert doubt.partition == 2
        await there.log.settle(doubt)
        assert await here.log.in_doubt() == []


async def test_where_things_lie_is_the_same_on_every_node_and_in_every_version() -> None:
    async with redis_nodes(2, partitions=64) as (here, there):
        refs = [ConversationRef("acme", f"talk-{n}") for n in range(100)]
        assert [here.log.partition(ref) for ref in refs] == [there.log.partition(ref) for ref in refs]
        assert [here.log.lane(ref) for ref in refs] == [there.log.lane(ref) for ref in refs]
    assert [partition_of("acme", f"talk-{n}", 64) for n in range(5)] == [45, 59, 1, 23, 52]


async def test_a_request_is_found_by_the_hint_when_its_record_is_lost_and_the_record_comes_back() -> None:
    """Two partitions, on two servers of a Cluster say: the id's record and the conversation. The first is lost."""
    async with redis_nodes(2) as (here, there):
        owned = await here.begin("r1", "a")
        await lose_records(here.log)
        assert await there.log.request(owned.request) is None
        info = await there.log.request(owned.request, owned.conversation)
        assert info is not None
        assert info.conversation == owned.conversation
        assert (await there.cancel("r1", conversation=owned.conversation)).outcome is PostOutcome.STORED
        assert len((await here.say(owned, 1, "b")).intents) == 1
        await here.log.trim()
        await lose_homes(there.log)
        assert await there.log.request(owned.request) is not None
        assert not (await there.log.reserve(op(), owned.request, "talk", "ann", "print-r1")).fresh


async def test_a_cancel_without_a_hint_is_kept_for_the_request_whose_record_is_lost() -> None:
    async with redis_nodes(2) as (here, there):
        owned = await here.begin("r1", "a")
        await lose_records(here.log)
        assert (await there.cancel("r1")).outcome is PostOutcome.RECORDED
        await here.log.trim()
        assert (await there.cancel("r1")).outcome is PostOutcome.STORED
        assert len((await here.say(owned, 1, "b")).intents) == 1


@pytest.mark.parametrize("lost", ["e", "i", "o", "d", "n"])
async def test_no_kind_of_message_has_to_arrive(lost: str) -> None:
    """Everything that pub/sub would have told is found out by asking, whichever kind of message is lost."""
    async with redis_nodes(2, lease_s=0.6) as (here, there):
        here.log.watch(here.ref())
        there.log.watch(there.ref())
        async with listening(here.log) as owner, listening(there.log) as other:
            deafen(here.log, lost)
            deafen(there.log, lost)
            owned = await here.begin("r1", "a")
            await other.until(lambda: other.positions.get(there.ref()) == (owned.epoch, 1))
            await there.cancel("r1")
            await owner.until(lambda: owner.kinds()[:1] == ["cancel"])
            await here.log.hand_over(owned.request, owned.fence)
            seen = other.orphans
            await other.until(lambda: other.orphans > seen)
            await here.log.delete(op(), here.ref())
            await other.until(lambda: other.positions.get(there.ref(), ("?", 0))[0] == "")


async def test_a_message_that_nobody_understands_ends_nothing() -> None:
    async with running_redis() as redis, redis_nodes(2, url=redis.url, prefix="odd") as (here, there):
        there.log.watch(there.ref())
        async with listening(there.log) as ear:
            for partition in range(4):
                await redis.command("SPUBLISH", f"{{odd:{partition}}}:ch", "not msgpack at all")
            await here.begin("r1", "a")
            await ear.until(lambda: ear.texts(there.ref()) == ["a"])


async def test_a_batch_of_many_conversations_is_heard_by_each_in_its_order() -> None:
    async with redis_nodes(2) as (here, there):
        turns = [await here.begin(f"r{n}", "0", conversation=f"talk-{n}") for n in range(12)]
        for owned in turns:
            there.log.watch(owned.conversation)
        async with listening(there.log) as ear:
            for number in range(1, 6):
                answers = await here.log.append([here.append(owned, number, str(number)) for owned in turns])
                assert all(isinstance(answer, Appended) for answer in answers)
            for owned in turns:
                await ear.until(lambda ref=owned.conversation: len(ear.texts(ref)) == 5)  # type: ignore[misc]
                assert ear.texts(owned.conversation) == list("12345")


def deafen(log: object, kind: str | None = None) -> None:
    """Messages (of this kind) of other nodes do not arrive any more; connections seem to be well."""
    assert isinstance(log, RedisEventLog)
    following = log._following
    handle = following._handle

    def lose(message: list[object], keeper: Ear) -> None:
        assert isinstance(message[1], bytes)
        if kind is not None and message[1].decode() != kind:
            handle(message, keeper)

    following._handle = lose  # type: ignore[assignment,method-assign]


async def lose_records(log: object) -> None:
    assert isinstance(log, RedisEventLog)
    client = log._server.client
    keys = [key async for key in client.scan_iter(match=f"{{{log._prefix}:*}}:q:*")]
    await client.delete(*keys)


async def lose_homes(log: object) -> None:
    """The node has forgotten where requests lie, as a new one has never known it."""
    assert isinstance(log, RedisEventLog)
    log._homes.clear()
    await settle(log)
