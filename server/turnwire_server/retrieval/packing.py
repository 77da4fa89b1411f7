"""Chooses what of the chunks that were found goes into a prompt. Pure.

The best come first and are taken while they fit. Those that touch or overlap in their document become one passage, so
no text is in the prompt twice, and a passage has the score of its best chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .documents import Chunk, Passage, Source

SOURCE_TOKENS = 16
"""For what is said of a passage beside its text: its number, title and heading."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A chunk that was found. ``edition`` tells versions of a document apart."""

    document_id: str
    edition: str
    title: str
    score: float
    chunk: Chunk


def packed(candidates: Iterable[Candidate], budget_tokens: int, count: Callable[[str], int]) -> list[Passage]:
    """Passages of ``budget_tokens`` at most together, the best first."""
    taken: list[Candidate] = []
    passages: list[Passage] = []
    seen: set[tuple[str, str, int]] = set()
    for candidate in candidates:
        key = (candidate.document_id, candidate.edition, candidate.chunk.index)
        # A neighbour may cost less than its tokens, since their overlap counts once: what they come to decides.
        if key in seen or candidate.chunk.tokens > 2 * budget_tokens:
            continue
        tried = _passages([*taken, candidate], count)
        if sum(passage.tokens for passage in tried) <= budget_tokens:
            seen.add(key)
            taken.append(candidate)
            passages = tried
    return passages


def _passages(taken: Sequence[Candidate], count: Callable[[str], int]) -> list[Passage]:
    groups: list[list[Candidate]] = []
    for candidate in sorted(taken, key=lambda each: (each.document_id, each.edition, each.chunk.index)):
        last = groups[-1][-1] if groups else None
        if (
            last is not None
            and (last.document_id, last.edition) == (candidate.document_id, candidate.edition)
            and last.chunk.index + 1 == candidate.chunk.index
            and last.chunk.heading == candidate.chunk.heading
            and candidate.chunk.start <= last.chunk.end
        ):
            groups[-1].append(candidate)
        else:
            groups.append([candidate])
    return sorted((_passage(group, count) for group in groups), key=lambda each: -each.source.score)


def _passage(group: Sequence[Candidate], count: Callable[[str], int]) -> Passage:
    first, last = group[0], group[-1]
    text, end = first.chunk.text, first.chunk.end
    for candidate in group[1:]:
        text += _from_unit(candidate.chunk.text, end - candidate.chunk.start)
        end = candidate.chunk.end
    tokens = first.chunk.tokens if len(group) == 1 else count(text)
    source = Source(
        first.document_id,
        first.title,
        max(candidate.score for candidate in group),
        first.chunk.start,
        last.chunk.end,
        first.chunk.heading,
    )
    return Passage(source, text, tokens + SOURCE_TOKENS)


def _from_unit(text: str, unit: int) -> str:
    """The text from a position in UTF-16 units on."""
    return text.encode("utf-16-le", "surrogatepass")[2 * unit :].decode("utf-16-le", "surrogatepass")
