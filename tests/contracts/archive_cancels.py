"""The contract of `Archive`, third part: cancels, of requests that are there and of those that are not yet."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from turnwire_protocol import TERMINAL_STATES
from turnwire_server.archive.base import ENDINGS_OF_CANCELLED, Archive, RequestRecord

from .archive_conversations import made, talk
from .archive_requests import asked, end, reply, row
from .kit import ending, op

ANN = {"by": "ann", "reason": "changed my mind"}
BOB = {"by": "bob", "reason": None}


async def cancel(
    archive: Archive,
    name: str,
    user: str = "ann",
    mark: Mapping[str, Any] = ANN,
    *,
    tenant: str = "acme",
    at: int = 5_000,
    any_user: bool = False,
) -> RequestRecord | None:
    return await archive.record_cancel(tenant, name, user, **mark, at=at, any_user=any_user)


async def kept(
    archive: Archive, name: str, user: str = "ann", *, tenant: str = "acme", since: int = 0
) -> Mapping[str, Any] | None:
    return await archive.recorded_cancel(tenant, name, user, since=since)


class Cancels:
    """Marks on requests that are there."""

    @pytest_asyncio.fixture(loop_scope="module")
    async def asking(self, archive: Archive) -> Archive:
        """With r1 of ann, which is open."""
        await made(archive, talk())
        await archive.insert_request(op(), asked("r1"))
        return archive

    async def test_an_open_request_is_marked(self, asking: Archive) -> None:
        marked = replace(asked("r1"), cancel=ANN)
        assert await cancel(asking, "r1") == marked
        assert await asking.request("acme", "r1") == marked
        assert list(await asking.open_requests(limit=10)) == [marked]
        assert (await asking.insert_request(op(), asked("r1")))[0] == marked
        assert await kept(asking, "r1") is None, "nothing is kept besides"

    async def test_the_first_mark_stays(self, asking: Archive) -> None:
        await cancel(asking, "r1")
        assert await cancel(asking, "r1", mark=BOB, at=9_000) == replace(asked("r1"), cancel=ANN)
        assert await asking.request("acme", "r1") == replace(asked("r1"), cancel=ANN)

    async def test_a_reason_may_be_absent_and_may_be_any_text(self, asking: Archive) -> None:
        await asking.insert_request(op(), asked("r2", 2))
        for name, reason in (("r1", None), ("r2", "$by.\0😀")):
            record = await cancel(asking, name, mark={"by": "$ann", "reason": reason})
            assert record is not None
            assert record.cancel == {"by": "$ann", "reason": reason}
            assert await asking.request("acme", name) == record

    async def test_another_user_s_is_left_alone_and_nothing_is_kept(self, asking: Archive) -> None:
        assert await cancel(asking, "r1", "bob", BOB) is None
        assert await asking.request("acme", "r1") == asked("r1")
        assert await kept(asking, "r1", "bob") is None
        assert await kept(asking, "r1") is None

    async def test_whoever_may_cancel_anybody_s_marks_it_with_himself(self, asking: Archive) -> None:
        assert await cancel(asking, "r1", "bob", BOB, any_user=True) == replace(asked("r1"), cancel=BOB)
        assert await cancel(asking, "r1") == replace(asked("r1"), cancel=BOB)

    @pytest.mark.parametrize("any_user", [False, True])
    async def test_one_that_has_ended_is_returned_as_it_stands(self, asking: Archive, any_user: bool) -> None:
        ended = await end(asking, "r1")
        assert ended is not None
        assert await cancel(asking, "r1", any_user=any_user) == ended
        assert await asking.request("acme", "r1") == ended
        assert ended.cancel is None
        assert await kept(asking, "r1") is None

    async def test_another_user_s_that_has_ended_is_not_shown(self, asking: Archive) -> None:
        await end(asking, "r1")
        assert await cancel(asking, "r1", "bob", BOB) is None
        assert await kept(asking, "r1", "bob") is None

    async def test_tenants_do_not_share_marks(self, asking: Archive) -> None:
        await made(asking, talk(tenant_id="other"))
        await asking.insert_request(op(), asked("r1", tenant_id="other"))
        await cancel(asking, "r1")
        assert await asking.request("other", "r1") == asked("r1", tenant_id="other")
        await cancel(asking, "r1", tenant="other", mark=BOB)
        assert await asking.request("acme", "r1") == replace(asked("r1"), cancel=ANN)

    @pytest.mark.parametrize("outcome", sorted(TERMINAL_STATES - ENDINGS_OF_CANCELLED))
    async def test_a_marked_request_refuses_other_endings_and_keeps_nothing_of_them(
        self, asking: Archive, outcome: str
    ) -> None:
        await asking.park_request("acme", "r1", checkpoint={"at": 1})
        marked = await cancel(asking, "r1")
        assert marked == replace(asked("r1"), cancel=ANN, checkpoint={"at": 1})
        before = await asking.conversation("acme", "talk")
        assert await end(asking, "r1", ending=ending(outcome), run=2, ended_at=999) == marked
        assert await asking.request("acme", "r1") == marked
        assert list(await asking.usage("acme", "r1")) == []
        assert await asking.message("acme", "talk", "a-r1") is None
        assert await asking.conversation("acme", "talk") == before

    @pytest.mark.parametrize("outcome", sorted(ENDINGS_OF_CANCELLED))
    async def test_it_ends_as_cancelled_or_merged_and_bears_its_mark_still(self, asking: Archive, outcome: str) -> None:
        await cancel(asking, "r1")
        await end(asking, "r1")
        record = await end(asking, "r1", ending=ending(outcome))
        assert record == replace(
            asked("r1"), state=outcome, ended_at=160, ending=ending(outcome), answer=reply("r1"), cancel=ANN
        )
        assert await asking.request("acme", "r1") == record
        assert list(await asking.usage("acme", "r1")) == [row()]
        assert await end(asking, "r1") == record, "the first ending stays, and is no refusal"
        assert await cancel(asking, "r1", mark=BOB) == record
        assert await asking.open_requests(limit=10) == []

    @pytest.mark.parametrize("outcome", sorted(ENDINGS_OF_CANCELLED))
    async def test_such_an_ending_needs_no_mark(self, asking: Archive, outcome: str) -> None:
        record = await end(asking, "r1", ending=ending(outcome))
        assert record is not None
        assert (record.state, record.cancel) == (outcome, None)

    async def test_a_cancel_and_an_ending_at_once_agree_on_who_came_first(self, archive: Archive) -> None:
        await made(archive, talk())
        for n in range(1, 9):
            await archive.insert_request(op(), asked(f"r{n}", n))
            calls = [end(archive, f"r{n}", n), cancel(archive, f"r{n}")]
            if n % 2:
                answers = await asyncio.gather(*calls)
            else:
                answers = (await asyncio.gather(*reversed(calls)))[::-1]
            ended, cancelled = answers
            assert ended is not None
            assert ended == cancelled == await archive.request("acme", f"r{n}")
            assert (ended.state, ended.cancel) in [("completed", None), ("open", ANN)]

    async def test_a_mark_goes_with_its_conversation(self, asking: Archive) -> None:
        await cancel(asking, "r1")
        await asking.delete_conversation("acme", "talk")
        await made(asking, talk())
        assert await asking.insert_request(op(), asked("r1")) == (asked("r1"), True)
        assert await kept(asking, "r1") is None
        record = await end(asking, "r1")
        assert record is not None
        assert record.state == "completed"


class EarlyCancels:
    """Cancels of requests that are not there."""

    async def test_one_is_kept_for_the_request_that_comes_later(self, archive: Archive) -> None:
        assert await kept(archive, "r1") is None
        assert await cancel(archive, "r1") is None
        assert await kept(archive, "r1") == ANN
        assert await kept(archive, "r1") == ANN, "it stays when it was found"
        await made(archive, talk())
        assert await archive.insert_request(op(), asked("r1")) == (asked("r1"), True)
        assert await kept(archive, "r1") == ANN

    async def test_it_is_kept_for_its_user_in_its_tenant(self, archive: Archive) -> None:
        await cancel(archive, "r1", mark={"by": "ann", "reason": "$at.\0😀"})
        assert await kept(archive, "r1") == {"by": "ann", "reason": "$at.\0😀"}
        assert await kept(archive, "r1", "bob") is None
        assert await kept(archive, "r1", tenant="other") is None
        assert await kept(archive, "r2") is None
        await cancel(archive, "r1", "bob", BOB, any_user=True)
        assert await kept(archive, "r1", "bob") == BOB
        assert await kept(archive, "r1") == {"by": "ann", "reason": "$at.\0😀"}

    async def test_it_counts_as_long_as_it_is_young_enough(self, archive: Archive) -> None:
        await cancel(archive, "r1", at=5_000)
        assert await kept(archive, "r1", since=5_000) == ANN
        assert await kept(archive, "r1", since=5_001) is None

    async def test_a_later_one_renews_it_and_an_earlier_one_does_not(self, archive: Archive) -> None:
        await cancel(archive, "r1", at=5_000)
        await cancel(archive, "r1", mark=BOB, at=7_000)
        await cancel(archive, "r1", at=6_000)
        assert await kept(archive, "r1", since=7_000) == ANN, "the first says who and why"
        assert await kept(archive, "r1", since=7_001) is None

    async def test_old_ones_are_forgotten_and_marks_are_not(self, archive: Archive) -> None:
        await made(archive, talk())
        await archive.insert_request(op(), asked("there"))
        for name, at in (("there", 1_000), ("old", 4_999), ("young", 5_000)):
            await cancel(archive, name, at=at)
        await cancel(archive, "old", tenant="other", at=4_999)
        await archive.forget_cancels(5_000)
        assert await kept(archive, "old") is None
        assert await kept(archive, "old", tenant="other") is None
        assert await kept(archive, "young") == ANN
        assert await archive.request("acme", "there") == replace(asked("there"), cancel=ANN)
        await cancel(archive, "old", mark=BOB, at=6_000)
        assert await kept(archive, "old") == BOB, "a new one owes nothing to what was forgotten"

    async def test_it_outlives_conversations(self, archive: Archive) -> None:
        await made(archive, talk())
        await cancel(archive, "r1")
        await archive.delete_conversation("acme", "talk")
        assert await kept(archive, "r1") == ANN

    async def test_a_cancel_and_an_insert_at_once_do_not_miss_each_other(self, archive: Archive) -> None:
        await made(archive, talk())

        async def insert(n: int) -> bool:
            record, _ = await archive.insert_request(op(), asked(f"r{n}", n))
            return record.cancel is not None or await kept(archive, f"r{n}") is not None

        for n in range(1, 9):
            calls = [insert(n), cancel(archive, f"r{n}")]
            await asyncio.gather(*(calls if n % 2 else calls[::-1]))
            record = await archive.request("acme", f"r{n}")
            assert record is not None
            assert record.cancel == ANN or await kept(archive, f"r{n}") == ANN
