"""Cuts a document into chunks by its structure. Pure.

A text is taken apart into units that follow each other without a gap: headings, paragraphs, and of a paragraph that is
too long its sentences, words, and at last characters. Chunks are runs of units; none goes over a heading's beginning,
so a chunk has one heading. So every chunk is exactly a piece of the text, and neighbours touch or overlap.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .documents import Chunk

Count = Callable[[str], int]

_HEADING = re.compile(r" {0,3}(#{1,6})[ \t]+(.*?)[ \t]*#*[ \t]*\n?$")
_FENCE = re.compile(r" {0,3}(```|~~~)")
_LINE = re.compile(r"[^\n]*\n|[^\n]+$")
# After an end mark, which may be in quotes or brackets; marks of Chinese and Japanese need no space after them.
_SENTENCE = re.compile(r".+?(?:[.!?…]+[\"'”’)\]]*\s+|[。！？]+|\n|$)", re.DOTALL)
_WORD = re.compile(r"\S+\s*|\s+")
_HEADING_CHARS = 200


@dataclass(frozen=True, slots=True)
class _Unit:
    start: int
    text: str
    tokens: int


def chunks_of(text: str, count: Count, *, chunk_tokens: int, overlap_tokens: int, markdown: bool = True) -> list[Chunk]:
    """The chunks of a text, none of more than ``chunk_tokens``; none where there is nothing but space."""
    chunks: list[Chunk] = []
    position = _Positions(text)
    for heading, start, section in _sections(text, markdown):
        units = list(_units(section, start, count, chunk_tokens))
        for run in _runs(units, chunk_tokens, overlap_tokens):
            begin, end = run[0].start, run[-1].start + len(run[-1].text)
            body = text[begin:end]
            if body.strip():
                tokens = count(body)
                chunks.append(Chunk(len(chunks), position.of(begin), position.of(end), tokens, heading, body))
    return chunks


class _Positions:
    """From characters to UTF-16 units. Most texts have no character outside of the basic plane."""

    def __init__(self, text: str) -> None:
        self._wide = [index for index, char in enumerate(text) if char > "\uffff"]

    def of(self, index: int) -> int:
        if not self._wide:
            return index
        return index + bisect_left(self._wide, index)


def _sections(text: str, markdown: bool) -> Iterator[tuple[str, int, str]]:
    """Heading, beginning and text of each section, its own heading included."""
    path: list[tuple[int, str]] = []
    begin, heading, in_code = 0, "", False
    for line in _LINE.finditer(text):
        if not markdown:
            break
        if _FENCE.match(line[0]):
            in_code = not in_code
        found = None if in_code else _HEADING.match(line[0])
        if found is None:
            continue
        if line.start() > begin:
            yield heading, begin, text[begin : line.start()]
        begin = line.start()
        level = len(found[1])
        path = [*(each for each in path if each[0] < level), (level, found[2].strip())]
        heading = " › ".join(title for _, title in path)[:_HEADING_CHARS]
    if begin < len(text):
        yield heading, begin, text[begin:]


def _units(section: str, start: int, count: Count, most: int) -> Iterator[_Unit]:
    """Paragraphs, with the empty lines after them; sentences of those that are longer than a quarter of a chunk, since
    overlap and an even filling need small ones."""
    for paragraph in re.finditer(r".+?(?:\n[ \t]*(?:\n[ \t]*)+|$)", section, re.DOTALL):
        tokens = count(paragraph[0])
        if tokens <= most // 4:
            yield _Unit(start + paragraph.start(), paragraph[0], tokens)
        else:
            for piece in _SENTENCE.finditer(paragraph[0]):
                yield from _fitting(piece[0], start + paragraph.start() + piece.start(), count, most)


def _fitting(text: str, start: int, count: Count, most: int) -> Iterator[_Unit]:
    """The text, or its words gathered, or its halves, until each fits."""
    tokens = count(text)
    if tokens <= most or len(text) == 1:
        yield _Unit(start, text, tokens)
        return
    words = list(_WORD.finditer(text))
    middle = words[len(words) // 2].start() if len(words) > 1 else len(text) // 2
    yield from _fitting(text[:middle], start, count, most)
    yield from _fitting(text[middle:], start + middle, count, most)


def _runs(units: Sequence[_Unit], most: int, overlap: int) -> Iterator[Sequence[_Unit]]:
    first, tokens = 0, 0
    for index, unit in enumerate(units):
        if tokens + unit.tokens > most and index > first:
            yield units[first:index]
            # Of its last units as many as the overlap takes; all but one of them at most, or nothing would move on.
            back, shared = index, 0
            while (
                back - 1 > first
                and shared + units[back - 1].tokens <= overlap
                and shared + units[back - 1].tokens + unit.tokens <= most
            ):
                back -= 1
                shared += units[back].tokens
            first, tokens = back, shared
        tokens += unit.tokens
    if first < len(units):
        yield units[first:]
