"""Finding again what was said earlier in a conversation, by the words of what is asked now. Pure.

Words that many messages have say little, rare ones say much: a message counts as much as the words that it shares with
the question are rare. Scripts without spaces are taken in pairs of characters.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable

from turnwire_protocol import Message, TextPart

from .earlier import Memory

_WORD = re.compile(r"\w+")
# Hiragana, Katakana, Han and Hangul.
_UNSPACED = re.compile(r"[぀-ヿ㐀-䶿一-鿿가-힯]")
_MOST_HITS = 5
# Of a message: what stands around the first word that counts.
_SNIPPET_CHARS = 400
# A word of more than this part of the messages is no word to find anything by, where there are some.
_COMMON, _FEW = 0.1, 20


def words_of(text: str) -> set[str]:
    """What a text is found by."""
    found: set[str] = set()
    for word in _WORD.findall(text.casefold()):
        if _UNSPACED.search(word):
            found.update(word[at : at + 2] for at in range(max(1, len(word) - 1)))
        elif len(word) > 1 or word.isdigit():
            found.add(word)
    return found


class WordIndex:
    """Messages of a branch by their words."""

    def __init__(self) -> None:
        self._said: list[Memory] = []
        self._with: defaultdict[str, list[int]] = defaultdict(list)

    def __repr__(self) -> str:
        return f"<WordIndex messages={len(self._said)} words={len(self._with)}>"

    def __len__(self) -> int:
        return len(self._said)

    def extended(self, messages: Iterable[Message]) -> WordIndex:
        """One with these messages as well; this one stays as it is."""
        index = WordIndex()
        index._said = list(self._said)
        index._with = defaultdict(list, {word: list(places) for word, places in self._with.items()})
        for message in messages:
            text = "\n\n".join(part.text for part in message.parts if isinstance(part, TextPart))
            for word in words_of(text):
                index._with[word].append(len(index._said))
            index._said.append(Memory(message.ordinal or 0, message.role, text))
        return index

    def find(self, question: str, most_tokens: int, count: Callable[[str], int]) -> list[Memory]:
        """The messages that have most to do with the question, the best first."""
        total = len(self._said)
        common = max(_FEW, total * _COMMON)
        scores: defaultdict[int, float] = defaultdict(float)
        weights: dict[str, float] = {}
        for word in words_of(question):
            places = self._with.get(word, ())
            if 0 < len(places) <= common:
                weights[word] = math.log(1 + total / len(places))
                for place in places:
                    scores[place] += weights[word]
        found: list[Memory] = []
        best = sorted(scores, key=lambda place: (-scores[place], -place))
        for place in best[:_MOST_HITS]:
            memory = self._snippet(self._said[place], weights)
            most_tokens -= count(memory.text)
            if most_tokens < 0:
                break
            found.append(memory)
        return found

    @staticmethod
    def _snippet(memory: Memory, weights: dict[str, float]) -> Memory:
        text = memory.text
        if len(text) <= _SNIPPET_CHARS:
            return memory
        low = text.casefold()
        at = [low.find(word) for word in sorted(weights, key=lambda word: -weights[word])]
        begin = max(0, next((place for place in at if place >= 0), 0) - _SNIPPET_CHARS // 2)
        end = begin + _SNIPPET_CHARS
        cut = f"{'… ' if begin else ''}{text[begin:end]}{' …' if end < len(text) else ''}"
        return Memory(memory.ordinal, memory.role, cut)


EMPTY = WordIndex()
