"""A fuzz: what two tenants with the same ids and texts do never shows at the other, in documents, vectors or scores."""

from __future__ import annotations

import random

import pytest
from tests.server.retrieval.test_service import stored, vectors_of
from tests.support.provider import bags_of_words, running_provider

from turnwire_server.gateway.usage import TokenCounter
from turnwire_server.retrieval.service import Retrieval
from turnwire_server.settings.retrieval import RetrievalSettings

WORDS = ["cat", "dog", "eel", "fox", "gnu", "hen", "cats", "dogs"]
SETTINGS = RetrievalSettings(chunk_tokens=16, overlap_tokens=4)


# To one tenant words are rare that another has everywhere: were they counted together, both would rank otherwise.
WEIGHTS = {"acme": [1, 2, 3, 4, 6, 9, 1, 2], "acm": [90, 40, 1, 1, 1, 1, 1, 1]}


def any_text(rng: random.Random, tenant_id: str) -> str:
    lines = [" ".join(rng.choices(WORDS, WEIGHTS[tenant_id], k=rng.randint(2, 20))) for _ in range(rng.randint(2, 12))]
    secret = [f"secretof{tenant_id} {rng.choice(WORDS)}"] if rng.random() < 0.3 else []
    return "\n\n".join(f"{line}." for line in [*lines, *secret])


@pytest.mark.parametrize(("engine", "seed"), [("sqlite", 1), ("sqlite", 2), ("mongo", 3)])
async def test_each_tenant_answers_as_if_it_were_alone(engine: str, seed: int) -> None:
    rng = random.Random(seed)
    async with (
        stored(engine) as shared,
        stored() as apart,
        running_provider() as provider,
        vectors_of(provider.base_url) as vectors,
    ):
        together = Retrieval(shared, SETTINGS, TokenCounter(), vectors)
        alone = {
            # Another engine's store for the one, so that what is compared cannot be shared in any way.
            "acme": Retrieval(apart, SETTINGS, TokenCounter(), vectors),
            "acm": None,
        }
        for turn in range(60):
            tenant_id = rng.choice(["acme", "acm"])
            document_id, text = f"d{rng.randrange(3)}", any_text(rng, tenant_id)
            for service in filter(None, (together, alone[tenant_id])):
                if turn % 7 == 6:
                    await service.remove(tenant_id, document_id)
                else:
                    before = len(provider.embedded)
                    added = await service.add(tenant_id, document_id, text)
                    sent = [each for batch in provider.embedded[before:] for each in batch]
                    assert len(sent) == added.embedded
            if turn % 5:
                continue
            query = " ".join(rng.choices([*WORDS, "secretofacme", "secretofacm"], k=3))
            ours = await together.find("acme", query, budget_tokens=2_000)
            reference = alone["acme"]
            assert reference is not None
            assert ours == await reference.find("acme", query, budget_tokens=2_000)
            assert not any("secretofacm " in passage.text for passage in ours.passages)
            theirs = await together.find("acm", query, budget_tokens=2_000)
            assert not any("secretofacme" in passage.text for passage in theirs.passages)
        assert (await together.find("nobody", "cat", budget_tokens=2_000)).passages == ()


async def test_a_tenant_that_asks_first_pays_for_vectors_and_the_second_pays_again() -> None:
    """A cache that both had would tell the second, by the price, that somebody has this text."""
    async with stored() as store, running_provider() as provider, vectors_of(provider.base_url) as vectors:
        service = Retrieval(store, SETTINGS, TokenCounter(), vectors)
        first = await service.add("acme", "d", "A cat purrs.")
        provider.embed = lambda texts: [[-each for each in vector] for vector in bags_of_words(texts)]
        second = await service.add("other", "d", "A cat purrs.")
        assert first.tokens == second.tokens > 0
        fingerprints = [place.fingerprint for place in await store.places("acme")]
        ours = await store.vectors("acme", "vec", fingerprints)
        assert ours.keys() == set(fingerprints)
        assert ours != await store.vectors("other", "vec", fingerprints)
