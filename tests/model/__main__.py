"""``python -m tests.model [name ...]``: explore the large configurations, or the named ones, and say what was found."""

from __future__ import annotations

import sys
import time

from tests.model.configurations import LARGE, SMALL
from tests.model.explore import explore
from tests.model.log_model import Model


def main(names: list[str]) -> int:
    """The number of configurations in which a guarantee breaks."""
    broken = 0
    for name in names or LARGE:
        began = time.monotonic()
        found = explore(Model((SMALL | LARGE)[name]), most=5_000_000)
        how = "all" if found.is_complete else "the first"
        print(f"{name}: {how} {found.states} states, {found.moves} moves, {time.monotonic() - began:.0f} s", flush=True)
        if found.counterexample is not None:
            broken += 1
            print(found.counterexample, flush=True)
    return broken


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
