"""The contract of `Archive`: what the users of a conversation share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from turnwire_server.archive.base import Archive, ContextFull, ContextRecord

from .archive_conversations import made, talk
from .kit import op

KEYS = 3


def shared(key: str = "doc", version: int = 1, value: Any = "text", by: str = "ann") -> ContextRecord:
    return ContextRecord(key, version, value, by, op())


async def put(archive: Archive, record: ContextRecord, conversation: str = "talk") -> ContextRecord | None:
    return await archive.set_context("acme", conversation, record, keys=KEYS)


class Contexts:
    @pytest.mark.parametrize("value", [None, True, 1, 0.5, "日本", [1, None], {"a.b": {"$c": None}, "": 2**53 - 1}])
    async def test_a_value_stands_as_it_was_given(self, archive: Archive, value: Any) -> None:
        await made(archive, talk())
        record = shared("doc.selection", 2**53 - 1, value)
        assert await put(archive, record) == record
        assert list(await archive.context("acme", "talk")) == [record]

    async def test_only_a_higher_version_takes_the_place(self, archive: Archive) -> None:
        await made(archive, talk())
        first, second = shared(version=5, value="first"), shared(version=6, value="second", by="bob")
        assert await put(archive, first) == first
        assert await put(archive, shared(version=5, value="another")) == first
        assert await put(archive, shared(version=4)) == first
        assert await put(archive, second) == second
        assert list(await archive.context("acme", "talk")) == [second]

    async def test_keys_are_apart_and_sorted(self, archive: Archive) -> None:
        await made(archive, talk(), talk("else"), talk(tenant_id="other"))
        b, a = shared("b"), shared("a", 7)
        await put(archive, b)
        await put(archive, a)
        assert list(await archive.context("acme", "talk")) == [a, b]
        assert list(await archive.context("acme", "else")) == []
        assert list(await archive.context("other", "talk")) == []

    async def test_there_is_room_for_so_many_keys(self, archive: Archive) -> None:
        await made(archive, talk())
        for number in range(KEYS):
            await put(archive, shared(f"k{number}"))
        with pytest.raises(ContextFull):
            await put(archive, shared("one more"))
        newer = shared("k0", 2)
        assert await put(archive, newer) == newer
        assert len(await archive.context("acme", "talk")) == KEYS

    async def test_an_absent_conversation_shares_nothing(self, archive: Archive) -> None:
        assert await put(archive, shared(), "never") is None
        await made(archive, talk("never"))
        assert list(await archive.context("acme", "never")) == []

    async def test_the_place_of_an_event_is_kept_for_the_change_that_it_tells(self, archive: Archive) -> None:
        await made(archive, talk())
        first, second = shared(version=1), shared(version=2)
        await put(archive, first)
        await archive.place_context("acme", "talk", replace(first, place=("e1", 4)))
        assert list(await archive.context("acme", "talk")) == [replace(first, place=("e1", 4))]
        assert await put(archive, first) == replace(first, place=("e1", 4))
        await put(archive, second)
        await archive.place_context("acme", "talk", replace(first, place=("e1", 4)))
        assert list(await archive.context("acme", "talk")) == [second]

    async def test_it_goes_with_its_conversation(self, archive: Archive) -> None:
        await made(archive, talk(), talk("else"))
        kept = shared()
        await put(archive, shared())
        await put(archive, kept, "else")
        await archive.delete_conversation("acme", "talk")
        assert list(await archive.context("acme", "talk")) == []
        await made(archive, talk())
        assert list(await archive.context("acme", "talk")) == []
        again = shared()
        assert await put(archive, again) == again
        assert list(await archive.context("acme", "else")) == [kept]
