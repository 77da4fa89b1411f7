"""`python -m benchmarks`: CPU per delta and memory per idle connection, beside a bare pipe in the same run.

CPU is the operating system's accounting of the server's process (user and system), not a wall clock; the two servers
take turns, because a shared machine's speed drifts, and what counts is the ratio pair by pair. Everything is on
loopback, bounded in time, and stops by itself. Prints a table and writes `benchmarks/results.json`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

_RESULTS = Path(__file__).parent / "results.json"
_WARM_UP_S = 3


@dataclass(frozen=True, slots=True)
class Load:
    """What all servers are put through."""

    streams: int
    rate: float
    seconds: float
    rounds: int
    connections: int


@contextlib.contextmanager
def _process(module: str, *arguments: str, talk: bool = False) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", f"benchmarks.{module}", *arguments],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE if talk else None,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _first_line(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    words = process.stdout.readline().split()
    if not words:
        raise SystemExit(f"{process.args!r} did not start")
    return words


@contextlib.contextmanager
def _target(name: str, provider_port: str, folder: str) -> Iterator[tuple[psutil.Process, str, str]]:
    arguments = {"turnwire": [provider_port, folder], "bare pipe": [provider_port], "bare websockets": []}[name]
    module = {"turnwire": "turnwire_target", "bare pipe": "bare_pipe", "bare websockets": "bare_websockets"}[name]
    with _process(module, *arguments) as process:
        words = _first_line(process)
        yield psutil.Process(process.pid), words[0], words[1] if len(words) > 1 else "-"


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _cpu_per_delta(name: str, provider_port: str, load: Load) -> tuple[float, float]:
    """Microseconds of CPU per delta, and the deltas per second that arrived."""
    with tempfile.TemporaryDirectory() as folder, _target(name, provider_port, folder) as (server, port, token):
        total = str(_WARM_UP_S + load.seconds + 2)
        with _process("load", "streams", port, token, str(load.streams), total) as clients:
            for _ in range(_WARM_UP_S):
                before = int(_first_line(clients)[0])
            cpu, began = _cpu_s(server), time.monotonic()
            for _ in range(int(load.seconds)):
                after = int(_first_line(clients)[0])
            spent, elapsed = _cpu_s(server) - cpu, time.monotonic() - began
    deltas = after - before
    return spent / deltas * 1e6, deltas / elapsed


def _kb_per_connection(name: str, provider_port: str, load: Load) -> float:
    with (
        tempfile.TemporaryDirectory() as folder,
        _target(name, provider_port, folder) as (server, port, token),
        _process("load", "idle", port, token, "50", talk=True) as few,
    ):
        _first_line(few)
        before = server.memory_info().rss
        with _process("load", "idle", port, token, str(load.connections), talk=True) as many:
            _first_line(many)
            return (server.memory_info().rss - before) / load.connections / 1000


def _measure(load: Load) -> dict[str, object]:
    with _process("provider", str(load.rate), str(10**9)) as provider:
        provider_port = _first_line(provider)[0]
        cpu: dict[str, list[float]] = {"bare pipe": [], "turnwire": []}
        rates: dict[str, list[float]] = {"bare pipe": [], "turnwire": []}
        for number in range(load.rounds):
            for name in cpu:
                spent, rate = _cpu_per_delta(name, provider_port, load)
                cpu[name].append(spent)
                rates[name].append(rate)
                print(f"round {number + 1}: {name:10} {spent:6.1f} µs a delta, {rate:6.0f} deltas/s", flush=True)
        memory = {name: _kb_per_connection(name, provider_port, load) for name in ("bare websockets", "turnwire")}
    ratios = [ours / bare for ours, bare in zip(cpu["turnwire"], cpu["bare pipe"], strict=True)]
    return {
        "load": asdict(load),
        "cpu_us_per_delta": cpu,
        "deltas_per_s": rates,
        "cpu_ratio": {"median": statistics.median(ratios), "all": ratios},
        "kb_per_idle_connection": memory,
    }


def _print(results: dict[str, object]) -> None:
    cpu: dict[str, list[float]] = results["cpu_us_per_delta"]  # type: ignore[assignment]
    memory: dict[str, float] = results["kb_per_idle_connection"]  # type: ignore[assignment]
    ratio: float = results["cpu_ratio"]["median"]  # type: ignore[index]
    print(f"\n{'measure':44}{'floor':>10}{'turnwire':>10}{'ratio':>8}")
    floor, ours = (statistics.median(cpu[name]) for name in ("bare pipe", "turnwire"))
    print(f"{'CPU per delta, µs (floor: bare pipe)':44}{floor:10.1f}{ours:10.1f}{ratio:8.2f}")
    floor, ours = memory["bare websockets"], memory["turnwire"]
    print(f"{'kB per idle connection (bare websockets)':44}{floor:10.1f}{ours:10.1f}{ours / floor:8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round")
    quick = parser.parse_args().quick
    load = Load(streams=100, rate=50, seconds=5 if quick else 10, rounds=1 if quick else 4, connections=1000)
    results = _measure(load)
    _RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    _print(results)
    print(f"\nwritten to {_RESULTS.relative_to(Path.cwd()) if _RESULTS.is_relative_to(Path.cwd()) else _RESULTS}")


if __name__ == "__main__":
    main()
