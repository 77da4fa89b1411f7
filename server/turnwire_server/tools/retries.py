"""When a run that failed is tried again, and after how long. Pure: randomness comes in."""

from __future__ import annotations

import random

_FIRST_S = 0.25
_LONGEST_S = 10.0


def delay_s(attempt: int, rng: random.Random, retry_after_s: float | None = None) -> float:
    """Seconds before the run after number ``attempt``: exponential with full jitter, never less than the tool asked
    for. As AWS' "Exponential Backoff And Jitter" has it: what failed together does not come back together."""
    backoff = rng.uniform(0, min(_LONGEST_S, _FIRST_S * 2.0 ** min(attempt - 1, 16)))
    return min(max(backoff, retry_after_s or 0.0), _LONGEST_S)
