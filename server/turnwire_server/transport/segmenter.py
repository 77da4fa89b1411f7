"""Whole sentences or clauses out of text that grows: where they end, and which are ready. Pure, time comes in as `now`.

A boundary is decided from the text alone, once the character behind it is there: however the text is cut into chunks,
the same segments come out, until somebody has waited longer than they want to (`max_hold_ms`), which ends a segment at
the last whole word. Segments tile the text: the white space behind a sentence belongs to it. Positions are UTF-16 units
outside and characters inside.

It errs on the side of waiting: an abbreviation that is known, an initial, a number that begins a line, an ellipsis
before a small letter end nothing.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from turnwire_protocol import Segments, utf16_cut, utf16_len

LONGEST = 600
"""Characters after which a segment ends at a clause or a word, or anywhere: nobody can speak longer in one breath."""
SHORTEST_CLAUSE = 8
"""Characters that a clause has at least; "Yes, " goes with what follows."""

_CLOSERS = r"[\"'”’»›)\]}*_`」』）】》〉]"
_CJK = r"\u2e80-\u2fff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef"
_BOUNDARY = re.compile(
    # Runs are bounded where they may lead to nothing: a chunk of nothing but dots or blanks costs no more than another.
    rf"(?P<line>[^\S\n]{{0,40}}\n\s*)"
    rf"|(?P<full>[。！？｡]+{_CLOSERS}*\s*)"
    rf"|(?P<mark>[.!?…]{{1,16}})(?P<closed>{_CLOSERS}{{0,16}})\s+"
    rf"|(?P<clause>[，、；：]\s*|[,;:–—]{_CLOSERS}{{0,16}}\s+)"
)
_WORD_END = re.compile(rf"(?<=\s)(?=\S)|(?<=[{_CJK}])(?=[{_CJK}])")
# What follows a sentence begins behind so many openers at most.
_AHEAD = 8
_OPENERS = "\"'“‘«‹([{*_`¿¡"
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")
_BEGIN_OF_ITEM = re.compile(r"[\s>*+#(\-]*")
# Words whose dot ends nothing even before a capital letter, and those whose does not before a digit.
_BEFORE_NAMES = """
    mr mrs ms dr prof st rev hon gen col sgt capt lt gov pres rep sen vs cf approx
    bzw vgl evtl ggf inkl exkl zzgl bspw sog nr abb abs bd hrsg mio mrd tsd dipl ing ca hr
    mme mlle mgr sra srta dra uds avv dott
    г гг ул пр стр рис см др тыс млн млрд руб
"""
_BEFORE_NUMBERS = """
    no nos vol vols pp fig figs ch sec art ext tel est núm pág págs
    jan feb mar apr jun jul aug sep sept oct nov dec
"""
_NEVER_ENDS = frozenset(_BEFORE_NAMES.split())
_RARELY_ENDS = frozenset(_BEFORE_NUMBERS.split())


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of one part's text, from ``start`` up to ``end``."""

    part: int
    start: int
    end: int
    text: str
    last: bool = False


def boundary(
    text: str, start: int, *, unit: Literal["sentence", "clause"], least: int = 0, is_whole: bool = False
) -> int | None:
    """Where the segment that begins at ``start`` ends; None as long as that cannot be told.

    With ``least`` it has so many UTF-16 units at least and may end with a clause. ``is_whole``: nothing follows.
    """
    limit = start + LONGEST
    for match in _BOUNDARY.finditer(text, start, limit + 1):
        end = match.end()
        if end > limit:
            break
        if not is_whole and not text[end : end + _AHEAD].lstrip(_OPENERS) and end + _AHEAD > len(text):
            return None  # whether the boundary ends here, and is one, shows with the next character
        if _is_boundary(text, start, match, unit, least):
            return end
    if len(text) > limit:
        return _forced(text, start, limit)
    return len(text) if is_whole and start < len(text) else None


def _is_boundary(text: str, start: int, match: re.Match[str], unit: str, least: int) -> bool:
    begin, end = match.start(), match.end()
    if not text[start:begin].strip():
        return False  # nothing but white space so far
    if least:
        if utf16_len(text[start:end]) < least:
            return False
    elif match["clause"] is not None:
        return unit == "clause" and end - start >= SHORTEST_CLAUSE
    return match["mark"] is None or _ends_sentence(text, start, match)


def _ends_sentence(text: str, start: int, match: re.Match[str]) -> bool:
    mark, begin, end = match["mark"], match.start(), match.end()
    follows = text[end : end + _AHEAD].lstrip(_OPENERS)[:1]
    if follows.islower() and (mark[-1] in ".…" or match["closed"]):
        return False
    if mark != ".":
        return True
    word_at = max(text.rfind(white, start, begin) for white in (" ", "\n", "\t", "\u00a0")) + 1 or start
    word_at = max(word_at, start)
    word = text[word_at:begin].lstrip(_OPENERS)
    if word.lower() in _NEVER_ENDS or (word.lower() in _RARELY_ENDS and follows.isdigit()):
        return False
    if _INITIALS.fullmatch(word) and word != "I":
        return False
    line_at = max(text.rfind("\n", start, word_at) + 1, start)
    return not (word.isdigit() and _BEGIN_OF_ITEM.fullmatch(text, line_at, word_at))


def _forced(text: str, start: int, limit: int) -> int:
    """Where a segment that has become too long ends."""
    ends = [match.end() for match in _BOUNDARY.finditer(text, start + LONGEST // 2, limit) if match.end() < limit]
    ends = ends or [match.end() for match in _WORD_END.finditer(text, start + LONGEST // 2, limit)]
    if ends:
        return ends[-1]
    # In the midst of a word: but not in the midst of what is one character to a reader.
    end = limit
    while end > start + 1 and limit - end < 16 and _continues(text[end - 1], text[end]):
        end -= 1
    return end


def _continues(before: str, char: str) -> bool:
    joiner = "\u200d"
    return bool(unicodedata.combining(char)) or char in ("\ufe0e", "\ufe0f", joiner) or before == joiner


class Segmenter:
    """The text of one answer, part by part. What its methods give is ready, in order."""

    __slots__ = ("_first_part", "_given", "_is_first", "_options", "_pending", "_since", "_stuck", "part", "start")

    def __init__(self, options: Segments) -> None:
        self._options = options
        self._first_part: int | None = None
        self._is_first = True
        self._pending = ""
        self._since = 0.0
        self._stuck = False
        self._given: int | None = 0
        """The checksum of what was given of the current part, if all of it is known."""
        self.part: int | None = None
        """The current part, if there was any text."""
        self.start = 0
        """What comes before this offset of it has been given."""

    def __repr__(self) -> str:
        return f"<Segmenter {self.part}/{self.start} pending={len(self._pending)}>"

    def add(self, part: int, offset: int, text: str, now: float) -> list[Segment]:
        """More text of a part, which is a later one than before or goes on."""
        out = [] if part == self.part else self.close()
        if part != self.part or offset != self.start + utf16_len(self._pending):
            self._begin(part, offset)
        if not self._pending:
            self._since = now
        self._pending += text
        self._stuck = False
        ready = list(self._ready(is_whole=False))
        if ready and len(self._pending) <= len(text):
            self._since = now
        if not ready:
            ready = self.release(now)
        return out + ready

    def go_on(self, part: int, whole: str, now: float) -> list[Segment]:
        """All the text that a part has by now, of which the beginning may have been given."""
        have = self.start + utf16_len(self._pending) if part == self.part else 0
        return self.add(part, have, whole[len(utf16_cut(whole, have)) :], now)

    def close(self) -> list[Segment]:
        """The current part has ended: what is left of it."""
        return list(self._ready(is_whole=True))

    def finish(self, *, keep: bool = True) -> list[Segment]:
        """The answer has ended: what is left, the last one marked so; with ``keep`` False the rest is not given."""
        if self.part is None:
            return []
        out = self.close() if keep else []
        if not out:
            return [Segment(self.part, self.start, self.start, "", last=True)]
        rest = out.pop()
        return [*out, Segment(rest.part, rest.start, rest.end, rest.text, last=True)]

    def reset(self, part: int, offset: int) -> None:
        """The text from there on is void."""
        if self.part is None or part > self.part:
            return
        if part == self.part and offset >= self.start:
            self._pending = utf16_cut(self._pending, offset - self.start)
            return
        self._begin(part, offset)
        if self._first_part is not None and (part, offset) <= (self._first_part, 0):
            self._is_first, self._first_part = True, None

    def has_given(self, text: str) -> bool:
        """Does the current part begin with what was given of it, when ``text`` is all of it?"""
        given = utf16_cut(text, self.start)
        return utf16_len(given) == self.start and self._given == zlib.crc32(given.encode())

    @property
    def hold_until(self) -> float | None:
        """When to call `release`."""
        hold_ms = self._options.max_hold_ms
        return None if hold_ms is None or not self._pending or self._stuck else self._since + hold_ms / 1000

    def release(self, now: float) -> list[Segment]:
        """What has been held for too long, as far as its words are whole."""
        until = self.hold_until
        if until is None or now < until:
            return []
        ends = [match.end() for match in _WORD_END.finditer(self._pending)]
        if not ends:
            self._stuck = True  # until the word goes on
            return []
        self._since = now
        return [self._give(ends[-1])]

    def _begin(self, part: int, offset: int) -> None:
        self.part, self.start, self._pending = part, offset, ""
        self._given = 0 if offset == 0 else None
        if self._first_part is None:
            self._first_part = part

    def _ready(self, *, is_whole: bool) -> Iterator[Segment]:
        at = 0
        text = self._pending
        while True:
            least = (self._options.first_min_chars or 0) if self._is_first else 0
            end = boundary(text, at, unit=self._options.unit, least=least, is_whole=is_whole)
            if end is None:
                break
            self._is_first = False
            yield self._made(text[at:end])
            at = end
        self._pending = text[at:]

    def _give(self, end: int) -> Segment:
        text, self._pending = self._pending[:end], self._pending[end:]
        self._is_first = False
        return self._made(text)

    def _made(self, text: str) -> Segment:
        assert self.part is not None, "there is text"
        start, self.start = self.start, self.start + utf16_len(text)
        if self._given is not None:
            self._given = zlib.crc32(text.encode(), self._given)
        return Segment(self.part, start, self.start, text)
