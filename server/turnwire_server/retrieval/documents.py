"""What a document, a chunk of it, and what was found of them are. Positions are in UTF-16 units of the document's text,
as everywhere on the wire."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal


class RetrievalUnavailable(Exception):
    """Nothing could be looked for. The text says why, and holds no secret and no part of a document."""


class DocumentRefused(ValueError):
    """A document that cannot be taken. The text says why."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document: ``text`` is exactly what stands from ``start`` to ``end``. ``heading`` is the way to it,
    as `Guide › Install`."""

    index: int
    start: int
    end: int
    tokens: int
    heading: str
    text: str

    @property
    def to_embed(self) -> str:
        """The text with what it is about."""
        return f"{self.heading}\n{self.text}" if self.heading else self.text

    @property
    def fingerprint(self) -> str:
        """By which its vector is kept."""
        return fingerprint_of(self.to_embed)


@dataclass(frozen=True, slots=True)
class Document:
    """A document as it is kept. ``fingerprint`` is of its text, its title and how it was cut: the same again changes
    nothing."""

    document_id: str
    title: str
    fingerprint: str
    size_bytes: int
    at: int
    chunks: Sequence[Chunk]


@dataclass(frozen=True, slots=True)
class DocumentOutline:
    """A document without its text."""

    document_id: str
    title: str
    fingerprint: str
    size_bytes: int
    at: int
    chunks: int


ChunkKey = tuple[str, str, int]
"""Document, the fingerprint of the version of it, place in it: never another text."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a text came from, to be cited. ``score`` is in (0, 1]: 1 is first in every way of searching."""

    id: str
    title: str
    score: float
    start: int
    end: int
    heading: str


@dataclass(frozen=True, slots=True)
class Passage:
    """A text for the prompt. It is data: nothing in it is to be obeyed."""

    source: Source
    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Found:
    """What a search gave. ``degraded`` says what was searched without, and why; None where nothing was missing."""

    documents: int
    """How many documents the passages are of."""
    passages: Sequence[Passage] = ()
    degraded: str | None = None
    embedding_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    """Of embedding the query."""

    @property
    def sources(self) -> Sequence[Source]:
        return [passage.source for passage in self.passages]


def fingerprint_of(*texts: str) -> str:
    """Of texts that must never run into each other."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()
