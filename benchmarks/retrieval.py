"""`python -m benchmarks.retrieval`: how well documents are found, by words, by vectors, and by both.

The data is Lee's (Lee, Pincombe and Welsh, 2005), which the package `gensim` ships: 50 short news texts, and how alike
people found each two of them, from 0 to 1. Each text asks for the others: whole, and by its first sentence alone.
nDCG@10 has people's figures for its gains, above the least of their scale; recall@10 is of those that they found alike
by half at least. Vectors are those of `wordllama`, behind an HTTP server that speaks OpenAI's protocol, as any
deployment would be. The server needs neither package; requirements/retrieval-bench.txt has them.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import math
import re
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table
from tests.support.provider import running_provider

from turnwire_server.gateway.providers.embeddings import OpenAIEmbeddings
from turnwire_server.gateway.usage import TokenCounter
from turnwire_server.retrieval import sqlite as retrieval_sqlite
from turnwire_server.retrieval.documents import ChunkKey
from turnwire_server.retrieval.service import Retrieval
from turnwire_server.retrieval.sqlite import SqliteDocuments
from turnwire_server.settings import Deployment
from turnwire_server.settings.retrieval import RetrievalSettings
from turnwire_server.sqlite import Database

TENANT = "lee"
AT = 10
ALIKE, UNLIKE = 0.5, 0.2
LIMIT_S = 30.0
"""Quality is measured here: nothing is to be missing for being slow."""

Judged = Sequence[Sequence[float]]


def data() -> tuple[list[str], Judged]:
    """The texts, and how alike each two of them are."""
    folder = _folder_of("gensim") / "test" / "test_data"
    texts = (folder / "lee.cor").read_text(encoding="cp1252").splitlines()
    half = [list(map(float, line.split())) for line in (folder / "similarities0-1.txt").read_text().splitlines()]
    count = range(len(texts))
    return texts, [[half[min(i, j)][max(i, j)] for j in count] for i in count]


def _folder_of(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise SystemExit(f"needs {package}: pip install --no-deps -r requirements/retrieval-bench.txt")
    return Path(found.submodule_search_locations[0])


def word_vectors() -> Callable[[list[str]], list[list[float]]]:
    """Those of a small model that its package ships."""
    folder = _folder_of("wordllama")
    model: Any = importlib.import_module("wordllama").WordLlama.load(cache_dir=folder, disable_download=True)
    return lambda texts: [list(map(float, vector)) for vector in model.embed(texts)]


class Wordless(SqliteDocuments):
    """Finds nothing by words."""

    async def by_words(self, tenant_id: str, query: str, *, limit: int) -> Sequence[ChunkKey]:
        return ()


@dataclass(frozen=True, slots=True)
class Figures:
    """Means over all queries."""

    ndcg: float
    recall: float


def figures(rankings: Sequence[Sequence[int]], alike: Judged) -> Figures:
    """Of what was found for each text, the best first, without itself."""
    ndcgs, recalls = [], []
    for text, ranking in enumerate(rankings):
        others = [other for other in range(len(alike)) if other != text]
        gains = {other: max(0.0, alike[text][other] - UNLIKE) for other in others}
        best = _dcg(sorted(gains.values(), reverse=True))
        ndcgs.append(_dcg([gains[other] for other in ranking]) / best if best else 1.0)
        wanted = {other for other in others if alike[text][other] >= ALIKE}
        if wanted:
            recalls.append(len(wanted.intersection(ranking[:AT])) / min(AT, len(wanted)))
    return Figures(fmean(ndcgs), fmean(recalls))


def _dcg(gains: Sequence[float]) -> float:
    return sum(gain / math.log2(rank + 2) for rank, gain in enumerate(gains[:AT]))


def first_sentence(text: str) -> str:
    return re.split(r"(?<=[.!?])\s", text.strip(), maxsplit=1)[0]


async def rankings(service: Retrieval, queries: Sequence[str]) -> list[list[int]]:
    """Numbers of the texts that were found for each, without the one that asks."""
    found = []
    for number, query in enumerate(queries):
        candidates = await service.ranked(TENANT, query, limit_s=LIMIT_S)
        ids = dict.fromkeys(int(candidate.document_id) for candidate in candidates)
        found.append([each for each in ids if each != number])
    return found


async def measured() -> Table:
    texts, alike = data()
    settings, counter = RetrievalSettings(), TokenCounter.load()
    table = Table("asked by", "found by", f"nDCG@{AT}", f"recall@{AT}")
    with tempfile.TemporaryDirectory() as folder:
        async with running_provider() as provider, AsyncExitStack() as stack:
            provider.embed = word_vectors()
            deployment = Deployment(name="vectors", model="wordllama", base_url=provider.base_url)
            vectors = OpenAIEmbeddings.of(deployment, {})
            stack.push_async_callback(vectors.aclose)
            database = Database(Path(folder))
            stack.push_async_callback(database.aclose)
            await database.open(retrieval_sqlite.SCHEMA)
            store = SqliteDocuments(database)
            both = Retrieval(store, settings, counter, vectors)
            for number, text in enumerate(texts):
                await both.add(TENANT, str(number), text, markdown=False)
            ways = {
                "words alone": Retrieval(store, settings, counter),
                "vectors alone": Retrieval(Wordless(database), settings, counter, vectors),
                "both": both,
            }
            for asked, queries in {"the text": texts, "its first sentence": list(map(first_sentence, texts))}.items():
                for way, service in ways.items():
                    result = figures(await rankings(service, queries), alike)
                    table.add_row(asked, way, f"{result.ndcg:.3f}", f"{result.recall:.3f}")
    return table


if __name__ == "__main__":
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # the model's package has every log printed
    Console().print(asyncio.run(measured()))
