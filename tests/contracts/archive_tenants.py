"""The contract of `TenantArchive`: tenants by version, and the audit log."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from turnwire_server.archive.base import Archive
from turnwire_server.archive.tenants import AuditEntry, TenantRecord

from .kit import op


def audited(name: str, at: int = 100, tenant: str = "acme", actor: str = "root", act: str = "set") -> AuditEntry:
    return AuditEntry(name, at, actor, act, tenant, {"a.b": {"$c": None}, "keys": ["features"]})


async def put(
    archive: Archive, settings: dict[str, Any] | None, replaces: int, tenant: str = "acme", at: int = 100
) -> tuple[TenantRecord | None, bool]:
    return await archive.put_tenant(tenant, settings, replaces=replaces, entry=audited(op(), at, tenant))


async def ops(archive: Archive, tenant: str | None = None) -> list[str]:
    return [entry.op for entry in (await archive.audit(tenant, limit=1000)).items]


class Tenants:
    async def test_a_tenant_stands_as_it_was_set(self, archive: Archive) -> None:
        assert await archive.tenant("acme") is None
        settings = {"budget_usd_per_day": "12.50", "features": ["a", "b"], "suspended": False, "system_prompt": "日本"}
        first = TenantRecord("acme", 1, settings, 100, "root")
        assert await put(archive, settings, 0) == (first, True)
        assert await archive.tenant("acme") == first
        second = TenantRecord("acme", 2, {}, 200, "root")
        assert await put(archive, {}, 1, at=200) == (second, True)
        assert await archive.tenant("acme") == second

    @pytest.mark.parametrize("replaces", [0, 2, 7])
    async def test_only_who_knows_the_version_that_stands_replaces_it(self, archive: Archive, replaces: int) -> None:
        stands, _ = await put(archive, {"features": ["a"]}, 0)
        assert await put(archive, {"features": ["b"]}, replaces) == (stands, False)
        assert await archive.tenant("acme") == stands
        assert len(await ops(archive)) == 1, "of what was refused nothing is told"

    async def test_what_never_was_cannot_be_replaced(self, archive: Archive) -> None:
        assert await put(archive, {}, 1) == (None, False)
        assert await archive.tenant("acme") is None
        assert list(await archive.tenants()) == []
        assert await archive.tenant_versions(["acme"]) == {}
        assert await ops(archive) == []

    async def test_a_tenant_that_is_removed_keeps_its_place_in_the_count(self, archive: Archive) -> None:
        await put(archive, {"features": ["a"]}, 0)
        removed = TenantRecord("acme", 2, None, 200, "root")
        assert await put(archive, None, 1, at=200) == (removed, True)
        assert await archive.tenant("acme") == removed
        assert list(await archive.tenants()) == []
        assert await archive.tenant_versions(["acme"]) == {"acme": 2}
        assert (await put(archive, {}, 0))[1] is False
        again, done = await put(archive, {}, 2)
        assert again is not None
        assert (again.version, again.settings, done) == (3, {}, True)

    async def test_tenants_are_listed_by_id_and_looked_up_together(self, archive: Archive) -> None:
        for name in ("c", "a", "b", "gone"):
            await put(archive, {"features": [name]}, 0, name)
        await put(archive, {}, 1, "b")
        await put(archive, None, 1, "gone")
        assert [record.tenant_id for record in await archive.tenants()] == ["a", "b", "c"]
        assert [record.tenant_id for record in await archive.tenants(["c", "b", "gone", "never"])] == ["b", "c"]
        assert list(await archive.tenants([])) == []
        versions = await archive.tenant_versions(["a", "b", "gone", "never", "[]", '"'])
        assert versions == {"a": 1, "b": 2, "gone": 2}

    async def test_a_change_is_told_with_it_once(self, archive: Archive) -> None:
        entry = audited("once")
        first = await archive.put_tenant("acme", {}, replaces=0, entry=entry)
        assert await archive.put_tenant("acme", {}, replaces=0, entry=entry) == first
        assert list((await archive.audit("acme", limit=10)).items) == [entry]

    async def test_the_repeat_of_a_change_that_was_replaced_is_known_as_done(self, archive: Archive) -> None:
        entry = audited("once")
        await archive.put_tenant("acme", {"features": ["a"]}, replaces=0, entry=entry)
        newer, _ = await put(archive, {"features": ["b"]}, 1)
        assert await archive.put_tenant("acme", {"features": ["a"]}, replaces=0, entry=entry) == (newer, True)
        assert await archive.tenant("acme") == newer

    async def test_of_two_at_once_one_comes_through(self, archive: Archive) -> None:
        answers = await asyncio.gather(*(put(archive, {"features": [str(n)]}, 0) for n in range(4)))
        assert sorted(done for _, done in answers) == [False, False, False, True]
        stands = await archive.tenant("acme")
        (winner,) = [record for record, done in answers if done]
        assert stands == winner
        assert len(await ops(archive)) == 1


class Audit:
    async def test_entries_stand_as_they_were_given_the_newest_first(self, archive: Archive) -> None:
        entries = [audited(f"o{n}", 100 + n // 2, actor="日本", act="conversation.delete") for n in range(5)]
        for entry in entries:
            assert await archive.add_audit(entry) == entry
        assert await archive.add_audit(replace(entries[0], actor="another")) == entries[0]
        assert list((await archive.audit(limit=10)).items) == entries[::-1]

    async def test_one_tenant_s_are_found_apart(self, archive: Archive) -> None:
        for n in range(6):
            await archive.add_audit(audited(f"o{n}", n, "acme" if n % 2 else "acme:b"))
        await put(archive, {}, 0, "acme", at=7)
        assert [entry.at for entry in (await archive.audit("acme", limit=10)).items] == [7, 5, 3, 1]
        assert await ops(archive, "acme:b") == ["o4", "o2", "o0"]
        assert await ops(archive, "never") == []

    async def test_pages_leave_nothing_out_and_show_nothing_twice(self, archive: Archive) -> None:
        for n in range(7):
            await archive.add_audit(audited(f"o{n}", 100 + n // 3))
        for n in range(3):
            await put(archive, {}, n, at=101)
        expected, found, before = await ops(archive), [], None
        while True:
            page = await archive.audit(limit=3, before=before)
            found += [entry.op for entry in page.items]
            if (before := page.next) is None:
                break
        assert found == expected
        assert len(set(found)) == 10

    @pytest.mark.parametrize("before", ["", "x", "1", ".", "-1.a", "1e3.a", "9999999999999999999.a"])
    async def test_a_page_mark_of_somebody_s_own_making_is_refused(self, archive: Archive, before: str) -> None:
        with pytest.raises(ValueError):
            await archive.audit(limit=1, before=before)
