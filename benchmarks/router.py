"""`python -m benchmarks.router`: what the router adds to a request, beside the SDK alone and beside LiteLLM's Router.

Five ways to ask the same provider, each in a process of its own, LiteLLM's in its own environment (`make
.venv-litellm/.installed`); they take turns, round by round, because a shared machine's speed drifts. What a router adds
is the difference to the same way without it, taken within each round; the medians over the rounds are told.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
THEIRS = HERE.parent / ".venv-litellm" / "bin" / "python"
OURS = Path(sys.executable)
KINDS = {"sdk": OURS, "provider": OURS, "router": OURS, "litellm": THEIRS, "litellm-router": THEIRS}
PAIRS = {"Turnwire's router": ("router", "provider"), "LiteLLM's Router": ("litellm-router", "litellm")}

Round = dict[str, dict[str, float]]


class Caller:
    """One process that asks."""

    def __init__(self, kind: str, url: str, stack: ExitStack) -> None:
        self._process = subprocess.Popen(
            [str(KINDS[kind]), str(HERE / "router_caller.py"), kind, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},  # it would look for a newer one elsewhere
            text=True,
        )
        stack.callback(self._end)
        self._answer()

    def ask(self, requests: int, at_once: int) -> dict[str, float]:
        assert self._process.stdin is not None, "started with a pipe"
        self._process.stdin.write(f"{requests} {at_once}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None, "started with a pipe"
        while line := self._process.stdout.readline():
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"{self._process.args} ended")

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()


def rounds_of(count: int, requests: int, at_once: int) -> list[Round]:
    with ExitStack() as stack:
        provider = subprocess.Popen(
            [sys.executable, str(HERE / "router_provider.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        stack.callback(provider.communicate)
        assert provider.stdout is not None, "started with a pipe"
        url = f"http://127.0.0.1:{int(provider.stdout.readline())}/v1"
        callers = {kind: Caller(kind, url, stack) for kind in KINDS if KINDS[kind].exists()}
        return [{kind: caller.ask(requests, at_once) for kind, caller in callers.items()} for _ in range(count)]


def median(rounds: list[Round], figure: str, kind: str, without: str | None = None) -> float:
    return statistics.median(each[kind][figure] - (each[without][figure] if without else 0) for each in rounds)


def show(rounds: list[Round], at_once: int) -> dict[str, Any]:
    print(f"\n{at_once} at a time, µs a request (median of {len(rounds)} rounds)")
    print(f"{'way':<20}{'CPU':>10}{'time':>10}")
    for kind in rounds[0]:
        print(f"{kind:<20}{median(rounds, 'cpu_us', kind):>10.0f}{median(rounds, 'wall_us', kind):>10.0f}")
    added: dict[str, Any] = {}
    for name, (kind, without) in PAIRS.items():
        if kind in rounds[0]:
            added[name] = {figure: median(rounds, figure, kind, without) for figure in ("cpu_us", "wall_us")}
            beside = median(rounds, "cpu_us", kind, "sdk")
            print(
                f"{name} adds {added[name]['cpu_us']:.0f} µs CPU, {added[name]['wall_us']:.0f} µs time; "
                f"the whole way costs {beside:+.0f} µs CPU beside the SDK alone"
            )
    if len(added) == 2:
        ours, theirs = added["Turnwire's router"]["cpu_us"], added["LiteLLM's Router"]["cpu_us"]
        print(f"CPU added, ours divided by theirs: {ours / theirs:.3f}")
    return added


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--requests", type=int, default=300)
    options = parser.parse_args()
    if not THEIRS.exists():
        print("LiteLLM is not installed (make .venv-litellm/.installed): measured without it")
    results = {at: show(rounds_of(options.rounds, options.requests, at), at) for at in (1, 20)}
    (HERE / "results-router.json").write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
