"""How many examples a property is tried with: few with every run of the suite, many with `make soak`."""

from __future__ import annotations

import os

_TIMES = int(os.environ.get("TURNWIRE_TEST_EXAMPLES_TIMES", "1"))


def examples(usual: int) -> int:
    """As many as this, times $TURNWIRE_TEST_EXAMPLES_TIMES."""
    return usual * _TIMES
