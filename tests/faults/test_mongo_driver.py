"""The archive on MongoDB under real faults: its server killed, stopped or absent; its own process gone in between.

The server is a process of its own, see `tests.support.mongo`. A crash of ours is an exception that nothing catches,
raised before or after one of a call's writes, and then another archive on the same database. Unrealistic in that the
server is a replica set of one: there is no older primary that still believes in itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import pytest
from tests.contracts.archive_cancels import ANN, BOB, cancel, kept
from tests.contracts.archive_conversations import made, talk
from tests.contracts.archive_requests import asked, end, reply, row
from tests.contracts.archive_tenants import audited
from tests.contracts.kit import ending, op
from tests.support.mongo import MongoServer, fresh_database, running_mongo
from tests.support.redis import free_port

from turnwire_server.archive import mongo
from turnwire_server.archive.base import Archive, ArchiveUnavailable
from turnwire_server.archive.mongo import MongoArchive

LIMIT_S = 1.0
# The time limit, the archive's grace, and what a busy machine may add.
LATEST_S = LIMIT_S + 0.5 + 1.5
PATIENT_S = 20.0


@asynccontextmanager
async def opened(url: str, name: str = "test", timeout_s: float = PATIENT_S) -> AsyncIterator[MongoArchive]:
    archive = MongoArchive(url, name, timeout_s=timeout_s)
    await archive.open()
    try:
        yield archive
    finally:
        await archive.aclose()


@asynccontextmanager
async def hasty(server: MongoServer) -> AsyncIterator[MongoArchive]:
    """An archive with a short limit; everything is prepared with a long one."""
    async with opened(server.url) as archive:
        await made(archive, talk())
    async with opened(server.url, timeout_s=LIMIT_S) as archive:
        yield archive


async def refused(call: Awaitable[Any]) -> ArchiveUnavailable:
    """The error of a call that must end within the limit."""
    began = time.monotonic()
    with pytest.raises(ArchiveUnavailable) as caught:
        await call
    assert time.monotonic() - began < LATEST_S
    return caught.value


async def insisting(call: Callable[[], Awaitable[Any]]) -> Any:
    """Repeat until it is answered."""
    with anyio.fail_after(PATIENT_S):
        while True:
            try:
                return await call()
            except ArchiveUnavailable:
                await asyncio.sleep(0.05)


# --- not there -------------------------------------------------------------------------------------------


async def test_a_start_without_a_server_says_where_it_was_looked_for_but_no_password() -> None:
    port = free_port()
    archive = MongoArchive(f"mongodb://user:hunter22@127.0.0.1:{port}/", "test", timeout_s=LIMIT_S)
    error = await refused(archive.open())
    assert str(error) == f"MongoDB cannot be reached, or has no primary (storage.mongo_url: 127.0.0.1:{port})"
    assert not error.unknown
    assert "closed" in repr(archive)
    await archive.aclose()


async def test_an_address_that_the_driver_refuses_is_not_repeated() -> None:
    archive = MongoArchive("mongodb://user:hunter/22@m:27017/", "test", timeout_s=LIMIT_S)
    error = await refused(archive.open())
    assert str(error).startswith("storage.mongo_url cannot be used")
    assert "hunter" not in str(error)


async def test_a_closed_archive_refuses_and_knows_that_nothing_was_written() -> None:
    archive = MongoArchive("mongodb://127.0.0.1/", "test", timeout_s=LIMIT_S)
    for call in (archive.ping(), archive.create_conversation(op(), talk())):
        assert not (await refused(call)).unknown


# --- killed ----------------------------------------------------------------------------------------------


async def test_what_was_acknowledged_survives_kill_9() -> None:
    async with running_mongo() as server, opened(server.url) as archive:
        await made(archive, talk())
        for round_ in range(3):
            for number in range(5):
                name = f"r{round_}-{number}"
                await archive.insert_request(op(), asked(name, round_ * 5 + number + 1))
                await end(archive, name, ended_at=1000 + number)
            await server.kill()
            await server.start()
            for number in range(5):
                kept = await insisting(lambda: archive.request("acme", f"r{round_}-{number}"))  # noqa: B023
                assert kept.state == "completed"
                assert list(await archive.usage("acme", f"r{round_}-{number}")) == [row()]
        talked = await archive.conversation("acme", "talk")
        assert talked is not None
        assert (talked.ordinal, talked.head, talked.updated_at) == (15, "a-r2-4", 1500)


async def test_without_a_server_calls_end_in_time_and_go_on_when_it_is_back() -> None:
    async with running_mongo() as server, hasty(server) as archive:
        again = op()
        await server.kill()
        await refused(archive.insert_request(again, asked("r1")))  # may have been sent on an old connection
        error = await refused(archive.insert_request(again, asked("r1")))
        assert not error.unknown, "no server was found: nothing was sent"
        assert not (await refused(archive.request("acme", "r1"))).unknown
        await server.start()
        assert await insisting(lambda: archive.insert_request(again, asked("r1"))) == (asked("r1"), True)


async def test_a_call_whose_server_is_killed_under_it_is_unknown_and_its_repeat_is_its_own() -> None:
    async with running_mongo() as server, hasty(server) as archive:
        again = op()
        server.stop()
        async with asyncio.TaskGroup() as tasks:
            calling = tasks.create_task(refused(archive.insert_request(again, asked("r1", title="its name"))))
            await asyncio.sleep(0.2)  # it waits for an answer by now
            await server.kill()
        assert calling.result().unknown
        await server.start()
        assert await insisting(lambda: archive.insert_request(again, asked("r1", title="its name"))) == (
            asked("r1"),
            True,
        )
        assert await archive.conversation("acme", "talk") == replace(talk(), ordinal=1, head="a-r1", title="its name")


async def test_a_server_that_is_back_in_time_is_asked_again_by_the_driver() -> None:
    async with running_mongo() as server, opened(server.url) as archive:
        await made(archive, talk())
        server.stop()
        async with asyncio.TaskGroup() as tasks:
            calling = tasks.create_task(archive.insert_request(op(), asked("r1")))
            await asyncio.sleep(0.2)
            await server.kill()
            await server.start()
        assert calling.result() == (asked("r1"), True)


# --- stopped ---------------------------------------------------------------------------------------------


WRITES: dict[str, Callable[[Archive], Awaitable[Any]]] = {
    "create_conversation": lambda archive: archive.create_conversation("once", talk("new")),
    "set_member": lambda archive: archive.set_member("acme", "talk", "bob", "editor"),
    "delete_conversation": lambda archive: archive.delete_conversation("acme", "else"),
    "insert_request": lambda archive: archive.insert_request("once", asked("new", 2, "a-r1", title="its name")),
    "end_request": lambda archive: end(archive, "r1", usage=[row(1, 1), row(1, 2)]),
    "end_request that was cancelled": lambda archive: end(archive, "r3", ending=ending("cancelled")),
    "end_request that is refused": lambda archive: end(archive, "r3"),
    "park_request": lambda archive: archive.park_request("acme", "r1", checkpoint={"at": 1}),
    "record_cancel": lambda archive: cancel(archive, "r1"),
    "record_cancel that came before": lambda archive: cancel(archive, "later"),
    "forget_cancels": lambda archive: archive.forget_cancels(10_000),
    "add_feedback": lambda archive: archive.add_feedback("acme", "r1", "ann", rating=1, comment=None, at=5),
    "due_reports": lambda archive: archive.due_reports("once", 10_000, pauses_ms=[1_000], limit=10),
    "reported": lambda archive: archive.reported("acme", "r1"),
    "add_trace": lambda archive: archive.add_trace("acme", "r1", 1, {"spans": []}),
    "put_tenant": lambda archive: archive.put_tenant("acme", {"features": []}, replaces=1, entry=audited("once")),
    "add_audit": lambda archive: archive.add_audit(audited("once")),
}
LOOKS: dict[str, Callable[[Archive], Awaitable[Any]]] = {
    "ping": lambda archive: archive.ping(),
    "conversation": lambda archive: archive.conversation("acme", "talk"),
    "list_conversations": lambda archive: archive.list_conversations("acme", "ann", limit=10),
    "expire": lambda archive: archive.expire(1, limit=10),
    "request": lambda archive: archive.request("acme", "r1"),
    "recorded_cancel": lambda archive: archive.recorded_cancel("acme", "early", "ann", since=0),
    "open_requests": lambda archive: archive.open_requests(limit=10),
    "jobs": lambda archive: archive.jobs(limit=10),
    "messages": lambda archive: archive.messages("acme", "talk", leaf="a-r1", limit=10, max_bytes=1000),
    "message": lambda archive: archive.message("acme", "talk", "u-r1"),
    "usage": lambda archive: archive.usage("acme", "r1"),
    "traces": lambda archive: archive.traces("acme", "r1"),
    "spent": lambda archive: archive.spent("acme", 0),
    "usage_sums": lambda archive: archive.usage_sums(["day"], tenant_id="acme"),
    "tenant": lambda archive: archive.tenant("acme"),
    "tenants": lambda archive: archive.tenants(["acme"]),
    "tenant_versions": lambda archive: archive.tenant_versions(["acme"]),
    "audit": lambda archive: archive.audit("acme", limit=10),
}


async def prepare(archive: Archive) -> None:
    """What the calls above need."""
    await made(archive, talk(), talk("else"))
    await archive.insert_request(op(), asked("r1", title=None))
    await archive.insert_request(op(), asked("r2", conversation_id="else"))
    await archive.insert_request(op(), asked("r3", 3))
    await archive.insert_request(op(), asked("told", 2, conversation_id="else", spec={"reported": True}))
    await end(archive, "told", 2)
    await cancel(archive, "r3")
    await cancel(archive, "early")
    await archive.add_feedback("acme", "r2", "bob", rating="bad", comment="why", at=5)
    await archive.put_tenant("acme", {}, replaces=0, entry=audited("before"))


async def test_a_server_that_does_not_answer_holds_no_call_longer_than_its_limit() -> None:
    async with running_mongo() as server:
        async with opened(server.url) as archive:
            await prepare(archive)
        async with opened(server.url, timeout_s=LIMIT_S) as archive:
            server.stop()
            # More calls than the driver has threads and connections for.
            async with asyncio.TaskGroup() as tasks:
                writes = {name: tasks.create_task(refused(call(archive))) for name, call in WRITES.items()}
                looks = [tasks.create_task(refused(call(archive))) for call in [*LOOKS.values()] * 3]
            server.go_on()
            assert not any(look.result().unknown for look in looks)
            await insisting(archive.ping)
            if not writes["create_conversation"].result().unknown:
                assert await archive.conversation("acme", "new") is None
            if not writes["insert_request"].result().unknown:
                assert await archive.request("acme", "new") is None
            for name, call in WRITES.items():
                answer = await insisting(lambda: call(archive))  # noqa: B023
                assert name not in ("create_conversation", "insert_request") or answer[1], "its repeat is its own"


async def test_a_write_that_was_sent_and_not_answered_is_unknown() -> None:
    async with running_mongo() as server, hasty(server) as archive:
        server.stop()
        error = await refused(archive.insert_request("once", asked("r1")))
        assert error.unknown
        assert not (await refused(archive.request("acme", "r1"))).unknown
        server.go_on()
        assert (await insisting(lambda: archive.insert_request("once", asked("r1"))))[1]


# --- answers of a replica set in trouble -----------------------------------------------------------------


@pytest.fixture
async def server() -> AsyncIterator[MongoServer]:
    async with running_mongo() as server:
        yield server


async def test_a_write_that_may_be_sent_again_is_sent_again_once(server: MongoServer) -> None:
    async with opened(server.url) as archive:
        await made(archive, talk())
        # Not one that tells of a new primary: the driver would wait for it, and this server has none to offer.
        unreachable = {"errorCode": 6, "errorLabels": ["RetryableWriteError"]}
        with server.failing("insert", times=1, **unreachable):
            assert (await archive.insert_request(op(), asked("r1")))[1]
    async with opened(server.url, timeout_s=LIMIT_S) as archive:
        with server.failing("insert", **unreachable):
            error = await refused(archive.insert_request("once", asked("r2", 2)))
        assert error.unknown
        assert (await insisting(lambda: archive.insert_request("once", asked("r2", 2))))[1]


async def test_a_write_that_no_majority_has_is_unknown_and_its_repeat_is_its_own(server: MongoServer) -> None:
    async with opened(server.url, timeout_s=LIMIT_S) as archive:
        await insisting(lambda: made(archive, talk()))
        not_agreed = {"writeConcernError": {"code": 64, "codeName": "WriteConcernTimeout", "errmsg": "by the test"}}
        with server.failing("insert", times=1, **not_agreed):
            error = await refused(archive.insert_request("once", asked("r1")))
            assert error.unknown
        assert await archive.insert_request("once", asked("r1")) == (asked("r1"), True)
        with server.failing("insert", times=1, **not_agreed):  # the ledger's rows
            error = await refused(end(archive, "r1"))
            assert error.unknown
        record = await archive.request("acme", "r1")
        assert record is not None
        assert record.state == "open", "it does not end before its usage is safe"
        await end(archive, "r1")
        assert list(await archive.usage("acme", "r1")) == [row()]


async def test_errors_name_what_happened_and_nobody_s_data(server: MongoServer) -> None:
    async with opened(server.url) as archive:
        with server.failing("find", errorCode=13):
            error = await refused(archive.request("acme", "secret-name"))
    assert str(error).startswith("MongoDB refused: ")
    assert "secret-name" not in str(error)


# --- our own process gone in between ---------------------------------------------------------------------


class Crash(BaseException):
    """The process is gone: nothing catches it, nothing is cleaned up."""


Event = Callable[[], Awaitable[Any]]
_WRITES = ("insert_one", "insert_many", "update_one", "delete_one", "delete_many")


def at_write(
    monkeypatch: pytest.MonkeyPatch, write: int, *, before: Event | None = None, after: Event | None = None
) -> None:
    """Let something happen right before or right after the given write of what follows.

    The driver sends a write when it is called, not when it is awaited: hence its methods are wrapped.
    """
    collection: Any = mongo.AsyncIOMotorCollection
    count = 0

    def wrapped(plain: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            is_meant = count == write
            if is_meant and before is not None:
                await before()
            answer = await plain(*args, **kwargs)
            if is_meant and after is not None:
                await after()
            return answer

        return call

    for name in _WRITES:
        monkeypatch.setattr(collection, name, wrapped(getattr(collection, name)))


def crash_at(monkeypatch: pytest.MonkeyPatch, write: int, *, done: bool) -> None:
    """Crash at the given write of what follows, before it or right after it was done."""

    async def crash() -> None:
        raise Crash

    at_write(monkeypatch, write, **{"after" if done else "before": crash})


async def everything(archive: MongoArchive) -> dict[str, list[Any]]:
    """All documents, but for the names that the database gives by itself."""
    db = archive._database()
    kept: dict[str, list[Any]] = {}
    for name in mongo.INDEXES:
        documents = await db[name].find({}, {"_id": False}).to_list(None)
        kept[name] = sorted((dict(sorted(one.items())) for one in documents), key=repr)
    return kept


def without_ops(kept: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Operation ids differ from run to run."""
    return {name: [{**one, "op": None} for one in documents] for name, documents in kept.items()}


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("name", WRITES)
async def test_a_repeat_heals_a_crash_at_any_write(name: str, done: bool) -> None:
    call = WRITES[name]
    async with fresh_database() as (url, database), opened(url, database) as archive:
        await prepare(archive)
        answer = await call(archive)
        expected = without_ops(await everything(archive))
    write = 1
    while True:
        async with fresh_database() as (url, database):
            with pytest.MonkeyPatch.context() as monkeypatch:
                async with opened(url, database) as archive:
                    await prepare(archive)
                    crash_at(monkeypatch, write, done=done)
                    try:
                        await call(archive)
                    except Crash:
                        pass
                    else:
                        break
            async with opened(url, database) as archive:
                assert await call(archive) == answer
                assert without_ops(await everything(archive)) == expected
        write += 1
    assert (write > 1) == (name != "end_request that is refused"), "the call writes, unless it is refused"


async def test_an_insert_that_nobody_repeats_is_healed_by_whoever_meets_it_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def heal_by_end(archive: Archive) -> None:
        await end(archive, "r1")

    async def heal_by_another(archive: Archive) -> None:
        assert not (await archive.insert_request("of another", asked("r1", 7)))[1]

    for heal in (heal_by_end, heal_by_another):
        async with fresh_database() as (url, database), opened(url, database) as archive:
            await made(archive, talk())
            with monkeypatch.context() as patched:
                crash_at(patched, 1, done=True)
                with pytest.raises(Crash):
                    await archive.insert_request(op(), asked("r1", title="its name"))
            assert await archive.conversation("acme", "talk") == talk()
            assert await archive.message("acme", "talk", "u-r1") == asked("r1").input, "there at once"
            await heal(archive)
            talked = await archive.conversation("acme", "talk")
            assert talked is not None
            assert (talked.ordinal, talked.head, talked.title) == (1, "a-r1", "its name")


async def test_what_has_ended_has_its_usage_and_its_place_whatever_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    for write in (1, 2, 3):
        async with fresh_database() as (url, database), opened(url, database) as archive:
            await made(archive, talk())
            await archive.insert_request(op(), asked("r1"))
            with monkeypatch.context() as patched:
                crash_at(patched, write, done=True)
                with pytest.raises(Crash):
                    await end(archive, "r1")
            record = await archive.request("acme", "r1")
            assert record is not None
            assert record.state == ("completed" if write == 3 else "open")
            if write == 3:
                assert record.answer == reply("r1")
                assert list(await archive.usage("acme", "r1")) == [row()]


# --- many at once ----------------------------------------------------------------------------------------


async def test_of_many_inserts_at_once_one_wins_and_all_see_the_same() -> None:
    async with fresh_database() as (url, database):
        async with opened(url, database) as one, opened(url, database) as other:
            await made(one, talk())
            answers = await asyncio.gather(
                *(
                    (one, other)[n % 2].insert_request(f"op-{n}", asked("r1", fingerprint=f"print-{n}"))
                    for n in range(8)
                )
            )
            assert sum(by_me for _, by_me in answers) == 1
            assert len({record.fingerprint for record, _ in answers}) == 1


async def test_of_many_endings_at_once_one_stands_and_all_see_the_same() -> None:
    async with fresh_database() as (url, database):
        async with opened(url, database) as one, opened(url, database) as other:
            await made(one, talk())
            await one.insert_request(op(), asked("r1"))
            outcomes = ["completed", "failed", "cancelled", "interrupted"] * 2
            answers = await asyncio.gather(
                *(end((one, other)[n % 2], "r1", ending=ending(outcome), run=n) for n, outcome in enumerate(outcomes))
            )
            assert all(answer == answers[0] for answer in answers)
            assert await one.request("acme", "r1") == answers[0]
            assert list(await one.usage("acme", "r1")) == [row()]


async def test_roles_given_at_once_are_all_kept() -> None:
    async with fresh_database() as (url, database):
        async with opened(url, database) as archive:
            await made(archive, talk())
            users = [f"user-{n}" for n in range(8)]
            await asyncio.gather(*(archive.set_member("acme", "talk", user, "viewer") for user in users * 2))
            talked = await archive.conversation("acme", "talk")
            assert talked is not None
            assert talked.members == dict.fromkeys(users, "viewer")
            stored = await archive._database()["conversations"].find_one({"conversation": "talk"})
            assert stored is not None
            assert len(stored["members"]) == len(users)


# --- a cancel and what happens at the same time ----------------------------------------------------------


@pytest.mark.parametrize("write", [1, 2, 3])
async def test_an_ending_that_a_cancel_overtakes_is_refused_and_the_next_counts_once(
    monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    async with fresh_database() as (url, database), opened(url, database) as archive:
        await made(archive, talk())
        await archive.insert_request(op(), asked("r1"))
        with monkeypatch.context() as patched:
            at_write(patched, write, before=lambda: cancel(archive, "r1"))
            assert await end(archive, "r1") == replace(asked("r1"), cancel=ANN)
        assert await archive.request("acme", "r1") == replace(asked("r1"), cancel=ANN)
        record = await end(archive, "r1", ending=ending("cancelled"))
        assert record is not None
        assert (record.state, record.cancel) == ("cancelled", ANN)
        assert list(await archive.usage("acme", "r1")) == [row()]


async def test_an_ending_as_cancelled_shows_the_mark_that_came_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fresh_database() as (url, database), opened(url, database) as archive:
        await made(archive, talk())
        await archive.insert_request(op(), asked("r1"))
        with monkeypatch.context() as patched:
            at_write(patched, 3, before=lambda: cancel(archive, "r1"))
            record = await end(archive, "r1", ending=ending("cancelled"))
        assert record is not None
        assert (record.state, record.cancel) == ("cancelled", ANN)
        assert await archive.request("acme", "r1") == record


async def test_a_cancel_that_an_ending_overtakes_finds_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fresh_database() as (url, database), opened(url, database) as archive:
        await made(archive, talk())
        await archive.insert_request(op(), asked("r1"))
        with monkeypatch.context() as patched:
            at_write(patched, 1, before=lambda: end(archive, "r1"))
            record = await cancel(archive, "r1")
        assert record is not None
        assert (record.state, record.cancel) == ("completed", None)


async def test_a_request_that_is_inserted_while_its_cancel_is_kept_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was absent when it was to be marked, and whoever inserted it may have looked before the cancel was kept."""
    async with fresh_database() as (url, database), opened(url, database) as archive:
        await made(archive, talk())

        async def insert() -> None:
            await archive.insert_request(op(), asked("r1"))
            assert await kept(archive, "r1") is None, "whoever inserts has seen nothing of it"

        with monkeypatch.context() as patched:
            at_write(patched, 2, before=insert)
            assert await cancel(archive, "r1") == replace(asked("r1"), cancel=ANN)
        assert await archive.request("acme", "r1") == replace(asked("r1"), cancel=ANN)


async def test_another_user_s_request_that_is_inserted_meanwhile_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fresh_database() as (url, database), opened(url, database) as archive:
        await made(archive, talk())
        with monkeypatch.context() as patched:
            at_write(patched, 2, before=lambda: archive.insert_request(op(), asked("r1")))
            assert await cancel(archive, "r1", "bob", BOB) is None
        assert await archive.request("acme", "r1") == asked("r1")


async def test_a_cancel_that_crashed_and_is_not_repeated_is_whole_or_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for write, done, is_kept in ((1, True, False), (2, False, False), (2, True, True)):
        async with fresh_database() as (url, database), opened(url, database) as archive:
            await made(archive, talk())
            with monkeypatch.context() as patched:
                crash_at(patched, write, done=done)
                with pytest.raises(Crash):
                    await cancel(archive, "r1")
            assert await kept(archive, "r1") == (ANN if is_kept else None)
            assert await archive.insert_request(op(), asked("r1")) == (asked("r1"), True)


async def test_of_many_cancels_at_once_one_stands_and_all_see_the_same() -> None:
    marks = [{"by": f"user-{n}", "reason": None} for n in range(8)]
    async with fresh_database() as (url, database):
        async with opened(url, database) as one, opened(url, database) as other:
            await made(one, talk())
            await one.insert_request(op(), asked("r1"))
            for name in ("r1", "later"):
                answers = await asyncio.gather(
                    *(cancel((one, other)[n % 2], name, mark=mark, at=n) for n, mark in enumerate(marks))
                )
                assert all(answer == answers[0] for answer in answers)
            record = await other.request("acme", "r1")
            assert record is not None
            assert record.cancel in marks
            assert await kept(one, "later", since=7) in marks
