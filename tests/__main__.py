"""The whole suite on the machine's cores: `python -m tests [pytest options]`.

Tests wait for leases and timers more than they compute, so a few processes side by side save most of that. (One that
spreads its tests over workers cannot carry failure reports about lone surrogates.) A part is a test file that takes
long, or all that is left of a folder; the longest go first. What fails is shown in full at the end.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

HERE = Path(__file__).parent
# Those that take long; the order is about that of their length.
LONG = (
    "faults/test_cluster_kill.py",
    "contracts/test_eventlog_redis.py",
    "contracts/test_archive_mongo.py",
    "contracts/test_eventlog_redis_cluster.py",
    "model/test_model.py",
    "e2e/test_tool_calls.py",
    "e2e/test_turn_control.py",
    "e2e/test_commands_in_states.py",
    "server/cli/test_supervisor.py",
    "server/cli/test_commands.py",
    "faults/test_kill_tools.py",
    "chaos/test_chaos.py",
    "contracts/test_eventlog_redis_loss.py",
    "faults/test_cluster_redis_loss.py",
    "faults/test_cluster_mongo.py",
    "faults/test_cluster_shards.py",
    "faults/test_cluster_sentinel.py",
)


def parts() -> list[list[str]]:
    """The files of each part, longest first."""
    long = [[str(HERE / name)] for name in LONG]
    rest: dict[Path, list[str]] = {}
    assert all(Path(path).is_file() for (path,) in long), "LONG names a file that is gone"
    for path in sorted(HERE.rglob("test_*.py")):
        if [str(path)] not in long:
            rest.setdefault(HERE / path.relative_to(HERE).parts[0], []).append(str(path))
    return [*long, *rest.values()]


def environ(bytecode: str) -> dict[str, str]:
    """The environment of the parts: the many processes that they start find the project compiled, outside its tree."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**inherited, "PYTHONPYCACHEPREFIX": bytecode}


def run(part: list[str], options: list[str], env: dict[str, str]) -> tuple[list[str], int, str, float]:
    """Run one part; gives its exit code, output and seconds."""
    began = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, *part]
    done = subprocess.run(
        command, cwd=HERE.parent, env=env, text=True, errors="replace", capture_output=True, check=False
    )
    return part, done.returncode, done.stdout + done.stderr, time.monotonic() - began


def main() -> int:
    """Run all parts, as many at once as there are cores but at least two; the exit code is 0 when all passed."""
    began = time.monotonic()
    failed: list[str] = []
    with (
        tempfile.TemporaryDirectory() as bytecode,
        ThreadPoolExecutor(max(2, min(os.cpu_count() or 1, 4))) as pool,
    ):
        for done in as_completed([pool.submit(run, part, sys.argv[1:], environ(bytecode)) for part in parts()]):
            part, code, output, seconds = done.result()
            place = Path(part[0]).relative_to(HERE)
            name = str(place) if len(part) == 1 else f"{place.parts[0]}/…"
            last = output.strip().splitlines()[-1] if output.strip() else "no output"
            print(f"{name:45} {seconds:6.1f} s  {last.strip('= ')}", flush=True)
            if code not in (0, 5):  # 5: the options chose none of its tests
                failed.append(output)
                print(*(line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))), sep="\n")
    for output in failed:
        print(output)
    print(f"{'FAILED' if failed else 'passed'} after {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
