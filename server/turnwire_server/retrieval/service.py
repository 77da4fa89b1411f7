"""Retrieval as the rest of the server uses it: take documents in, find passages for a prompt.

Both ways of searching run at the same time. Where only vectors cannot be had in time, words alone answer, and `Found`
says so; where words cannot, nothing can, and `RetrievalUnavailable` is raised.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal

import anyio

from turnwire_server.archive.base import ArchiveUnavailable
from turnwire_server.gateway.errors import ProviderError
from turnwire_server.gateway.providers.embeddings import Embeddings
from turnwire_server.gateway.usage import TokenCounter
from turnwire_server.settings.retrieval import RetrievalSettings

from .bounded import Bounded
from .building import Builds
from .chunking import chunks_of
from .documents import (
    ChunkKey,
    Document,
    DocumentOutline,
    DocumentRefused,
    Found,
    RetrievalUnavailable,
    fingerprint_of,
)
from .fusion import fused
from .meaning import Matrix, stored
from .packing import Candidate, packed
from .store import DocumentStore

logger = logging.getLogger(__name__)

_VECTORS_SHARE = 0.8
"""Of a search's time that vectors may take: the rest is for fetching what words alone have found."""
_MOST_ID_CHARS = 512


@dataclass(frozen=True, slots=True)
class Added:
    """What has become of a document. ``embedded`` chunks were not known before."""

    changed: bool
    chunks: int
    embedded: int
    tokens: int
    cost_usd: Decimal


@dataclass(slots=True)
class _ByMeaning:
    keys: Sequence[ChunkKey] = ()
    degraded: str | None = None
    tokens: int = 0
    cost_usd: Decimal = Decimal(0)


class Retrieval:
    """See the module. Without ``embeddings`` documents are found by their words alone."""

    def __init__(
        self,
        store: DocumentStore,
        settings: RetrievalSettings,
        counter: TokenCounter,
        embeddings: Embeddings | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._settings = settings
        self._counter = counter
        self._embeddings = embeddings
        self._clock = clock
        self._matrices: Bounded[tuple[str, str], Matrix] = Bounded(settings.memory_bytes)
        self._builds: Builds[tuple[str, str, int], Matrix] = Builds()

    def __repr__(self) -> str:
        return f"<Retrieval {self._store!r} embeddings={self._embeddings!r}>"

    # --- documents -------------------------------------------------------------------------------------

    async def add(
        self, tenant_id: str, document_id: str, text: str, *, title: str | None = None, markdown: bool = True
    ) -> Added:
        """Take a document in, in place of one with its id. The same again changes nothing, and embeds what has not been
        embedded yet. Raises `DocumentRefused`, `RetrievalUnavailable`, and `ProviderError` once it can be found by its
        words."""
        title = title or document_id
        size = self._judged(document_id, title, text)
        cut = {"chunk_tokens": self._settings.chunk_tokens, "overlap_tokens": self._settings.overlap_tokens}
        fingerprint = fingerprint_of(text, title, repr(cut), self._counter.name, "markdown" if markdown else "text")
        with _answering():
            stands = await self._store.outlines(tenant_id)
            others = sum(each.size_bytes for each in stands if each.document_id != document_id)
            if others + size > self._settings.tenant_bytes:
                raise DocumentRefused("the tenant's documents would be more than retrieval.tenant_bytes")
            chunks = await anyio.to_thread.run_sync(
                lambda: chunks_of(text, self._counter.count, markdown=markdown, **cut)
            )
            if not chunks:
                raise DocumentRefused("there is no text in it")
            at = int(self._clock() * 1000)
            changed = await self._store.put(tenant_id, Document(document_id, title, fingerprint, size, at, chunks))
            texts = {chunk.fingerprint: chunk.to_embed for chunk in chunks}
            embedded, tokens, cost = await self._embed(tenant_id, texts)
        return Added(changed, len(chunks), embedded, tokens, cost)

    async def documents(self, tenant_id: str) -> Sequence[DocumentOutline]:
        """All of the tenant, by their ids."""
        with _answering():
            return await self._store.outlines(tenant_id)

    async def remove(self, tenant_id: str, document_id: str) -> bool:
        """False where there is none."""
        with _answering():
            return await self._store.remove(tenant_id, document_id)

    def _judged(self, document_id: str, title: str, text: str) -> int:
        """Its size in bytes, if it can be taken."""
        for what, given in (("id", document_id), ("title", title)):
            if not given or len(given) > _MOST_ID_CHARS or not given.isprintable():
                raise DocumentRefused(f"its {what} must have 1 to {_MOST_ID_CHARS} printable characters")
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            raise DocumentRefused("it holds half a surrogate pair, which is no text") from None
        if size > self._settings.document_bytes:
            raise DocumentRefused(f"it has {size} bytes, more than retrieval.document_bytes")
        return size

    async def _embed(self, tenant_id: str, texts: Mapping[str, str]) -> tuple[int, int, Decimal]:
        """Embed those of the texts, by fingerprint, that the tenant has no vectors of."""
        embeddings, settings = self._embeddings, self._settings
        if embeddings is None:
            return 0, 0, Decimal(0)
        known = await self._store.vectors(tenant_id, embeddings.model, list(texts))
        missing = [fingerprint for fingerprint in texts if fingerprint not in known]
        tokens, cost = 0, Decimal(0)
        for begin in range(0, len(missing), settings.embedding_batch):
            batch = missing[begin : begin + settings.embedding_batch]
            try:
                with anyio.fail_after(settings.embedding_timeout_s):
                    answer = await embeddings.embed([texts[each] for each in batch])
            except TimeoutError:
                raise RetrievalUnavailable(f"no vectors within {settings.embedding_timeout_s:g} s") from None
            vectors = {each: stored(vector) for each, vector in zip(batch, answer.vectors, strict=True)}
            await self._store.keep_vectors(tenant_id, embeddings.model, vectors)
            tokens += answer.tokens
            cost += answer.cost_usd
        return len(missing), tokens, cost

    # --- searching -------------------------------------------------------------------------------------

    async def find(self, tenant_id: str, query: str, *, budget_tokens: int, limit_s: float = 2.0) -> Found:
        """Passages for a prompt, of ``budget_tokens`` at most together, the best first. Raises `RetrievalUnavailable`,
        after ``limit_s`` at the latest."""
        with _answering():
            try:
                with anyio.fail_after(limit_s):
                    candidates, meaning = await self._candidates(tenant_id, query, limit_s)
            except TimeoutError:
                raise RetrievalUnavailable(f"nothing was found out within {limit_s:g} s") from None
        passages = tuple(packed(candidates, budget_tokens, self._counter.count))
        documents = len({passage.source.id for passage in passages})
        return Found(documents, passages, meaning.degraded, meaning.tokens, meaning.cost_usd)

    async def ranked(self, tenant_id: str, query: str, *, limit_s: float = 2.0) -> Sequence[Candidate]:
        """All that was found, unpacked; otherwise as `find`."""
        with _answering():
            try:
                with anyio.fail_after(limit_s):
                    return (await self._candidates(tenant_id, query, limit_s))[0]
            except TimeoutError:
                raise RetrievalUnavailable(f"nothing was found out within {limit_s:g} s") from None

    async def _candidates(self, tenant_id: str, query: str, limit_s: float) -> tuple[list[Candidate], _ByMeaning]:
        query = query[: self._settings.query_chars].encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        meaning = _ByMeaning()
        version = await self._store.version(tenant_id)
        if not version or not query.strip():
            return [], meaning

        async def by_meaning() -> None:
            nonlocal meaning
            meaning = await self._by_meaning(tenant_id, query, version, limit_s * _VECTORS_SHARE)

        failure: ArchiveUnavailable | None = None
        words: Sequence[ChunkKey] = ()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(by_meaning)
            try:
                words = await self._store.by_words(tenant_id, query, limit=self._settings.candidates)
            except ArchiveUnavailable as error:
                failure = error
                tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure
        scored = fused([words, meaning.keys] if meaning.keys else [words])
        found = await self._store.chunks(tenant_id, [key for key, _ in scored])
        candidates = [
            Candidate(key[0], key[1], found[key][0], score, found[key][1]) for key, score in scored if key in found
        ]
        return candidates, meaning

    async def _by_meaning(self, tenant_id: str, query: str, version: int, limit_s: float) -> _ByMeaning:
        """It raises nothing: without vectors there are words."""
        embeddings = self._embeddings
        if embeddings is None:
            return _ByMeaning()
        try:
            with anyio.fail_after(limit_s):
                matrix = await self._matrix(tenant_id, embeddings.model, version)
                if not matrix.keys:
                    return _ByMeaning(degraded="no vectors: the tenant's documents have not been embedded")
                answer = await embeddings.embed([query])
                keys = await anyio.to_thread.run_sync(matrix.nearest, answer.vectors[0], self._settings.candidates)
        except ProviderError as error:
            return _ByMeaning(degraded=f"no vectors: {error.kind.value}")
        except ArchiveUnavailable as error:
            logger.warning("vectors of a tenant could not be read: %s", error)
            return _ByMeaning(degraded="no vectors: they could not be read")
        except TimeoutError:
            return _ByMeaning(degraded="no vectors: they were not there in time")
        partly = f"{matrix.missing} chunks have no vectors" if matrix.missing else None
        return _ByMeaning(keys, partly, answer.tokens, answer.cost_usd)

    async def _matrix(self, tenant_id: str, model: str, version: int) -> Matrix:
        matrix = self._matrices.get((tenant_id, model))
        if matrix is not None and matrix.version == version:
            return matrix
        return await self._builds.wait((tenant_id, model, version), lambda: self._built(tenant_id, model, version))

    async def _built(self, tenant_id: str, model: str, version: int) -> Matrix:
        places = await self._store.places(tenant_id)
        vectors = await self._store.vectors(tenant_id, model, list({place.fingerprint for place in places}))
        matrix = await anyio.to_thread.run_sync(Matrix, version, places, vectors)
        if not self._matrices.put((tenant_id, model), matrix, matrix.size_bytes):
            raise ArchiveUnavailable("they are more than retrieval.memory_bytes", unknown=False)
        return matrix


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except ArchiveUnavailable as error:
        raise RetrievalUnavailable(str(error)) from error
