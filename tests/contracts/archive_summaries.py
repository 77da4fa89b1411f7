"""The contract of `SummaryArchive`: what stands for older turns goes with what it was made of."""

from __future__ import annotations

from dataclasses import replace

from turnwire_server.archive.base import Archive
from turnwire_server.archive.summaries import SummaryRecord

from .archive_conversations import made, talk
from .archive_requests import reply, turn


def summary(up_to: int, leaf: str | None = None, conversation: str = "talk", tenant: str = "acme") -> SummaryRecord:
    return SummaryRecord(tenant, conversation, leaf or f"a-r{up_to}", up_to, up_to, f"日本 {up_to}", 100 + up_to)


async def reach(archive: Archive, conversation: str = "talk", tenant: str = "acme") -> list[int]:
    return [one.up_to for one in await archive.summaries(tenant, conversation, limit=100)]


class Summaries:
    async def test_those_that_reach_furthest_come_first(self, archive: Archive) -> None:
        await made(archive, talk(), talk("other"))
        for up_to in (4, 9, 2):
            assert await archive.put_summary(summary(up_to))
        assert await archive.put_summary(summary(3, conversation="other"))
        assert list(await archive.summaries("acme", "talk", limit=2)) == [summary(9), summary(4)]
        assert await reach(archive, "other") == [3]
        assert await reach(archive, tenant="globex") == []

    async def test_one_stands_for_each_leaf(self, archive: Archive) -> None:
        await made(archive, talk())
        await archive.put_summary(summary(4))
        newer = replace(summary(4), text="better", version=9)
        assert await archive.put_summary(newer)
        await archive.put_summary(summary(4, "a-beside"))
        assert await reach(archive) == [4, 4]
        assert newer in await archive.summaries("acme", "talk", limit=10)

    async def test_of_a_conversation_that_is_absent_nothing_is_kept(self, archive: Archive) -> None:
        assert not await archive.put_summary(summary(4))
        await made(archive, talk())
        assert await reach(archive) == []

    async def test_those_that_cover_a_turn_are_dropped_and_the_others_stay(self, archive: Archive) -> None:
        await made(archive, talk())
        for up_to in (2, 4, 9):
            await archive.put_summary(summary(up_to))
        await archive.drop_summaries("acme", "talk", 4)
        assert await reach(archive) == [2]

    async def test_an_answer_that_is_amended_takes_those_that_cover_it_with_it(self, archive: Archive) -> None:
        await made(archive, talk())
        await turn(archive, "r1", 1)
        await turn(archive, "r2", 2, "a-r1")
        await turn(archive, "r3", 3, "a-r2")
        for up_to in (1, 2, 3):
            await archive.put_summary(summary(up_to))
        await archive.amend_answer("acme", "r2", reply("r2", 2, text="ans"), presented=3)
        assert await reach(archive) == [1]
        await archive.put_summary(summary(3))
        await archive.amend_answer("acme", "r2", reply("r2", 2, text="a"), presented=2)
        assert await reach(archive) == [3, 1], "nothing was amended"

    async def test_none_outlives_its_conversation(self, archive: Archive) -> None:
        await made(archive, talk(), talk("other"))
        await archive.put_summary(summary(4))
        await archive.put_summary(summary(4, conversation="other"))
        await archive.delete_conversation("acme", "talk")
        await made(archive, talk())
        assert await reach(archive) == []
        assert await reach(archive, "other") == [4]
