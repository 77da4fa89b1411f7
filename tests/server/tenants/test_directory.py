"""What a node knows of tenants: what is read when, what is forgotten, and what stays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from tests.contracts.archive_tenants import audited
from tests.contracts.engines import sqlite_archive
from tests.contracts.kit import Clock, op
from tests.support.watched import Watched

from turnwire_server.archive.base import ArchiveUnavailable
from turnwire_server.settings import build_settings
from turnwire_server.tenants import TenantDirectory, TenantRefused, TenantUnusable, directory

CALLS = frozenset(["tenant", "tenants", "tenant_versions"])


class Records(Watched):
    async def put(self, tenant: str, settings: dict[str, Any] | None, replaces: int = 0) -> None:
        assert (await self.real.put_tenant(tenant, settings, replaces=replaces, entry=audited(op(), tenant=tenant)))[1]


@pytest.fixture
async def watched() -> AsyncIterator[Records]:
    async with sqlite_archive(Clock()) as kit:
        yield Records(kit.archive, CALLS)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(1000.0)
    monkeypatch.setattr(directory, "time", SimpleNamespace(monotonic=clock))
    return clock


def of(watched: Records, **tenants: dict[str, Any]) -> TenantDirectory:
    return TenantDirectory(build_settings({"tenants": tenants or {"filed": {}}}, {}), watched.archive)


async def test_the_file_goes_first_then_the_archive_then_the_default(watched: Records) -> None:
    await watched.put("acme", {"system_prompt": "archive"})
    await watched.put("filed", {"system_prompt": "archive"})
    tenants = of(watched, filed={"system_prompt": "file"}, default={"system_prompt": "default"})
    prompts = [(await tenants.find(name)).system_prompt for name in ("filed", "acme", "else")]
    assert prompts == ["file", "archive", "default"]
    assert watched.asked == ["tenant", "tenant"]
    with pytest.raises(TenantRefused):
        await of(watched).find("else")
    with pytest.raises(TenantRefused):
        await of(watched, filed={"suspended": True}).find("filed")


async def test_what_is_known_is_compared_in_one_query_and_only_what_has_changed_is_read(
    watched: Records,
) -> None:
    tenants, told = of(watched, default={}), []
    tenants.changed = lambda tenant_id, refusal: told.append((tenant_id, refusal))
    for name in ("a", "b", "c"):
        await watched.put(name, {})
        await tenants.find(name)
    await tenants.find("absent")
    watched.asked.clear()
    await tenants.refresh()
    assert (watched.asked, told) == (["tenant_versions"], [])
    await watched.put("b", {"suspended": True}, 1)
    await watched.put("c", None, 1)
    await watched.put("absent", {"features": ["new"]})
    await tenants.refresh()
    assert watched.asked == ["tenant_versions", "tenant_versions", "tenants"]
    assert sorted(told) == [("absent", None), ("b", "the tenant 'b' is suspended"), ("c", None)]
    assert (await tenants.find("absent")).features == ("new",)
    watched.asked.clear()
    await tenants.refresh()
    assert watched.asked == ["tenant_versions"], "of what was removed the version is known, too"


async def test_many_are_compared_page_by_page(watched: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "_PAGE", 2)
    tenants = of(watched, default={})
    for number in range(5):
        await tenants.find(f"t{number}")
    await watched.put("t4", {"features": ["new"]})
    await tenants.refresh()
    assert watched.asked.count("tenant_versions") == 3
    assert (await tenants.find("t4")).features == ("new",)


async def test_two_who_ask_at_once_get_the_same(watched: Records) -> None:
    await watched.put("acme", {})
    tenants = of(watched)
    first, second = await asyncio.gather(tenants.find("acme"), tenants.find("acme"))
    assert first is second


async def test_what_nobody_asks_for_is_forgotten_unless_it_is_in_use_or_the_archive_is_away(
    watched: Records, now: Clock
) -> None:
    tenants = of(watched, default={})
    tenants.in_use = lambda: {"used"}
    for name in ("used", "asked", "left"):
        await tenants.find(name)
    now.forward(500)
    await tenants.find("asked")
    now.forward(200)
    watched.is_away = True
    await tenants.refresh()
    assert sorted(tenants._known) == ["asked", "left", "used"]
    assert await tenants.refusal("left") is None
    now.forward(400)
    watched.is_away = False
    await tenants.refresh()
    assert sorted(tenants._known) == ["asked", "left", "used"], "it was asked for again meanwhile"
    now.forward(300)
    await tenants.refresh()
    assert sorted(tenants._known) == ["used"]


async def test_while_the_archive_is_away_only_the_unknown_is_missed(watched: Records) -> None:
    await watched.put("acme", {"features": ["a"]})
    tenants = of(watched)
    await tenants.find("acme")
    watched.is_away = True
    await tenants.refresh()
    assert (await tenants.find("acme")).features == ("a",)
    with pytest.raises(ArchiveUnavailable):
        await tenants.find("globex")
    assert await tenants.refusal("globex") is None, "what cannot be told stops no turn"


async def test_an_archive_that_was_restored_from_a_copy_counts_as_it_is(watched: Records) -> None:
    await watched.put("acme", {"features": ["a"]})
    await watched.put("acme", {"features": ["b"]}, 1)
    tenants = of(watched)
    await tenants.find("acme")
    async with sqlite_archive(Clock()) as kit:
        older = Records(kit.archive, CALLS)
        await older.put("acme", {"features": ["a"]})
        tenants._archive = older.archive
        await tenants.refresh()
        assert (await tenants.find("acme")).features == ("a",)


async def test_settings_that_cannot_be_used_leave_what_was_before_them(watched: Records) -> None:
    tenants = of(watched)
    await watched.put("acme", {"features": ["a"]})
    await tenants.find("acme")
    await watched.put("acme", {"requests_per_minute": -1}, 1)
    await tenants.refresh()
    assert (await tenants.find("acme")).features == ("a",)
    with pytest.raises(TenantUnusable):
        await of(watched).find("acme")
    assert await of(watched).refusal("acme") is None
    await watched.put("acme", {"features": ["c"]}, 2)
    await tenants.refresh()
    assert (await tenants.find("acme")).features == ("c",)


@pytest.mark.parametrize(
    "nonsense", [{"routes": [{"name": "fast"}]}, {"routes": "fast"}, ["a list"], 7, {"of": "later"}]
)
async def test_a_record_that_makes_no_sense_at_all_harms_its_own_tenant_only(watched: Records, nonsense: Any) -> None:
    """Written by a later version, or by hand."""
    tenants = of(watched, default={})
    for name in ("broken", "other"):
        await tenants.find(name)
    await watched.put("broken", nonsense)
    await watched.put("other", {"features": ["new"]})
    await tenants.refresh()
    assert (await tenants.find("other")).features == ("new",)
    assert (await tenants.find("broken")).features == (), "as it was known"
    with pytest.raises(TenantUnusable):
        await of(watched).find("broken")
