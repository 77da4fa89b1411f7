"""The contract of `Archive`, second part: requests, their endings, the branches of messages, usage, feedback."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from turnwire_protocol import Message, TextPart
from turnwire_server.archive.base import Archive, Billing, RequestRecord, UsageRow

from .archive_conversations import made, talk
from .kit import ending, op


def asked(name: str, ordinal: int = 1, parent: str | None = None, **fields: Any) -> RequestRecord:
    """A request ``name`` whose messages are ``u-name`` and ``a-name``."""
    message = Message(
        message_id=f"u-{name}",
        request_id=name,
        role="user",
        author="ann",
        parts=[TextPart(text=f"question {name} 😀")],
        status="complete",
        created_at=ordinal * 100,
        parent_id=parent,
        ordinal=ordinal,
    )
    known: dict[str, Any] = {
        "tenant_id": "acme",
        "request_id": name,
        "conversation_id": "talk",
        "user_id": "ann",
        "fingerprint": f"print-{name}",
        "ordinal": ordinal,
        "spec": {"some": ["json", None]},
        "input": message,
        "answer_id": f"a-{name}",
        "created_at": ordinal * 100,
    }
    return RequestRecord(**{**known, **fields})


def reply(name: str, ordinal: int = 1, text: str | None = None) -> Message:
    return Message(
        message_id=f"a-{name}",
        request_id=name,
        role="assistant",
        parts=[TextPart(text=text or f"answer {name}")],
        status="complete",
        created_at=ordinal * 100 + 50,
        parent_id=f"u-{name}",
        ordinal=ordinal,
    )


def row(step: int = 1, attempt: int = 1, **fields: Any) -> UsageRow:
    known: dict[str, Any] = {
        "step": step,
        "attempt": attempt,
        "deployment": "one",
        "outcome": "completed",
        "input_tokens": 10,
        "output_tokens": 5,
        "cached_tokens": 0,
        "cost_usd": "0.000123",
        "source": "provider",
    }
    return UsageRow(**{**known, **fields})


async def end(archive: Archive, name: str, ordinal: int = 1, **fields: Any) -> RequestRecord | None:
    known: dict[str, Any] = {
        "ending": ending(),
        "answer": reply(name, ordinal),
        "usage": [row()],
        "billing": Billing("ann", "talk"),
        "run": 1,
        "ended_at": ordinal * 100 + 60,
    }
    return await archive.end_request("acme", name, **{**known, **fields})


async def turn(archive: Archive, name: str, ordinal: int, parent: str | None = None) -> None:
    """A request that has ended."""
    await archive.insert_request(op(), asked(name, ordinal, parent))
    await end(archive, name, ordinal)


async def open_pages(archive: Archive, tenant_id: str | None, limit: int) -> list[tuple[str, str]]:
    """All open requests, page by page."""
    seen: list[tuple[str, str]] = []
    after = None
    while page := await archive.open_requests(tenant_id, limit=limit, after=after):
        assert len(page) <= limit
        seen += [(record.tenant_id, record.request_id) for record in page]
        after = (page[-1].created_at, page[-1].tenant_id, page[-1].request_id)
    return seen


class Requests:
    async def test_a_new_one_stands_as_it_was_given(self, archive: Archive) -> None:
        await made(archive, talk())
        assert await archive.insert_request(op(), asked("r1")) == (asked("r1"), True)
        assert await archive.request("acme", "r1") == asked("r1")
        assert await archive.message("acme", "talk", "u-r1") == asked("r1").input

    async def test_any_json_is_kept_as_it_is(self, archive: Archive) -> None:
        strange = {"a.b": {"$set": 1, "": [1.5, None, True, 2**53]}, "$where": "x\0y", "😀": "\U0010ffff"}
        await made(archive, talk(metadata=strange, title="$title"))
        await archive.insert_request(op(), asked("r1", spec=strange, title="$head"))
        record = await archive.request("acme", "r1")
        assert record is not None
        assert record.spec == strange
        await end(archive, "r1", ending={**ending(), "fields": strange})
        record, talked = await archive.request("acme", "r1"), await archive.conversation("acme", "talk")
        assert record is not None
        assert record.ending == {**ending(), "fields": strange}
        assert talked is not None
        assert (talked.metadata, talked.title, talked.head) == (strange, "$title", "a-r1")

    async def test_a_title_is_a_text_whatever_it_looks_like(self, archive: Archive) -> None:
        await made(archive, talk())
        await archive.insert_request(op(), asked("r1", title="$head"))
        talked = await archive.conversation("acme", "talk")
        assert talked is not None
        assert talked.title == "$head"

    async def test_its_answer_does_not_stand_yet(self, archive: Archive) -> None:
        await made(archive, talk())
        await archive.insert_request(op(), asked("r1"))
        assert await archive.message("acme", "talk", "a-r1") is None

    async def test_only_the_first_is_inserted(self, archive: Archive) -> None:
        await made(archive, talk())
        await archive.insert_request(op(), asked("r1"))
        stands, by_me = await archive.insert_request(op(), asked("r1", 2, fingerprint="other"))
        assert (stands, by_me) == (asked("r1"), False)

    async def test_a_repeat_knows_that_it_was_itself(self, archive: Archive) -> None:
        await made(archive, talk())
        again = op()
        await archive.insert_request(again, asked("r1"))
        await end(archive, "r1")
        stands, by_me = await archive.insert_request(again, asked("r1"))
        assert (stands.state, by_me) == ("completed", True)

    async def test_the_conversation_moves_on_with_it(self, archive: Archive) -> None:
        await made(archive, talk())
        await archive.insert_request(op(), asked("r2", 2, title="its name"))
        record = await archive.conversation("acme", "talk")
        assert record == replace(talk(), updated_at=200, ordinal=2, head="a-r2", title="its name")
        await archive.insert_request(op(), asked("r1", 1, title="another"))  # later, but it came before
        record = await archive.conversation("acme", "talk")
        assert record is not None
        assert (record.ordinal, record.head, record.updated_at, record.title) == (2, "a-r2", 200, "its name")

    async def test_a_place_in_a_conversation_is_given_once(self, archive: Archive) -> None:
        await made(archive, talk(), talk("else"), talk(tenant_id="other"))
        for name, ordinal in (("r1", 1), ("r3", 3)):
            await archive.insert_request(op(), asked(name, ordinal))
        for _ in range(2):
            stands, by_me = await archive.insert_request(op(), asked("late", 1))
            assert (stands, by_me) == (asked("r3", 3), False), "the newest: above it is place"
            assert await archive.request("acme", "late") is None
            assert await archive.message("acme", "talk", "u-late") is None
        record = await archive.conversation("acme", "talk")
        assert record is not None
        assert (record.ordinal, record.head) == (3, "a-r3")
        for place in ({"conversation_id": "else"}, {"tenant_id": "other"}):
            assert (await archive.insert_request(op(), asked(f"in-{[*place]}", 1, **place)))[1]
        for name, ordinal in (("late", 4), ("between", 2)):
            assert await archive.insert_request(op(), asked(name, ordinal)) == (asked(name, ordinal), True)

    async def test_its_place_is_free_once_its_conversation_is_gone(self, archive: Archive) -> None:
        await made(archive, talk())
        await archive.insert_request(op(), asked("r1"))
        await archive.delete_conversation("acme", "talk")
        await made(archive, talk())
        assert await archive.insert_request(op(), asked("r2")) == (asked("r2"), True)

    async def test_what_has_ended_keeps_its_place(self, archive: Archive) -> None:
        await made(archive, talk())
        await turn(archive, "r1", 1)
        stands, by_me = await archive.insert_request(op(), asked("late"))
        assert (stands.request_id, stands.state, by_me) == ("r1", "completed", False)

    async def test_a_title_that_was_given_stays(self, archive: Archive) -> None:
        await made(archive, talk(title="given"))
        await archive.insert_request(op(), asked("r1", title="its name"))
        record = await archive.conversation("acme", "talk")
        assert record is not None
        assert record.title == "given"

    async def test_tenants_do_not_share_ids(self, archive: Archive) -> None:
        await made(archive, talk(), talk(tenant_id="other"))
        await archive.insert_request(op(), asked("r1"))
        assert await archive.request("other", "r1") is None
        assert (await archive.insert_request(op(), asked("r1", tenant_id="other")))[1]

    async def test_what_has_not_ended_is_listed_by_age(self, archive: Archive) -> None:
        await made(archive, talk(), talk(tenant_id="other"))
        for name, ordinal in (("r3", 3), ("r1", 1), ("r2", 2)):
            await archive.insert_request(op(), asked(name, ordinal))
        await archive.insert_request(op(), asked("x", 4, tenant_id="other"))
        await end(archive, "r2", 2)
        assert [r.request_id for r in await archive.open_requests(limit=10)] == ["r1", "r3", "x"]
        assert [r.request_id for r in await archive.open_requests("acme", limit=10)] == ["r1", "r3"]
        assert [r.request_id for r in await archive.open_requests(limit=1)] == ["r1"]

    async def test_requests_in_the_background_are_listed_newest_first(self, archive: Archive) -> None:
        async def found(tenant_id: str | None = None, *states: str, since_ms: int = 0, limit: int = 10) -> list[str]:
            records = await archive.jobs(tenant_id, states=states, since_ms=since_ms, limit=limit)
            return [record.request_id for record in records]

        await made(archive, talk(), talk(tenant_id="other"))
        later = {"spec": {"background": True}}
        for name, ordinal in (("r3", 3), ("r1", 1), ("r2", 2)):
            await archive.insert_request(op(), asked(name, ordinal, **later))
        await archive.insert_request(op(), asked("now", 4, spec={"background": False}))
        await archive.insert_request(op(), asked("x", 5, tenant_id="other", **later))
        await end(archive, "r2", 2)
        assert await found() == ["x", "r3", "r2", "r1"]
        assert await found("acme") == ["r3", "r2", "r1"]
        assert await found("acme", "completed", "failed") == ["r2"]
        assert await found(None, "open") == ["x", "r3", "r1"]
        assert await found(since_ms=300) == ["x", "r3"]
        assert await found(limit=1) == ["x"]
        (record,) = await archive.jobs("acme", states=["completed"], limit=1)
        assert (record, record.ending) == (await archive.request("acme", "r2"), ending())
        await archive.delete_conversation("acme", "talk")
        assert await found() == ["x"]

    async def test_an_end_is_due_to_be_reported_until_it_is_or_has_been_tried_enough(self, archive: Archive) -> None:
        async def due(now_ms: int, *, by: str = "", limit: int = 10) -> list[tuple[str, int]]:
            found = await archive.due_reports(by or op(), now_ms, pauses_ms=[100, 200, 400], limit=limit)
            return sorted((report.record.request_id, report.tries) for report in found)

        await made(archive, talk(), talk(tenant_id="other"))
        for name, ordinal in (("r1", 1), ("r2", 2), ("r3", 3)):
            await archive.insert_request(op(), asked(name, ordinal, spec={"background": True, "reported": True}))
        await archive.insert_request(op(), asked("silent", 4, spec={"background": True}))
        await archive.insert_request(op(), asked("r1", 1, tenant_id="other", spec={"reported": True}))
        assert await due(1000) == []
        for name, ordinal in (("r1", 1), ("r2", 2), ("silent", 4)):
            await end(archive, name, ordinal)
        assert await due(1000, by="first") == [("r1", 1), ("r2", 1)]
        assert await due(1000, by="first") == [("r1", 1), ("r2", 1)], "a repeat"
        assert await due(1099) == [], "somebody is about to"
        await archive.reported("acme", "r1")
        await archive.reported("acme", "r1")
        await archive.reported("acme", "nobody")
        assert await due(1100) == [("r2", 2)]
        assert await due(1299) == []
        (report,) = await archive.due_reports(op(), 1300, pauses_ms=[100, 200, 400], limit=10)
        assert (report.record, report.tries) == (await archive.request("acme", "r2"), 3)
        assert await due(99_999) == [], "it has been tried enough"
        await end(archive, "r3", 3)
        assert await due(2000, limit=1) == [("r3", 1)]
        await archive.delete_conversation("acme", "talk")
        assert await due(99_999) == []

    @pytest.mark.parametrize("limit", [1, 2, 3, 7])
    async def test_pages_of_what_has_not_ended_leave_nothing_out(self, archive: Archive, limit: int) -> None:
        await made(archive, talk(), talk(tenant_id="other"))
        for name, ordinal, at in (("r3", 1, 100), ("r1", 2, 100), ("r2", 3, 200), ("r4", 4, 300)):
            await archive.insert_request(op(), asked(name, ordinal, created_at=at))
        await archive.insert_request(op(), asked("r1", 1, tenant_id="other"))
        await end(archive, "r2", 3)
        expected = [("acme", "r1"), ("acme", "r3"), ("other", "r1"), ("acme", "r4")]
        assert await open_pages(archive, None, limit) == expected
        assert await open_pages(archive, "acme", limit) == [key for key in expected if key[0] == "acme"]

    async def test_a_conversation_with_a_request_that_has_not_ended_does_not_expire(self, archive: Archive) -> None:
        await made(archive, talk(), talk("idle"), talk(tenant_id="other"))
        await archive.insert_request(op(), asked("r1"))
        assert list(await archive.expire(1000, limit=10)) == [("acme", "idle"), ("other", "talk")]
        assert list(await archive.expire(1000, limit=1)) == [("acme", "idle")]
        await end(archive, "r1")
        assert list(await archive.expire(1000, limit=10)) == [("acme", "idle"), ("other", "talk"), ("acme", "talk")]
        assert list(await archive.expire(160, limit=10)) == [("acme", "idle"), ("other", "talk")]

    async def test_they_go_with_their_conversation(self, archive: Archive) -> None:
        await made(archive, talk())
        await turn(archive, "r1", 1)
        await archive.delete_conversation("acme", "talk")
        assert await archive.request("acme", "r1") is None
        assert await archive.message("acme", "talk", "u-r1") is None
        assert await archive.open_requests(limit=10) == []
        assert list(await archive.usage("acme", "r1")) == [row()], "the ledger stays"


class Fences:
    """What those who go on with a request leave for those who were before them."""

    async def test_the_highest_stands(self, archive: Archive) -> None:
        await made(archive, talk())
        assert await archive.insert_request(op(), asked("r1", fence=5)) == (asked("r1", fence=5), True)
        for fence, stands in ((4, 5), (2**52, 2**52), (7, 2**52)):
            assert await archive.take_request("acme", "r1", fence) == asked("r1", fence=stands)
        assert await archive.request("acme", "r1") == asked("r1", fence=2**52)
        assert list(await archive.open_requests(limit=10)) == [asked("r1", fence=2**52)]
        assert (await archive.insert_request(op(), asked("r1", fence=2**53)))[0].fence == 2**52

    async def test_what_has_ended_is_not_taken(self, archive: Archive) -> None:
        await made(archive, talk())
        await archive.insert_request(op(), asked("r1"))
        ended = await end(archive, "r1")
        assert await archive.take_request("acme", "r1", 5) == ended
        assert await archive.request("acme", "r1") == ended

    async def test_it_stays_with_an_ending(self, archive: Archive) -> None:
        await made(archive, talk())
        await archive.insert_request(op(), asked("r1"))
        await archive.take_request("acme", "r1", 5)
        ended = await end(archive, "r1")
        assert ended is not None
        assert ended.fence == 5
        assert await archive.request("acme", "r1") == ended

    async def test_an_absent_request_cannot_be_taken(self, archive: Archive) -> None:
        await made(archive, talk())
        assert await archive.take_request("acme", "never", 5) is None
        assert await archive.insert_request(op(), asked("never")) == (asked("never"), True)

    async def test_it_goes_with_its_conversation(self, archive: Archive) -> None:
        await made(archive, talk())
        await archive.insert_request(op(), asked("r1"))
        await archive.take_request("acme", "r1", 5)
        await archive.delete_conversation("acme", "talk")
        await made(archive, talk())
        await archive.insert_request(op(), asked("r1"))
        assert await archive.request("acme", "r1") == asked("r1")

    async def test_tenants_do_not_share_it(self, archive: Archive) -> None:
        await made(archive, talk(), talk(tenant_id="other"))
        for tenant in ("acme", "other"):
            await archive.insert_request(op(), asked("r1", tenant_id=tenant))
        await archive.take_request("acme", "r1", 5)
        assert await archive.request("other", "r1") == asked("r1", tenant_id="other")


class Parking:
    """What a turn that waits for a person leaves behind."""

    CHECKPOINT = {"fold": {"a.b": 1, "$set": [None, "😀"]}, "": 0}  # noqa: RUF012

    async def test_a_checkpoint_stands_until_it_is_taken_away(self, archive: Archive) -> None:
        await made(archive, talk())
        await archive.insert_request(op(), asked("r1"))
        for checkpoint in ({"first": 1}, self.CHECKPOINT, None, self.CHECKPOINT):
            assert await archive.park_request("acme", "r1", checkpoint=checkpoint)
            assert await archive.request("acme", "r1") == replace(asked("r1"), checkpoint=checkpoint)
        (record,) = await archive.open_requests(limit=10)
        assert record.checkpoint == self.CHECKPOINT

    async def test_taking_away_what_is_not_there_is_no_error(self, archive: Archive) -> None:
        await made(archive, talk())
        await archive.insert_request(op(), asked("r1"))
        assert await archive.park_request("acme", "r1", checkpoint=None)
        assert await archive.request("acme", "r1") == asked("r1")

    async def test_it_ends_with_the_request(self, archive: Archive) -> None:
        await made(archive, talk())
        await archive.insert_request(op(), asked("r1"))
        await archive.park_request("acme", "r1", checkpoint=self.CHECKPOINT)
        record = await end(archive, "r1")
        assert record is not None
        assert (record.state, record.checkpoint) == ("completed", None)
        assert not await archive.park_request("acme", "r1", checkpoint=self.CHECKPOINT)
        assert not await archive.park_request("acme", "r1", checkpoint=None)
        assert await archive.request("acme", "r1") == record

    async def test_an_absent_request_cannot_be_parked(self, archive: Archive) -> None:
        assert not await archive.park_request("acme", "never", checkpoint={})
        assert await archive.request("acme", "never") is None

    async def test_it_goes_with_its_conversation(self, archive: Archive) -> None:
        await made(archive, talk())
        await archive.insert_request(op(), asked("r1"))
        await archive.park_request("acme", "r1", checkpoint=self.CHECKPOINT)
        await archive.delete_conversation("acme", "talk")
        await made(archive, talk())
        await archive.insert_request(op(), asked("r1"))
        assert await archive.request("acme", "r1") == asked("r1")

    async def test_tenants_do_not_share_it(self, archive: Archive) -> None:
        await made(archive, talk(), talk(tenant_id="other"))
        for tenant in ("acme", "other"):
            await archive.insert_request(op(), asked("r1", tenant_id=tenant))
        await archive.park_request("acme", "r1", checkpoint=self.CHECKPOINT)
        assert await archive.request("other", "r1") == asked("r1", tenant_id="other")


class Endings:
    async def test_an_ending_is_written_with_its_answer_and_usage(self, archive: Archive) -> None:
        await made(archive, talk())
        await archive.insert_request(op(), asked("r1"))
        record = await end(archive, "r1", run=3, usage=[row(1, 2), row(1, 1, outcome="failed")])
        assert record == replace(
            asked("r1"), state="completed", run=3, ended_at=160, ending=ending(), answer=reply("r1")
        )
        assert await archive.request("acme", "r1") == record
        assert await archive.message("acme", "talk", "a-r1") == reply("r1")
        assert list(await archive.usage("acme", "r1")) == [row(1, 1, outcome="failed"), row(1, 2)]
        talked = await archive.conversation("acme", "talk")
        assert talked is not None
        assert talked.updated_at == 160

    async def test_the_first_ending_stays(self, archive: Archive) -> None:
        await made(archive, talk())
        await archive.insert_request(op(), asked("r1"))
        first = await end(archive, "r1")
        second = await end(
            archive, "r1", ending=ending("failed"), answer=reply("r1", text="other"), usage=[], ended_at=999
        )
        assert second == first
        assert await archive.message("acme", "talk", "a-r1") == reply("r1")

    async def test_usage_is_counted_once_by_step_and_attempt(self, archive: Archive) -> None:
        await made(archive, talk())
        await archive.insert_request(op(), asked("r1"))
        await end(archive, "r1", usage=[row(1, 1), row(2, 1)])
        await end(archive, "r1", usage=[row(1, 1, input_tokens=99), row(2, 1), row(3, 1)])
        assert list(await archive.usage("acme", "r1")) == [row(1, 1), row(2, 1), row(3, 1)]

    async def test_an_ending_without_an_answer_leaves_none(self, archive: Archive) -> None:
        await made(archive, talk())
        await archive.insert_request(op(), asked("r1"))
        record = await end(archive, "r1", ending=ending("failed"), answer=None, usage=[])
        assert record is not None
        assert (record.state, record.answer) == ("failed", None)
        assert await archive.message("acme", "talk", "a-r1") is None

    async def test_of_a_deleted_request_only_the_usage_is_kept(self, archive: Archive) -> None:
        assert await end(archive, "gone") is None
        assert list(await archive.usage("acme", "gone")) == [row()]
        assert await archive.request("acme", "gone") is None

    async def test_money_is_kept_as_it_was_written(self, archive: Archive) -> None:
        await end(archive, "gone", usage=[row(cost_usd="0.000000000000123456789")])
        assert [kept.cost_usd for kept in await archive.usage("acme", "gone")] == ["0.000000000000123456789"]

    async def test_tenants_do_not_share_a_ledger(self, archive: Archive) -> None:
        await end(archive, "gone")
        assert list(await archive.usage("other", "gone")) == []


class Effects:
    async def test_they_only_grow_while_the_request_is_open(self, archive: Archive) -> None:
        await made(archive, talk())
        await archive.insert_request(op(), asked("r1"))
        for number in (2, 1):
            await archive.note_effects("acme", "r1", number)
        record = await archive.request("acme", "r1")
        assert record == replace(asked("r1"), effects=2)
        await end(archive, "r1")
        await archive.note_effects("acme", "r1", 3)
        record = await archive.request("acme", "r1")
        assert record is not None
        assert record.effects == 2
        await archive.note_effects("acme", "absent", 1)
        assert await archive.request("acme", "absent") is None


class Amending:
    async def test_what_was_presented_takes_the_place_of_the_answer(self, archive: Archive) -> None:
        await made(archive, talk())
        await turn(archive, "r1", 1)
        record = await archive.amend_answer("acme", "r1", reply("r1", text="ans"), presented=3)
        assert record is not None
        assert (record.answer, record.presented, record.ending) == (reply("r1", text="ans"), 3, ending())
        assert await archive.request("acme", "r1") == record
        assert await archive.message("acme", "talk", "a-r1") == reply("r1", text="ans")

    async def test_it_only_grows(self, archive: Archive) -> None:
        await made(archive, talk())
        await turn(archive, "r1", 1)
        await archive.amend_answer("acme", "r1", reply("r1", text="answ"), presented=4)
        for late in (3, 4):
            record = await archive.amend_answer("acme", "r1", reply("r1", text="late"), presented=late)
            assert record is not None
            assert (record.answer, record.presented) == (reply("r1", text="answ"), 4)

    async def test_what_has_not_ended_is_left_alone(self, archive: Archive) -> None:
        await made(archive, talk())
        await archive.insert_request(op(), asked("r1"))
        assert await archive.amend_answer("acme", "r1", reply("r1"), presented=3) is None
        assert await archive.amend_answer("acme", "absent", reply("absent"), presented=3) is None
        record = await archive.request("acme", "r1")
        assert record is not None
        assert (record.state, record.answer, record.presented) == ("open", None, 0)

    async def test_nothing_of_it_outlives_its_conversation(self, archive: Archive) -> None:
        await made(archive, talk())
        await turn(archive, "r1", 1)
        await archive.amend_answer("acme", "r1", reply("r1", text="ans"), presented=3)
        await archive.delete_conversation("acme", "talk")
        await made(archive, talk())
        await turn(archive, "r1", 1)
        record = await archive.request("acme", "r1")
        assert record is not None
        assert (record.answer, record.presented) == (reply("r1"), 0)

    async def test_a_request_is_found_by_its_messages(self, archive: Archive) -> None:
        await made(archive, talk())
        await archive.insert_request(op(), asked("r1"))
        for message_id in ("u-r1", "a-r1"):
            assert await archive.request_of("acme", message_id) == await archive.request("acme", "r1")
            assert await archive.request_of("other", message_id) is None
        assert await archive.request_of("acme", "r1") is None


class Branches:
    @pytest_asyncio.fixture(loop_scope="module")
    async def tree(self, archive: Archive) -> Archive:
        """r1 → r2 → r4, and r3 beside r2."""
        await made(archive, talk(), talk("else"))
        await turn(archive, "r1", 1)
        await turn(archive, "r2", 2, "a-r1")
        await turn(archive, "r3", 3, "a-r1")
        await turn(archive, "r4", 4, "a-r2")
        return archive

    async def ids(self, archive: Archive, leaf: str | None, **options: Any) -> tuple[list[str], str | None]:
        given = {"limit": 100, "max_bytes": 1_000_000, **options}
        page = await archive.messages("acme", "talk", leaf=leaf, **given)
        return [message.message_id for message in page.items], page.next

    async def test_a_branch_is_read_from_its_leaf_to_the_root(self, tree: Archive) -> None:
        assert await self.ids(tree, "a-r4") == (["u-r1", "a-r1", "u-r2", "a-r2", "u-r4", "a-r4"], None)
        assert await self.ids(tree, "a-r3") == (["u-r1", "a-r1", "u-r3", "a-r3"], None)
        assert await self.ids(tree, "u-r2") == (["u-r1", "a-r1", "u-r2"], None)

    async def test_messages_come_back_whole(self, tree: Archive) -> None:
        page = await tree.messages("acme", "talk", leaf="a-r1", limit=10, max_bytes=10_000)
        assert list(page.items) == [asked("r1").input, reply("r1")]

    async def test_a_parent_that_never_came_is_no_end(self, tree: Archive) -> None:
        """The claim between them was given back, or its node died before the archive had it."""
        await turn(tree, "r6", 6, "a-r5")
        whole = ["u-r1", "a-r1", "u-r2", "a-r2", "u-r4", "a-r4", "u-r6", "a-r6"]
        assert await self.ids(tree, "a-r6") == (whole, None)
        assert await self.ids(tree, "u-r6", below=True, up_to_ordinal=5) == (whole[:-2], None)
        assert await self.ids(tree, "a-r6", without=["r6"]) == (whole[:-2], None)
        assert await self.ids(tree, "a-r6", limit=3) == (whole[-3:], whole[-3])
        assert await self.ids(tree, whole[-2], below=True) == (whole[:-2], None)

    async def test_a_first_message_with_a_hole_before_it_is_the_root(self, archive: Archive) -> None:
        await made(archive, talk())
        await turn(archive, "r1", 1, "a-r0")
        assert await self.ids(archive, "a-r1") == (["u-r1", "a-r1"], None)

    async def test_an_unknown_leaf_gives_an_empty_page(self, tree: Archive) -> None:
        assert await self.ids(tree, "never") == ([], None)
        assert await self.ids(tree, None) == ([], None)
        page = await tree.messages("other", "talk", leaf="a-r4", limit=10, max_bytes=10_000)
        assert list(page.items) == []
        page = await tree.messages("acme", "else", leaf="a-r4", limit=10, max_bytes=10_000)
        assert list(page.items) == []

    @pytest.mark.parametrize("limit", [1, 2, 3, 5, 6])
    async def test_pages_lead_back_to_the_root_without_a_hole(self, tree: Archive, limit: int) -> None:
        leaf: str | None = "a-r4"
        below, pages = False, []
        while leaf is not None:
            ids, leaf = await self.ids(tree, leaf, limit=limit, below=below)
            assert 0 < len(ids) <= limit
            pages.append(ids)
            below = True
        whole = [message_id for page in reversed(pages) for message_id in page]
        assert whole == ["u-r1", "a-r1", "u-r2", "a-r2", "u-r4", "a-r4"]

    async def test_a_page_stays_within_its_bytes_but_has_one_message(self, tree: Archive) -> None:
        assert await self.ids(tree, "a-r4", max_bytes=1) == (["a-r4"], "a-r4")
        ids, following = await self.ids(tree, "a-r4", max_bytes=500)
        assert 1 <= len(ids) < 6
        assert following == ids[0]

    async def test_what_is_left_out_is_passed_over(self, tree: Archive) -> None:
        assert await self.ids(tree, "a-r4", without=["r2"]) == (["u-r1", "a-r1", "u-r4", "a-r4"], None)
        assert await self.ids(tree, "a-r4", without=["r4"]) == (["u-r1", "a-r1", "u-r2", "a-r2"], None)

    async def test_what_is_newer_is_passed_over(self, tree: Archive) -> None:
        assert await self.ids(tree, "a-r4", up_to_ordinal=2) == (["u-r1", "a-r1", "u-r2", "a-r2"], None)

    async def test_a_branch_finds_its_way_past_many_others(self, tree: Archive) -> None:
        for ordinal in range(5, 45):
            await tree.insert_request(op(), asked(f"x{ordinal}", ordinal, "a-r1"))
        await turn(tree, "r45", 45, "a-r2")
        expected = ["u-r1", "a-r1", "u-r2", "a-r2", "u-r45", "a-r45"]
        assert await self.ids(tree, "a-r45") == (expected, None)
        assert await self.ids(tree, "a-r45", limit=4) == (expected[2:], "u-r2")
        assert await self.ids(tree, "u-r2", limit=4, below=True) == (expected[:2], None)

    async def test_a_long_branch_is_read_page_by_page(self, tree: Archive) -> None:
        parent = "a-r4"
        for ordinal in range(5, 45):
            await tree.insert_request(op(), asked(f"r{ordinal}", ordinal, parent))
            parent = f"a-r{ordinal}"
        ids, following = await self.ids(tree, parent, limit=35)
        assert ids == [f"u-r{ordinal}" for ordinal in range(10, 45)]
        assert following == "u-r10"
        ids, following = await self.ids(tree, following, below=True)
        assert ids[:2] + ids[-1:] == ["u-r1", "a-r1", "u-r9"]
        assert (len(ids), following) == (11, None)

    async def test_an_answer_that_does_not_stand_yet_is_passed_over(self, tree: Archive) -> None:
        await tree.insert_request(op(), asked("r5", 5, "a-r4"))
        await tree.insert_request(op(), asked("r6", 6, "a-r5"))
        ids, _ = await self.ids(tree, "a-r6")
        assert ids[-4:] == ["u-r4", "a-r4", "u-r5", "u-r6"]


class Feedback:
    async def test_feedback_is_kept_for_requests_that_exist(self, archive: Archive) -> None:
        await made(archive, talk())
        await turn(archive, "r1", 1)
        for rating, comment in ((1, None), ("bad", "why so 😀?")):
            assert await archive.add_feedback("acme", "r1", "ann", rating=rating, comment=comment, at=5)
        assert not await archive.add_feedback("acme", "never", "ann", rating=1, comment=None, at=5)
        assert not await archive.add_feedback("other", "r1", "ann", rating=1, comment=None, at=5)
