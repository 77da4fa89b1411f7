"""One of the processes that run the suite's parts: `python -m tests.worker [pytest options]`, started by `__main__`.

It is told a part as one line of JSON on its standard input, a list of files or tests, and answers on its standard
output with one line: pytest's exit code, what it printed, and which tests failed. It ends when its standard input
does, and breaks off in good order when whoever started it dies. Parts share what a process has once: the imports,
which cost seconds of a core, and the servers that `tests.support` keeps for a whole run.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import sys
import tempfile

import pytest

_PR_SET_PDEATHSIG = 1


class Failed:
    """A plugin of pytest that keeps the names of the tests that failed."""

    def __init__(self) -> None:
        self.names: dict[str, None] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.names[report.nodeid] = None


def main(options: list[str]) -> None:
    """Run whatever parts are asked for. What tests print goes nowhere near the answers."""
    # Not SIGINT itself, which is ignored by what a shell has put into the background.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    asked, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    for line in asked:
        with tempfile.TemporaryFile() as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            failed = Failed()
            code = pytest.main(["-q", "-p", "no:cacheprovider", *options, *json.loads(line)], plugins=[failed])
            sys.stdout.flush()
            sys.stderr.flush()
            output.seek(0)
            text = output.read().decode(errors="replace")
        print(json.dumps([int(code), text, [*failed.names]]), file=answers, flush=True)
        gc.freeze()  # what is loaded by now stays; later collections need not look at it


if __name__ == "__main__":
    main(sys.argv[1:])
