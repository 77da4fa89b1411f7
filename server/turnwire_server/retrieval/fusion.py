"""Makes one ranking of several. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeVar

K = TypeVar("K", bound=Hashable)

RANK_CONSTANT = 60
"""Of reciprocal rank fusion, as in its paper (Cormack, Clarke, Buettcher, SIGIR 2009): the first ranks count for more
than the later ones, and none for so much that it decides alone."""


def fused(rankings: Sequence[Sequence[K]]) -> list[tuple[K, float]]:
    """What is in any of the rankings with its score, the best first; the score is 1 for what is first in all of them.
    Of those with the same score the first that was seen."""
    scores: dict[K, float] = {}
    for ranking in rankings:
        for rank, key in enumerate(ranking, 1):
            scores[key] = scores.get(key, 0.0) + 1 / (RANK_CONSTANT + rank)
    best = len(rankings) / (RANK_CONSTANT + 1)
    return [(key, min(1.0, score / best)) for key, score in sorted(scores.items(), key=lambda item: -item[1])]
