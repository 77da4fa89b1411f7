"""`python -m tests.chaos --seconds N --seed S`: rounds of chaos until the time is up or something does not hold.

Each round has fresh stores and the next seed. `--seed S --rounds 1` does one round again: the same faults and acts,
though processes never run twice in the same order. At the first violation everything is saved outside the repository
and its place is printed; `--look FILE` checks such a saved round once more.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import tempfile
import time
from pathlib import Path

import uvloop
from tests.chaos.checker import check, excerpt
from tests.chaos.records import Evidence
from tests.chaos.round import run_round
from tests.chaos.schedule import Mode, make_schedule
from tests.chaos.summary import summary

_SHOWN = 5


def report(evidence: Evidence) -> bool:
    """Print what came of a round; whether all held."""
    found = check(evidence)
    print(summary(evidence, found.seen), flush=True)
    for note in evidence.notes:
        print(f"  note: {note}")
    for violation in found.violations[:_SHOWN]:
        print(excerpt(evidence, violation))
    if len(found.violations) > _SHOWN:
        print(f"… and {len(found.violations) - _SHOWN} more:")
        for violation in found.violations[_SHOWN:][:50]:
            print(f"  {str(violation)[:300]}")
    return not found


def one_round(seed: int, seconds: float, mode: Mode, nodes: int, clients: int) -> bool:
    """Carry out one seed; keep everything when it fails."""
    schedule = make_schedule(
        seed, seconds=seconds, mode=mode, nodes=1 if mode == "embedded" else nodes, clients=clients
    )
    place = Path(tempfile.mkdtemp(prefix=f"turnwire-chaos-{seed}-"))
    (place / "schedule.txt").write_text(str(schedule))
    kept = True
    try:
        evidence = uvloop.run(run_round(schedule, mode, place))
        evidence.save(place / "evidence.json")
        kept = not report(evidence)
    finally:
        if kept:
            print(f"kept in {place}: schedule.txt, evidence.json, the nodes' logs")
        else:
            shutil.rmtree(place)
    return not kept


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="for how long rounds are begun")
    parser.add_argument("--seed", type=int, default=None, help="the first round's; the others count on from there")
    parser.add_argument("--rounds", type=int, default=None, help="at most so many")
    parser.add_argument("--round-seconds", type=float, default=30, help="chaos in each round, calm not counted")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--embedded", action="store_true", help="one node with the embedded engines")
    parser.add_argument("--redis", choices=("alone", "sentinel", "cluster"), default="alone")
    parser.add_argument("--show", action="store_true", help="only print the schedule of the seed")
    parser.add_argument("--look", type=Path, help="check a saved round")
    options = parser.parse_args()
    # The provider's server tells of every call that was left; that is what is wanted here.
    logging.getLogger("aiohttp").setLevel(logging.CRITICAL)
    if options.look is not None:
        return 0 if report(Evidence.load(options.look)) else 1
    mode: Mode = "embedded" if options.embedded else options.redis
    seed = int(time.time()) if options.seed is None else options.seed
    if options.show:
        nodes = 1 if options.embedded else options.nodes
        print(make_schedule(seed, seconds=options.round_seconds, mode=mode, nodes=nodes, clients=options.clients))
        return 0
    ends, done = time.monotonic() + options.seconds, 0
    while time.monotonic() < ends and (options.rounds is None or done < options.rounds):
        if not one_round(seed + done, options.round_seconds, mode, options.nodes, options.clients):
            return 1
        done += 1
    print(f"{done} rounds, everything held")
    return 0


if __name__ == "__main__":
    sys.exit(main())
