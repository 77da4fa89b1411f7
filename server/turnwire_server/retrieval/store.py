"""The port that keeps documents, their chunks and vectors, and finds chunks by their words.

A tenant sees nothing of another: neither documents nor vectors, nor how often a word is found at others, which would
show in scores. Every call raises `ArchiveUnavailable` when the engine does not answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from .documents import Chunk, ChunkKey, Document, DocumentOutline


@dataclass(frozen=True, slots=True)
class Place:
    """A chunk without its text, and by what its vector is kept."""

    key: ChunkKey
    fingerprint: str


class DocumentStore(Protocol):
    """See the module."""

    async def put(self, tenant_id: str, document: Document) -> bool:
        """Keep the document in place of one with its id, all its chunks at once: nobody sees old ones and new ones.
        False, and nothing changes, where one with its fingerprint is kept already."""

    async def outline(self, tenant_id: str, document_id: str) -> DocumentOutline | None:
        """A document; None where there is none."""

    async def outlines(self, tenant_id: str) -> Sequence[DocumentOutline]:
        """All documents of the tenant, by their ids."""

    async def remove(self, tenant_id: str, document_id: str) -> bool:
        """Take a document away, with those of its vectors that no other chunk of the tenant has. False where there is
        none."""

    async def version(self, tenant_id: str) -> int:
        """Grows with each change of the tenant's documents or vectors; 0 where there never was any."""

    async def places(self, tenant_id: str) -> Sequence[Place]:
        """All chunks of the tenant."""

    async def chunks(self, tenant_id: str, keys: Sequence[ChunkKey]) -> Mapping[ChunkKey, tuple[str, Chunk]]:
        """The chunks with these keys, with the titles of their documents; those that are gone are left out."""

    async def by_words(self, tenant_id: str, query: str, *, limit: int) -> Sequence[ChunkKey]:
        """Chunks that have words of the query, by BM25 over the tenant's chunks, the best first."""

    async def vectors(self, tenant_id: str, model: str, fingerprints: Sequence[str]) -> Mapping[str, bytes]:
        """The vectors that are kept of these texts, as little-endian float32."""

    async def keep_vectors(self, tenant_id: str, model: str, vectors: Mapping[str, bytes]) -> None:
        """Keep vectors by the fingerprints of their texts."""
