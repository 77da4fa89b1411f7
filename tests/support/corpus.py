"""Texts of the kinds that models write, and how a provider with a given vocabulary would send and count them.

The texts were written for this, so that nobody's vocabulary was made from them. Unrealistic in that they are right.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

_TEXTS: dict[str, list[str]] = json.loads(Path(__file__).with_name("corpus.json").read_text(encoding="utf-8"))
PROSE, LISTS, CODE = (_TEXTS[kind] for kind in ("prose", "lists", "code"))
CORPUS: Sequence[str] = [text for texts in _TEXTS.values() for text in texts]


def sent(text: str, tokenizer: Any, batch: Sequence[int] = (1,), seed: int = 0) -> list[str]:
    """The pieces in which a provider with this tokenizer (`encode`, `decode_bytes`) sends a text: a token each, or as
    many as are drawn from ``batch``. A character of several tokens comes with the last of them, as providers do it."""
    rng = Random(seed)
    tokens: list[int] = list(tokenizer.encode(text))
    pieces, left = [], b""
    while tokens:
        count = rng.choice(batch)
        left += b"".join(tokenizer.decode_bytes([token]) for token in tokens[:count])
        del tokens[:count]
        whole = left.decode(errors="ignore")
        left = left[len(whole.encode()) :]
        if whole:
            pieces.append(whole)
    assert not left, "it ends with a whole character"
    return pieces


def cuts(pieces: Sequence[str], parts: Sequence[float] = (0.3, 0.55, 0.8)) -> Iterator[list[str]]:
    """What of an answer had come when it was cut."""
    for part in parts:
        yield list(itertools.islice(pieces, max(1, round(len(pieces) * part))))
