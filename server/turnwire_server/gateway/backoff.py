"""How long to wait before the next try. Pure: randomness comes in.

"Equal jitter": half of the wait is certain, so that a provider in trouble is really left alone, half is drawn, so that
those who failed together do not come back together (the comparison of both kinds is in
https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
"""

from __future__ import annotations

from random import Random

_MOST_DOUBLINGS = 20


def backoff(tries: int, first_s: float, most_s: float, rng: Random) -> float:
    """The wait after `tries` failures in a row: doubled with each, at most `most_s`, between half of that and all."""
    whole = min(most_s, first_s * float(1 << min(max(tries - 1, 0), _MOST_DOUBLINGS)))
    return whole * (0.5 + 0.5 * rng.random())


def not_before(seconds: float, rng: Random) -> float:
    """A wait that somebody else has asked for: never shorter, a tenth longer at most."""
    return seconds * (1 + 0.1 * rng.random())
