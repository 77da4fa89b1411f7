"""The contract of the port that keeps documents, as one suite that runs against every engine."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from turnwire_server.gateway.usage import TokenCounter
from turnwire_server.retrieval.chunking import chunks_of
from turnwire_server.retrieval.documents import ChunkKey, Document, fingerprint_of
from turnwire_server.retrieval.store import DocumentStore


def document(document_id: str, text: str, *, title: str = "") -> Document:
    chunks = chunks_of(text, TokenCounter().count, chunk_tokens=16, overlap_tokens=4)
    return Document(document_id, title or document_id, fingerprint_of(text, title), len(text), 100, chunks)


async def texts(store: DocumentStore, tenant_id: str, query: str) -> list[str]:
    keys = await store.by_words(tenant_id, query, limit=50)
    found = await store.chunks(tenant_id, keys)
    return [found[key][1].text for key in keys]


@pytest.mark.asyncio(loop_scope="module")
class DocumentsContract:
    """Derive, and give the fixture `store`."""

    async def test_what_was_put_is_found_by_its_words_and_listed(self, store: DocumentStore) -> None:
        put = document("guide", "# Cats\n\nA cat purrs.\n\n# Dogs\n\nA dog barks loudly.\n", title="Animals")
        assert await store.put("acme", put)
        [key] = await store.by_words("acme", "barking dogs", limit=5)
        assert await store.chunks("acme", [key]) == {key: ("Animals", put.chunks[1])}
        outline = await store.outline("acme", "guide")
        assert outline is not None
        assert (outline.title, outline.fingerprint, outline.at, outline.chunks) == ("Animals", put.fingerprint, 100, 2)
        assert list(await store.outlines("acme")) == [outline]
        assert [place.key for place in await store.places("acme")] == [
            ("guide", put.fingerprint, 0),
            ("guide", put.fingerprint, 1),
        ]

    async def test_the_same_again_changes_nothing(self, store: DocumentStore) -> None:
        put = document("guide", "A cat purrs.")
        assert await store.put("acme", put)
        version = await store.version("acme")
        assert not await store.put("acme", replace(put, at=200))
        assert await store.version("acme") == version

    async def test_a_changed_document_takes_the_place_of_the_old_one(self, store: DocumentStore) -> None:
        old, new = document("guide", "A cat purrs."), document("guide", "A dog barks.")
        await store.put("acme", old)
        version = await store.version("acme")
        assert await store.put("acme", new)
        assert await store.version("acme") > version
        assert await texts(store, "acme", "cat") == []
        assert await texts(store, "acme", "dog") == ["A dog barks."]
        gone: ChunkKey = ("guide", old.fingerprint, 0)
        assert await store.chunks("acme", [gone]) == {}

    async def test_what_was_removed_is_gone_with_its_vectors(self, store: DocumentStore) -> None:
        one, other = document("one", "A cat purrs."), document("other", "A dog barks.")
        for each in (one, other):
            await store.put("acme", each)
        prints = [each.chunks[0].fingerprint for each in (one, other)]
        await store.keep_vectors("acme", "m", {prints[0]: b"1111", prints[1]: b"2222"})
        assert await store.remove("acme", "one")
        assert not await store.remove("acme", "one")
        assert await store.outline("acme", "one") is None
        assert await texts(store, "acme", "cat dog") == ["A dog barks."]
        assert await store.vectors("acme", "m", prints) == {prints[1]: b"2222"}

    async def test_a_vector_stays_while_another_document_has_its_text(self, store: DocumentStore) -> None:
        one, other = document("one", "A cat purrs."), document("other", "A cat purrs.")
        for each in (one, other):
            await store.put("acme", each)
        fingerprint = one.chunks[0].fingerprint
        await store.keep_vectors("acme", "m", {fingerprint: b"1111"})
        await store.remove("acme", "one")
        assert await store.vectors("acme", "m", [fingerprint]) == {fingerprint: b"1111"}
        await store.put("acme", document("other", "A dog barks."))
        assert await store.vectors("acme", "m", [fingerprint]) == {}

    async def test_vectors_are_of_a_model(self, store: DocumentStore) -> None:
        await store.keep_vectors("acme", "m", {"f": b"1111"})
        assert await store.vectors("acme", "n", ["f"]) == {}

    @pytest.mark.parametrize(
        "query", ['"', "cat AND", "NEAR(cat)", "heading:", "cat*", "-cat", "^", "c\0at", "'; DROP", "", "🐈", "\ud83d"]
    )
    async def test_nothing_in_a_query_is_syntax(self, store: DocumentStore, query: str) -> None:
        await store.put("acme", document("guide", "A cat purrs."))
        expected = ["A cat purrs."] if "cat" in query else []
        assert await texts(store, "acme", query) == expected

    async def test_tenants_with_the_same_documents_see_nothing_of_each_other(self, store: DocumentStore) -> None:
        """Whatever is done to one, the other answers as if it were alone, its order by BM25 included."""
        rng = random.Random(8)
        words = ["cat", "dog", "eel", "fox", "gnu", "hen"]
        ours: dict[str, Document] = {}

        # To the other tenant other words are rare: were they counted together, ours would rank otherwise.
        weights = {"acme": [1, 1, 2, 2, 4, 4], "acme2": [40, 9, 1, 1, 1, 1]}

        def any_document(tenant_id: str) -> Document:
            lines = (" ".join(rng.choices(words, weights[tenant_id], k=rng.randint(1, 12))) + "." for _ in range(6))
            return document(f"d{rng.randrange(4)}", "\n\n".join(lines))

        for _ in range(40):
            tenant_id = rng.choice(["acme", "acme2"])
            each = any_document(tenant_id)
            if rng.random() < 0.2:
                await store.remove(tenant_id, each.document_id)
                if tenant_id == "acme":
                    ours.pop(each.document_id, None)
                continue
            await store.put(tenant_id, each)
            await store.keep_vectors(tenant_id, "m", {chunk.fingerprint: tenant_id.encode() for chunk in each.chunks})
            if tenant_id == "acme":
                ours[each.document_id] = each
        for each in ours.values():
            await store.put("alone", each)
        assert ours
        assert await store.places("acme") == await store.places("alone")
        for query in (*words, "cat dog", "fox gnu hen", "cat hen", "dog gnu", " ".join(words)):
            assert await texts(store, "acme", query) == await texts(store, "alone", query)
        prints = [chunk.fingerprint for each in ours.values() for chunk in each.chunks]
        assert set((await store.vectors("acme", "m", prints)).values()) == {b"acme"}
        assert await store.vectors("alone", "m", prints) == {}
        theirs = [place.key for place in await store.places("acme2")]
        assert not set(await store.chunks("nobody", theirs))
        assert await store.version("nobody") == 0

    async def test_words_that_another_tenant_has_often_count_no_less_for_this_one(self, store: DocumentStore) -> None:
        """Were they counted together, cat would tell less than dog, and the order would turn around."""
        lines = ["cat sits here", "dog sits here", *(f"dog runs {number}" for number in range(2)), *["nothing"] * 12]
        await store.put("acme", document("ours", "\n\n".join(f"# {line}\n\n{line}" for line in lines)))
        before = await texts(store, "acme", "cat dog")
        assert before[0].startswith("# cat sits here")
        await store.put("acme2", document("theirs", "\n\n".join(["# cat\n\ncat"] * 40 + ["# hen\n\nhen"] * 200)))
        assert await texts(store, "acme", "cat dog") == before
