"""How far an answer was presented to its user, and what is left of it when it is cut there. Pure.

A place is a part of the answer and an offset in it in UTF-16 code units, as clients report it. `encode` makes one whole
number of it that grows with the place, which is what the log keeps. Lengths count the text parts alone (guarantee 13).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from turnwire_protocol import Message, Part, Presented, TextPart, ToolCallPart, utf16_len

_PART = 2**32  # offsets stay below; what comes out stays whole in a float, which Lua counts in


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Everything before ``offset`` of part ``part`` was presented."""

    part: int = 0
    offset: int = 0

    def encode(self) -> int:
        """A whole number from 1."""
        return self.part * _PART + self.offset + 1

    @classmethod
    def decode(cls, number: int) -> Self:
        return cls(*divmod(number - 1, _PART))

    @classmethod
    def reported(cls, part: int, offset: int) -> Self:
        """As a client says, whatever the answer is like; bounded so that it can be kept."""
        return cls(min(part, 2**20 - 1), min(offset, _PART - 2))

    def to_wire(self) -> Presented:
        return Presented(part=self.part, offset=self.offset)


def end_of(parts: Sequence[Part]) -> Place:
    """The place behind all text."""
    for index in range(len(parts) - 1, -1, -1):
        part = parts[index]
        if isinstance(part, TextPart):
            return Place(index, utf16_len(part.text))
    return Place()


def clamped(parts: Sequence[Part], place: Place) -> Place:
    """The place as far as the answer reaches; one in a surrogate pair moves before it."""
    if place.part >= len(parts):
        return min(place, end_of(parts))
    part = parts[place.part]
    if not isinstance(part, TextPart):
        return Place(place.part, 0)
    return Place(place.part, utf16_len(_head(part.text, place.offset)))


def length(parts: Sequence[Part], place: Place | None = None) -> int:
    """UTF-16 code units of the text before ``place``, or of all text."""
    total = 0
    for index, part in enumerate(parts):
        if isinstance(part, TextPart):
            size = utf16_len(part.text)
            if place is not None and index >= place.part:
                return total + (min(size, place.offset) if index == place.part else 0)
            total += size
    return total


def cut(answer: Message, place: Place) -> Message:
    """What was presented. Calls of tools stay wherever they are, since they were made and have results."""
    kept: list[Part] = []
    indexes: list[int] = []  # where each part has come to stand, or would
    for index, part in enumerate(answer.parts):
        indexes.append(len(kept))
        if isinstance(part, ToolCallPart) or index < place.part:
            kept.append(part)
        elif index == place.part and isinstance(part, TextPart) and place.offset:
            kept.append(replace(part, text=_head(part.text, place.offset)))
    indexes.append(len(kept))
    steered = [replace(s, part=indexes[min(s.part, len(answer.parts))]) for s in answer.steered or ()]
    return replace(answer, parts=kept, steered=steered or None)


def _head(text: str, units: int) -> str:
    """The first UTF-16 units of a text, no half of a pair."""
    if text.isascii():
        return text[:units]
    return text.encode("utf-16-le")[: units * 2].decode("utf-16-le", "ignore")


# --- a text instead of an offset -----------------------------------------------------------------------------

_WORD = r"(?:[^\W_][\u0300-\u036f]*)+"  # accents may be signs of their own
_WORDS = re.compile(f"{_WORD}(?:['’]{_WORD})?")
# What speech makes of digits and back is not ours to know in all languages: a number and the words in its place are
# skipped together (see `place_of_text`).
_LOOK_AHEAD = 12


def place_of_text(parts: Sequence[Part], said: str) -> Place:
    """Where an answer stands that was presented as ``said``: a transcript of speech, or text without its markup.

    Words are compared, in order, without case, accents, punctuation, white space and markdown; where they differ (a
    number that was spoken) both go on to the next that agree. Never an error: nothing in common is the beginning.
    """
    heard = [_plain(word) for word in _WORDS.findall(unicodedata.normalize("NFC", said))]
    place, at = Place(), 0
    for index, part in enumerate(parts):
        if not isinstance(part, TextPart):
            continue
        words = [(_plain(match[0]), match.end()) for match in _WORDS.finditer(part.text)]
        word = 0
        while word < len(words) and at < len(heard):
            step = _next_match(words, word, heard, at)
            if step is None:
                return place
            word, at = word + step[0] + 1, at + step[1] + 1
            place = Place(index, utf16_len(part.text[: words[word - 1][1]]))
    if at >= len(heard) and heard:
        return _with_punctuation(parts, place)
    return place


def _next_match(words: Sequence[tuple[str, int]], word: int, heard: Sequence[str], at: int) -> tuple[int, int] | None:
    """How many words to skip on either side until the two agree, the fewest together."""
    for skipped in range(_LOOK_AHEAD):
        for left in range(skipped + 1):
            right = skipped - left
            if word + left < len(words) and at + right < len(heard) and words[word + left][0] == heard[at + right]:
                return left, right
    return None


def _with_punctuation(parts: Sequence[Part], place: Place) -> Place:
    """The signs right behind the last word were presented with it."""
    part: Any = parts[place.part]
    head = _head(part.text, place.offset)
    rest = part.text[len(head) :]
    signs = re.match(r"[^\w\s]*", rest)
    assert signs is not None, "matches nothing at least"
    return Place(place.part, place.offset + utf16_len(signs[0]))


def _plain(word: str) -> str:
    folded = unicodedata.normalize("NFKD", word.casefold().replace("’", "'"))
    return "".join(char for char in folded if not unicodedata.combining(char))
