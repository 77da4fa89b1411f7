"""Puts retrieval together from the settings."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from turnwire_server.gateway.providers.embeddings import OpenAIEmbeddings
from turnwire_server.gateway.usage import TokenCounter
from turnwire_server.settings import Settings

from .service import Retrieval
from .store import DocumentStore


@asynccontextmanager
async def opened(
    settings: Settings, store: DocumentStore, counter: TokenCounter, environ: Mapping[str, str]
) -> AsyncIterator[Retrieval]:
    """Retrieval over the store, with the deployment that ``[retrieval] embeddings`` names."""
    name = settings.retrieval.embeddings
    if name is None:
        yield Retrieval(store, settings.retrieval, counter)
        return
    embeddings = OpenAIEmbeddings.of(settings.deployment(name), environ)
    try:
        yield Retrieval(store, settings.retrieval, counter, embeddings)
    finally:
        await embeddings.aclose()
