"""`[retrieval]`: how documents are cut, found and packed for a prompt."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from turnwire_server.settings.section import Bytes, Count, Name, Seconds, Section


class RetrievalSettings(Section):
    """How documents of tenants are cut and found."""

    embeddings: Name | None = None
    """Name of the deployment (kind `openai`) whose `/embeddings` makes vectors of texts. Absent: documents are found by
    their words alone."""
    chunk_tokens: Annotated[int, Field(ge=16, le=8_192)] = 256
    """Tokens of a chunk at most, counted as `cl100k_base` does. It holds for documents that are added from then on."""
    overlap_tokens: Annotated[int, Field(ge=0, le=4_096)] = 32
    """Tokens at the end of a chunk, whole sentences, that the next one begins with; at most half of `chunk_tokens`."""
    document_bytes: Annotated[int, Field(ge=1, le=4_194_304)] = 2_097_152
    """Bytes of a document's text at most. A document is one record in MongoDB, of which none may have more than 16
    MB, chunks and their overlap included."""
    tenant_bytes: Bytes = 67_108_864
    """Bytes of all documents of a tenant at most."""
    memory_bytes: Bytes = 268_435_456
    """Bytes of vectors (and, with MongoDB, again as much of word indexes) that a process keeps in memory, those of the
    tenants that were asked for last."""
    candidates: Annotated[int, Field(ge=1, le=1_000)] = 50
    """Chunks that each way of searching hands to rank fusion."""
    embedding_batch: Annotated[int, Field(ge=1, le=2_048)] = 64
    """Texts that are embedded by one call."""
    embedding_timeout_s: Seconds = 30
    """Seconds one such call may take while documents are added; a search has a limit of its own."""
    query_chars: Count = 4_000
    """Characters of a query that are looked at."""
