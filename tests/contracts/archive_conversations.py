"""The contract of `Archive`, first part: conversations and who is in them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from turnwire_server.archive.base import Archive, ConversationRecord

from .kit import op


def talk(name: str = "talk", **fields: Any) -> ConversationRecord:
    known: dict[str, Any] = {
        "tenant_id": "acme",
        "conversation_id": name,
        "owner_id": "ann",
        "visibility": "private",
        "created_at": 100,
        "updated_at": 100,
    }
    return ConversationRecord(**{**known, **fields})


async def made(archive: Archive, *records: ConversationRecord) -> None:
    for record in records:
        await archive.create_conversation(op(), record)


class Conversations:
    async def test_a_new_one_stands_as_it_was_given(self, archive: Archive) -> None:
        record = talk(title="Ändern 😀", metadata={"a": [1, None]}, visibility="tenant")
        assert await archive.create_conversation(op(), record) == (record, True)
        assert await archive.conversation("acme", "talk") == record

    async def test_only_the_first_makes_it(self, archive: Archive) -> None:
        await made(archive, talk(title="first"))
        stands, by_me = await archive.create_conversation(op(), talk(title="second", owner_id="bob"))
        assert (stands.title, stands.owner_id, by_me) == ("first", "ann", False)

    async def test_a_repeat_knows_that_it_was_itself(self, archive: Archive) -> None:
        again = op()
        await archive.create_conversation(again, talk())
        assert (await archive.create_conversation(again, talk()))[1]

    async def test_an_unknown_one_is_none(self, archive: Archive) -> None:
        assert await archive.conversation("acme", "never") is None

    async def test_tenants_do_not_share_names(self, archive: Archive) -> None:
        await made(archive, talk(title="ours"), talk(tenant_id="other", title="theirs"))
        ours, theirs = await archive.conversation("acme", "talk"), await archive.conversation("other", "talk")
        assert ours is not None
        assert theirs is not None
        assert (ours.title, theirs.title) == ("ours", "theirs")

    async def test_a_deleted_one_is_gone_and_its_name_free(self, archive: Archive) -> None:
        await made(archive, talk(title="old"), talk("else"))
        await archive.set_member("acme", "talk", "bob", "editor")
        await archive.delete_conversation("acme", "talk")
        assert await archive.conversation("acme", "talk") is None
        assert await archive.create_conversation(op(), talk(owner_id="bob")) == (talk(owner_id="bob"), True)
        assert await archive.conversation("acme", "else") is not None

    async def test_deleting_an_absent_one_is_no_error(self, archive: Archive) -> None:
        await archive.delete_conversation("acme", "never")

    async def test_the_list_has_what_one_owns_shares_or_sees_in_the_tenant(self, archive: Archive) -> None:
        await made(
            archive,
            talk("mine", owner_id="bob", updated_at=1),
            talk("shared", updated_at=2),
            talk("open", visibility="tenant", updated_at=3),
            talk("private", updated_at=4),
            talk("foreign", tenant_id="other", owner_id="bob", updated_at=5),
        )
        await archive.set_member("acme", "shared", "bob", "viewer")
        page = await archive.list_conversations("acme", "bob", limit=10)
        assert [record.conversation_id for record in page.items] == ["open", "shared", "mine"]
        assert page.next is None
        everything = await archive.list_conversations("acme", None, limit=10)
        assert [record.conversation_id for record in everything.items] == ["private", "open", "shared", "mine"]

    @pytest.mark.parametrize("limit", [1, 2, 3, 7])
    async def test_pages_leave_nothing_out_also_among_equal_times(self, archive: Archive, limit: int) -> None:
        await made(archive, *(talk(f"c{n}", updated_at=n // 3) for n in range(7)))
        seen: list[str] = []
        before = None
        while True:
            page = await archive.list_conversations("acme", "ann", limit=limit, before=before)
            assert len(page.items) <= limit
            seen += [record.conversation_id for record in page.items]
            if page.next is None:
                break
            before = page.next
        assert seen == ["c6", "c5", "c4", "c3", "c2", "c1", "c0"]

    @pytest.mark.parametrize("mark", ["", "x", "12", ".c1", "1e3.c1", "-1.c1", "1."])
    async def test_a_mark_that_is_none_is_refused(self, archive: Archive, mark: str) -> None:
        with pytest.raises(ValueError):
            await archive.list_conversations("acme", "ann", limit=1, before=mark)

    async def test_what_has_not_changed_for_long_has_expired_the_oldest_first(self, archive: Archive) -> None:
        await made(
            archive,
            talk("b", updated_at=20),
            talk("a", updated_at=20),
            talk("a", tenant_id="other", updated_at=10),
            talk("young", updated_at=30),
        )
        assert list(await archive.expire(30, limit=10)) == [("other", "a"), ("acme", "a"), ("acme", "b")]
        assert list(await archive.expire(30, limit=1)) == [("other", "a")]
        assert list(await archive.expire(10, limit=10)) == []
        await archive.delete_conversation("other", "a")
        assert list(await archive.expire(20, limit=10)) == []

    async def test_it_answers(self, archive: Archive) -> None:
        await archive.ping()


class Members:
    async def test_roles_are_given_changed_and_taken(self, archive: Archive) -> None:
        await made(archive, talk())
        for role in ("viewer", "editor", "owner"):
            assert await archive.set_member("acme", "talk", "bob", role)
            record = await archive.conversation("acme", "talk")
            assert record == replace(talk(), members={"bob": role})
        assert await archive.set_member("acme", "talk", "bob", None)
        assert await archive.conversation("acme", "talk") == talk()

    async def test_taking_a_role_that_is_not_there_is_no_error(self, archive: Archive) -> None:
        await made(archive, talk())
        assert await archive.set_member("acme", "talk", "bob", None)

    async def test_an_absent_conversation_has_no_members(self, archive: Archive) -> None:
        assert not await archive.set_member("acme", "never", "bob", "viewer")
        await made(archive, talk("never"))
        assert await archive.conversation("acme", "never") == talk("never")
