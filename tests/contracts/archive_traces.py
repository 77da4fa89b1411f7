"""The contract of `Archive`, traces: a record a run, kept once, gone with the conversation."""

from __future__ import annotations

from turnwire_server.archive.base import MOST_RUNS_TRACED, Archive

from .archive_conversations import made, talk
from .archive_requests import asked
from .kit import op


class Traces:
    async def test_runs_are_kept_by_fence_and_the_first_record_of_each_counts(self, archive: Archive) -> None:
        await made(archive, talk())
        await archive.insert_request(op(), asked("r1"))
        second = {"run": 2, "spans": [{"name": "a", "attributes": {"gen_ai.x.y": 1, "$odd": None}}]}
        assert await archive.add_trace("acme", "r1", 7, second)
        assert await archive.add_trace("acme", "r1", 3, {"run": 1})
        assert await archive.add_trace("acme", "r1", 3, {"run": 99}), "it stands already: a repeat is no fault"
        assert await archive.traces("acme", "r1") == [{"run": 1}, second]

    async def test_nothing_is_kept_of_a_request_that_is_not_there(self, archive: Archive) -> None:
        assert not await archive.add_trace("acme", "never", 1, {"run": 1})
        assert await archive.traces("acme", "never") == []

    async def test_tenants_do_not_see_each_others(self, archive: Archive) -> None:
        await made(archive, talk())
        await archive.insert_request(op(), asked("r1"))
        await archive.add_trace("acme", "r1", 1, {"run": 1})
        assert not await archive.add_trace("other", "r1", 1, {"run": 2})
        assert await archive.traces("other", "r1") == []

    async def test_a_request_has_a_bounded_number_of_them(self, archive: Archive) -> None:
        await made(archive, talk())
        await archive.insert_request(op(), asked("r1"))
        for fence in range(MOST_RUNS_TRACED):
            assert await archive.add_trace("acme", "r1", fence, {"run": 1})
        assert not await archive.add_trace("acme", "r1", MOST_RUNS_TRACED, {"run": 1})
        assert await archive.add_trace("acme", "r1", 0, {"run": 1}), "what stands stands"
        assert len(await archive.traces("acme", "r1")) == MOST_RUNS_TRACED

    async def test_they_go_with_the_conversation(self, archive: Archive) -> None:
        await made(archive, talk(), talk("else"))
        await archive.insert_request(op(), asked("r1"))
        await archive.insert_request(op(), asked("r2", conversation_id="else"))
        for name in ("r1", "r2"):
            await archive.add_trace("acme", name, 1, {"run": 1})
        await archive.delete_conversation("acme", "talk")
        assert await archive.traces("acme", "r1") == []
        assert await archive.traces("acme", "r2") == [{"run": 1}]
        assert not await archive.add_trace("acme", "r1", 1, {"run": 1}), "and nothing brings them back"
