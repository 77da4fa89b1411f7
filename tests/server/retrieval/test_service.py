"""Documents are taken in and found, with a real provider of vectors and both engines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import anyio
import pytest
from tests.contracts.engines import mongo_archive, sqlite_database
from tests.contracts.kit import Clock
from tests.support.provider import ControlledProvider, refused_base_url, running_provider

from turnwire_server.archive.base import ArchiveUnavailable
from turnwire_server.archive.mongo import MongoArchive
from turnwire_server.gateway.errors import ProviderError
from turnwire_server.gateway.providers.embeddings import OpenAIEmbeddings
from turnwire_server.gateway.usage import TokenCounter
from turnwire_server.retrieval import sqlite as retrieval_sqlite
from turnwire_server.retrieval.documents import DocumentRefused, Found, RetrievalUnavailable
from turnwire_server.retrieval.mongo import MongoDocuments
from turnwire_server.retrieval.service import Retrieval
from turnwire_server.retrieval.sqlite import SqliteDocuments
from turnwire_server.retrieval.store import DocumentStore
from turnwire_server.settings import Deployment
from turnwire_server.settings.retrieval import RetrievalSettings

GUIDE = "# Cats\n\nA cat purrs when it is content.\n\n# Dogs\n\nA dog barks at strangers.\n"


@asynccontextmanager
async def stored(engine: str = "sqlite") -> AsyncIterator[DocumentStore]:
    if engine == "mongo":
        async with mongo_archive(Clock()) as kit:
            assert isinstance(kit.archive, MongoArchive)
            yield MongoDocuments(kit.archive.reading, kit.archive.writing, memory_bytes=1_000_000)
        return
    async with sqlite_database() as database:
        for statement in retrieval_sqlite.SCHEMA:
            await database.write(lambda db, statement=statement: db.execute(statement).rowcount)  # type: ignore[misc]
        yield SqliteDocuments(database)


@asynccontextmanager
async def vectors_of(base_url: str) -> AsyncIterator[OpenAIEmbeddings]:
    deployment = Deployment(name="v", model="vec", base_url=base_url, input_usd_per_mtok=Decimal(1))
    embeddings = OpenAIEmbeddings.of(deployment, {})
    try:
        yield embeddings
    finally:
        await embeddings.aclose()


@asynccontextmanager
async def retrieval(engine: str = "sqlite", **keys: Any) -> AsyncIterator[tuple[Retrieval, ControlledProvider]]:
    async with stored(engine) as store, running_provider() as provider, vectors_of(provider.base_url) as embeddings:
        yield Retrieval(store, RetrievalSettings(**keys), TokenCounter(), embeddings), provider


def texts(found: Found) -> list[str]:
    return [passage.text for passage in found.passages]


@pytest.mark.parametrize("engine", ["sqlite", "mongo"])
async def test_a_document_is_found_with_its_place(engine: str) -> None:
    async with retrieval(engine) as (service, _):
        added = await service.add("acme", "guide.md", GUIDE, title="Animals")
        assert (added.changed, added.chunks, added.embedded) == (True, 2, 2)
        assert added.cost_usd == Decimal(added.tokens) / 1_000_000
        found = await service.find("acme", "why do dogs bark?", budget_tokens=200)
        best = found.passages[0]
        assert GUIDE[best.source.start : best.source.end] == best.text == "# Dogs\n\nA dog barks at strangers.\n"
        assert (best.source.id, best.source.title, best.source.heading) == ("guide.md", "Animals", "Dogs")
        assert best.source.score == 1
        assert (found.documents, found.degraded, found.embedding_tokens) == (1, None, 4)


async def test_unchanged_texts_are_never_embedded_again() -> None:
    async with retrieval() as (service, provider):
        await service.add("acme", "guide", GUIDE)
        again = await service.add("acme", "guide", GUIDE)
        assert (again.changed, again.embedded) == (False, 0)
        moved = await service.add("acme", "guide", "# Birds\n\nA hen clucks.\n\n" + GUIDE)
        assert (moved.changed, moved.chunks, moved.embedded) == (True, 3, 1)
        assert [text for texts in provider.embedded for text in texts] == [
            "Cats\n# Cats\n\nA cat purrs when it is content.\n\n",
            "Dogs\n# Dogs\n\nA dog barks at strangers.\n",
            "Birds\n# Birds\n\nA hen clucks.\n\n",
        ]


async def test_another_tenant_has_the_same_texts_embedded_for_itself() -> None:
    async with retrieval() as (service, _):
        assert (await service.add("acme", "guide", GUIDE)).embedded == 2
        assert (await service.add("other", "guide", GUIDE)).embedded == 2
        await service.remove("acme", "guide")
        assert texts(await service.find("acme", "dogs", budget_tokens=500)) == []
        assert len(texts(await service.find("other", "dogs", budget_tokens=500))) == 2


async def test_without_vectors_words_answer_and_it_is_said() -> None:
    async with retrieval() as (service, provider):
        await service.add("acme", "guide", GUIDE)
        provider.embedding_fault = 503
        found = await service.find("acme", "dog", budget_tokens=500)
        assert (texts(found), found.degraded) == (
            ["# Dogs\n\nA dog barks at strangers.\n"],
            "no vectors: provider_error",
        )


async def test_vectors_that_do_not_come_in_time_are_not_waited_for() -> None:
    async with retrieval() as (service, provider):
        await service.add("acme", "guide", GUIDE)
        provider.embedding_hangs = True
        with anyio.fail_after(5):
            found = await service.find("acme", "dog", budget_tokens=500, limit_s=0.5)
        assert found.degraded == "no vectors: they were not there in time"
        assert len(found.passages) == 1


async def test_a_document_whose_vectors_failed_is_found_by_words_and_embedded_later() -> None:
    async with retrieval() as (service, provider):
        provider.embedding_fault = 503
        with pytest.raises(ProviderError):
            await service.add("acme", "guide", GUIDE)
        found = await service.find("acme", "dog", budget_tokens=500)
        assert found.degraded == "no vectors: the tenant's documents have not been embedded"
        assert len(found.passages) == 1
        provider.embedding_fault = None
        assert (await service.add("acme", "guide", GUIDE)).embedded == 2
        assert (await service.find("acme", "dog", budget_tokens=500)).degraded is None


async def test_a_provider_that_cannot_be_reached_is_an_error_of_the_provider() -> None:
    with refused_base_url() as url:
        async with stored() as store, vectors_of(url) as embeddings:
            service = Retrieval(store, RetrievalSettings(), TokenCounter(), embeddings)
            with pytest.raises(ProviderError, match="could not be connected to"):
                await service.add("acme", "guide", GUIDE)


async def test_no_engine_is_told_as_unavailable() -> None:
    async with sqlite_database() as database:
        service = Retrieval(SqliteDocuments(database), RetrievalSettings(), TokenCounter())
        await database.aclose()
        with pytest.raises(RetrievalUnavailable, match="closed"):
            await service.find("acme", "dog", budget_tokens=500)


async def test_words_that_fail_while_vectors_are_asked_for_are_told_as_unavailable() -> None:
    class Wordless(SqliteDocuments):
        """Unrealistic in that only one of its calls fails."""

        async def by_words(self, tenant_id: str, query: str, *, limit: int) -> list[Any]:
            raise ArchiveUnavailable("no words", unknown=False)

    async with retrieval() as (service, _):
        await service.add("acme", "guide", GUIDE)
        assert isinstance(service._store, SqliteDocuments)
        service._store = Wordless(service._store._db)
        with pytest.raises(RetrievalUnavailable, match="no words"):
            await service.find("acme", "dog", budget_tokens=500)


@pytest.mark.parametrize(
    ("document_id", "text", "why"),
    [
        ("a", " \n ", "no text"),
        ("a", "x" * 2_000, "document_bytes"),
        ("a\n", "x", "its id"),
        ("", "x", "its id"),
        ("a", "\ud83d", "half a surrogate pair"),
        ("b", "x" * 900, "tenant_bytes"),
    ],
)
async def test_what_cannot_be_taken_is_refused_and_changes_nothing(document_id: str, text: str, why: str) -> None:
    async with retrieval(document_bytes=1_000, tenant_bytes=1_500) as (service, _):
        await service.add("acme", "full", "y" * 900)
        before = await service.documents("acme")
        with pytest.raises(DocumentRefused, match=why):
            await service.add("acme", document_id, text)
        assert await service.documents("acme") == before


async def test_matrices_are_dropped_when_there_are_more_than_memory_takes() -> None:
    async with retrieval(memory_bytes=4_000) as (service, _):
        for tenant_id in ("a", "b", "c", "d", "e"):
            await service.add(tenant_id, "guide", GUIDE)
            assert (await service.find(tenant_id, "dog", budget_tokens=500)).degraded is None
        assert service._matrices._held <= 4_000
        assert (await service.find("a", "dog", budget_tokens=500)).degraded is None
    async with retrieval(memory_bytes=100) as (service, _):
        await service.add("a", "guide", GUIDE)
        assert (await service.find("a", "dog", budget_tokens=500)).degraded == "no vectors: they could not be read"


async def test_what_takes_longer_to_build_than_a_search_waits_is_there_for_the_next() -> None:
    gate = anyio.Event()

    class Slow(SqliteDocuments):
        """Unrealistic in that reading waits for the test."""

        async def places(self, tenant_id: str) -> Any:
            await gate.wait()
            return await super().places(tenant_id)

    async with retrieval() as (service, _):
        await service.add("acme", "guide", GUIDE)
        assert isinstance(service._store, SqliteDocuments)
        service._store = Slow(service._store._db)
        found = await service.find("acme", "dog", budget_tokens=500, limit_s=0.3)
        assert found.degraded == "no vectors: they were not there in time"
        [build] = service._builds._tasks.values()
        gate.set()
        await build
        assert service._matrices.get(("acme", "vec")) is not None
        assert (await service.find("acme", "dog", budget_tokens=500)).degraded is None
