"""What a node knows of prompts: read once, compared by revision, and kept while the archive is away."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.contracts.archive_prompts import add, entry, record, version
from tests.contracts.engines import sqlite_archive
from tests.contracts.kit import Clock
from tests.support.watched import Watched

from turnwire_server.archive.base import ArchiveUnavailable
from turnwire_server.tenants import PromptDirectory

CALLS = frozenset(["prompt", "prompt_revisions", "prompt_version"])


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    async with sqlite_archive(Clock()) as kit:
        yield Watched(kit.archive, CALLS)


async def test_only_what_has_changed_is_read_again(watched: Watched) -> None:
    prompts = PromptDirectory(watched.archive)
    for name in ("a", "b"):
        await add(watched.real, 1, 1, name=name)
        assert (await prompts.find("acme", name)) == record(1, 1, name=name)
    assert await prompts.find("globex", "a") is None
    moved = record(2, 1, name="b", released=1)
    await watched.real.put_prompt(moved, entry=entry())
    await add(watched.real, 1, 1, tenant="globex", name="a")
    watched.asked.clear()
    await prompts.refresh()
    assert watched.asked == ["prompt_revisions", "prompt", "prompt"]
    assert await prompts.find("acme", "b") == moved
    assert await prompts.find("globex", "a") == record(1, 1, tenant_id="globex", name="a")
    assert len(watched.asked) == 3


async def test_a_version_is_read_once_and_is_the_tenant_s_own(watched: Watched) -> None:
    prompts = PromptDirectory(watched.archive)
    for tenant in ("acme", "globex"):
        await add(watched.real, 1, 1, f"of {tenant}", tenant=tenant)
    for tenant in ("acme", "globex", "acme"):
        found = await prompts.find(tenant, "support")
        assert found is not None
        assert await prompts.version(found, 1) == version(1, f"of {tenant}", tenant)
        assert await prompts.version(found, 2) is None
    assert watched.asked.count("prompt_version") == 2 + 3, "one that is not there is looked for again"


async def test_while_the_archive_is_away_all_stays_as_it_was(watched: Watched) -> None:
    prompts = PromptDirectory(watched.archive)
    await add(watched.real, 1, 1)
    found = await prompts.find("acme", "support")
    assert found is not None
    await prompts.version(found, 1)
    watched.is_away = True
    with pytest.raises(ArchiveUnavailable):
        await prompts.refresh()
    assert await prompts.find("acme", "support") == found
    assert await prompts.version(found, 1) == version(1)
    with pytest.raises(ArchiveUnavailable):
        await prompts.find("acme", "another")
