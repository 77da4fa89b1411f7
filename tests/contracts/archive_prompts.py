"""The contract of `PromptArchive`: versions that stand for good, and the record that says which are used."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from turnwire_server.archive.base import Archive
from turnwire_server.archive.prompts import PromptRecord, PromptVersion
from turnwire_server.archive.tenants import AuditEntry

from .archive_tenants import audited, put
from .kit import op

VARIABLES: dict[str, dict[str, Any]] = {"customer": {}, "tone": {"default": "friendly", "max_chars": 20}}


def version(number: int, text: str = "Hello", tenant: str = "acme", name: str = "support") -> PromptVersion:
    return PromptVersion(tenant, name, number, text, VARIABLES, f"note {number}", 100 + number, "root")


def record(revision: int, versions: int, **fields: Any) -> PromptRecord:
    said = {"tenant_id": "acme", "name": "support", "released": None, "candidate": None, "share": 0}
    return PromptRecord(
        revision=revision, versions=versions, changed_at=100 + revision, changed_by="root", **{**said, **fields}
    )


def entry(tenant: str = "acme", name: str | None = None, at: int = 100) -> AuditEntry:
    return audited(name or op(), at, tenant, act="prompt.add")


async def add(
    archive: Archive, revision: int, number: int, text: str = "Hello", **which: str
) -> tuple[PromptRecord | None, bool]:
    tenant, name = which.get("tenant", "acme"), which.get("name", "support")
    new = version(number, text, tenant, name)
    return await archive.put_prompt(record(revision, number, tenant_id=tenant, name=name), entry=entry(tenant), new=new)


class Prompts:
    async def test_a_version_stands_as_it_was_added(self, archive: Archive) -> None:
        assert await archive.prompt("acme", "support") is None
        assert await archive.prompt_version("acme", "support", 1) is None
        assert list(await archive.prompt_versions("acme", "support")) == []
        assert await add(archive, 1, 1, "Hello {{ customer }} 日本") == (record(1, 1), True)
        assert await archive.prompt("acme", "support") == record(1, 1)
        assert await archive.prompt_version("acme", "support", 1) == version(1, "Hello {{ customer }} 日本")
        assert await archive.prompt_version("acme", "support", 2) is None
        assert await archive.prompt_version("acme", "support", 0) is None

    async def test_versions_are_added_and_moved_by_revision(self, archive: Archive) -> None:
        await add(archive, 1, 1, "one")
        await add(archive, 2, 2, "two")
        moved = record(3, 2, released=1, candidate=2, share=10)
        assert await archive.put_prompt(moved, entry=entry()) == (moved, True)
        assert await archive.prompt("acme", "support") == moved
        assert [one.text for one in await archive.prompt_versions("acme", "support")] == ["one", "two"]
        assert [moved.state(number) for number in (1, 2, 3)] == ["released", "candidate", "draft"]

    @pytest.mark.parametrize("revision", [1, 3, 7])
    async def test_only_who_knows_the_revision_that_stands_changes_it(self, archive: Archive, revision: int) -> None:
        await add(archive, 1, 1, "one")
        assert await add(archive, revision, 2, "two") == (record(1, 1), False)
        assert await archive.prompt("acme", "support") == record(1, 1)
        assert await archive.prompt_version("acme", "support", 2) is None
        assert [one.text for one in await archive.prompt_versions("acme", "support")] == ["one"]
        assert len((await archive.audit("acme", limit=10)).items) == 1, "of what was refused nothing is told"

    async def test_what_never_was_cannot_be_changed(self, archive: Archive) -> None:
        assert await archive.put_prompt(record(2, 1, released=1), entry=entry()) == (None, False)
        assert await archive.prompt("acme", "support") is None
        assert list(await archive.prompts("acme")) == []
        assert await archive.prompt_revisions([("acme", "support")]) == {}

    async def test_prompts_are_each_tenant_s_own_and_listed_by_name(self, archive: Archive) -> None:
        for tenant, name in (("acme", "b"), ("acme", "a"), ("acme:b", "a"), ("b", "a")):
            await add(archive, 1, 1, f"{tenant} {name}", tenant=tenant, name=name)
        await add(archive, 2, 2, "again", tenant="acme", name="a")
        assert [one.name for one in await archive.prompts("acme")] == ["a", "b"]
        assert [one.tenant_id for one in await archive.prompts("b")] == ["b"]
        assert list(await archive.prompts("never")) == []
        found = await archive.prompt_version("b", "a", 1)
        assert found is not None
        assert found.text == "b a"
        keys = [("acme", "a"), ("acme", "b"), ("acme", "c"), ("acme:b", "a"), ('"', "[]")]
        assert await archive.prompt_revisions(keys) == {("acme", "a"): 2, ("acme", "b"): 1, ("acme:b", "a"): 1}
        assert await archive.prompt_revisions([]) == {}

    async def test_a_change_is_told_with_it_once(self, archive: Archive) -> None:
        told = entry(name="once")
        first = await archive.put_prompt(record(1, 1), entry=told, new=version(1))
        assert await archive.put_prompt(record(1, 1), entry=told, new=version(1)) == first
        assert list((await archive.audit("acme", limit=10)).items) == [told]
        await put(archive, {}, 0, at=200)
        assert [one.at for one in (await archive.audit(limit=10)).items] == [200, 100]

    async def test_the_repeat_of_a_change_that_was_replaced_is_known_as_done(self, archive: Archive) -> None:
        told = entry(name="once")
        await archive.put_prompt(record(1, 1), entry=told, new=version(1, "one"))
        newer, _ = await add(archive, 2, 2, "two")
        assert await archive.put_prompt(record(1, 1), entry=told, new=version(1, "one")) == (newer, True)
        assert [one.text for one in await archive.prompt_versions("acme", "support")] == ["one", "two"]

    async def test_of_two_at_once_one_comes_through(self, archive: Archive) -> None:
        answers = await asyncio.gather(*(add(archive, 1, 1, f"text {n}") for n in range(4)))
        assert sorted(done for _, done in answers) == [False, False, False, True]
        (text,) = [one.text for one in await archive.prompt_versions("acme", "support")]
        assert text == f"text {[done for _, done in answers].index(True)}"
        assert len((await archive.audit("acme", limit=10)).items) == 1

    async def test_a_moved_record_keeps_its_texts(self, archive: Archive) -> None:
        await add(archive, 1, 1, "one")
        stands = record(1, 1)
        for revision in range(2, 5):
            stands = replace(stands, revision=revision, released=1, changed_at=revision)
            assert (await archive.put_prompt(stands, entry=entry()))[1]
        assert await archive.prompt_version("acme", "support", 1) == version(1, "one")
