"""The whole suite on the machine's cores: `python -m tests [pytest options]`.

Tests wait for leases and timers as much as they compute, so a few processes side by side save most of that. (One that
spreads its tests over workers cannot carry failure reports about lone surrogates.) A part is a test file that takes
long, or some of what is left of a folder; the longest go first, each to the next process that is free (see `worker`).
What fails is shown in full at the end.

The tests share two cores with servers that are killed, stopped and voted out by others after a second's silence. So a
few tests that failed may run once more, alone, when all else is done: those that pass then are named as unstable, and
are work to do; more than a few, or a process that died, are a failure at once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

HERE = Path(__file__).parent
# Those that take long; the order is about that of their length.
LONG = (
    "e2e/test_commands_in_states.py",
    "faults/test_cluster_redis_loss.py",
    "model/test_model.py",
    "contracts/test_archive_mongo.py",
    "contracts/test_eventlog_redis.py",
    "e2e/test_tool_calls.py",
    "faults/test_cluster_kill.py",
    "faults/test_kill_tools.py",
    "interleavings/test_interleavings.py",
    "e2e/test_turn_control.py",
    "faults/test_mongo_driver.py",
    "faults/test_cluster_router.py",
    "e2e/test_isolation_ids.py",
    "e2e/test_cancel.py",
    "chaos/test_chaos.py",
    "contracts/test_eventlog_redis_cluster.py",
)


# Of the other files of a folder so many are one part: worth its start, and not waited for at the end.
TOGETHER = 8
# So many failed tests may be a busy machine's fault; more never are.
FEW = 3


def parts() -> list[list[Path]]:
    """The files of each part, longest first."""
    long = [HERE / name for name in LONG]
    assert all(path.is_file() for path in long), "LONG names a file that is gone"
    rest: dict[str, list[Path]] = {}
    for path in sorted(set(HERE.rglob("test_*.py")) - set(long)):
        rest.setdefault(path.relative_to(HERE).parts[0], []).append(path)
    return [[path] for path in long] + [
        files[start : start + TOGETHER] for files in rest.values() for start in range(0, len(files), TOGETHER)
    ]


def name_of(part: list[Path]) -> str:
    first, last = (path.relative_to(HERE) for path in (part[0], part[-1]))
    return str(first) if first == last else f"{first} … {last.name}"


def environ() -> dict[str, str]:
    """The environment of the tests. Where no bytecode is to stand in the tree it is kept elsewhere: the many processes
    that are started would each compile the whole project."""
    inherited = dict(os.environ)
    if inherited.pop("PYTHONDONTWRITEBYTECODE", ""):
        inherited["PYTHONPYCACHEPREFIX"] = str(Path(sys.prefix) / "bytecode")
    return inherited


class Outcome(NamedTuple):
    """What became of a part."""

    part: list[Path]
    code: int
    """Pytest's exit code."""
    output: str
    failed: list[str]
    """The tests that failed, by pytest's names; none when it was not a test that failed."""
    seconds: float


class Worker:
    """A process that runs parts one after the other, and another one in its place when it dies."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def run(self, part: list[Path], tests: list[str] | None = None) -> Outcome:
        """Run a part, or some of its ``tests``."""
        began = time.monotonic()
        code, output, failed = self._ask(tests or [str(path) for path in part], name_of(part))
        return Outcome(part, code, output, failed, time.monotonic() - began)

    def _ask(self, arguments: list[str], name: str) -> tuple[int, str, list[str]]:
        if self._process is None:
            command = [sys.executable, "-m", "tests.worker", *sys.argv[1:]]
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(
                command, cwd=HERE.parent, env=environ(), stdin=pipe, stdout=pipe, text=True
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(arguments), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            code = self._process.wait()
            self._process = None
            return 1, f"ERROR {name}: its process died with exit code {code}", []
        code, output, failed = json.loads(answer)
        return code, output, failed

    def end(self) -> None:
        """Let it end what it is at, which is nothing but after an interrupt."""
        if self._process is not None:
            self._process.communicate()


def work(waiting: Iterator[list[Path]], done: SimpleQueue[Outcome]) -> None:
    """Have a worker run parts until there are none left."""
    worker = Worker()
    for part in waiting:
        done.put(worker.run(part))
    worker.end()


def shown(outcome: Outcome) -> bool:
    """Print a part's line; whether it passed."""
    lines = outcome.output.strip().splitlines() or ["no output"]
    print(f"{name_of(outcome.part):70} {outcome.seconds:6.1f} s  {lines[-1].strip('= ')}", flush=True)
    if outcome.code in (0, 5):  # 5: the options chose none of its tests
        return True
    print(*(line for line in lines if line.startswith(("FAILED", "ERROR"))), sep="\n")
    return False


def alone(failures: list[Outcome]) -> list[str]:
    """Run the failed tests once more, with nothing beside them; the names of all, if all of them pass now."""
    names = [name for failure in failures for name in failure.failed]
    if len(names) > FEW or not all(failure.failed for failure in failures):
        return []
    print(f"once more, alone: {', '.join(names)}", flush=True)
    worker = Worker()
    again = [worker.run(failure.part, failure.failed) for failure in failures]
    worker.end()
    passed = [shown(outcome) for outcome in again]
    return names if all(passed) else []


def main() -> int:
    """Run all parts, a few at once; the exit code is 0 when all passed."""
    began = time.monotonic()
    all_parts = parts()
    waiting = iter(all_parts)
    done: SimpleQueue[Outcome] = SimpleQueue()
    # One more than there are cores: some of them always wait.
    count = min((os.cpu_count() or 1) + 1, 4)
    threads = [threading.Thread(target=work, args=(waiting, done), daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    failures = [outcome for outcome in (done.get() for _ in all_parts) if not shown(outcome)]
    for thread in threads:
        thread.join()
    for failure in failures:
        print(failure.output)
    unstable = alone(failures) if failures else []
    for name in unstable:
        print(f"UNSTABLE {name}: failed beside others, passed alone")
    passed = not failures or bool(unstable)
    print(f"{'passed' if passed else 'FAILED'} after {time.monotonic() - began:.0f} s")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
