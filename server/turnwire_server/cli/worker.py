"""One worker of `turnwire serve --workers N`; its parent is in `workers`. Not for people.

Reads its job from standard input, says on standard output in one line of JSON that it listens or why it cannot, and
serves until its standard input ends or a signal comes; then it drains as any server does.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import struct
import sys
from typing import Any

import anyio

from turnwire_server.cli.serve import in_words, serve_one
from turnwire_server.cli.workers import Job
from turnwire_server.settings import Settings
from turnwire_server.telemetry.logs import configure_logging
from turnwire_server.telemetry.metrics import share_figures
from turnwire_server.transport.listener import sharing_port

_STDIN = 0


def main() -> int:
    job = _read_job()
    report = _Report()
    settings = job.settings
    handler = configure_logging(settings.server.log_level, secrets=settings.secret_values(os.environ))
    handler.addFilter(_named(settings.server.node_id))
    share_figures(job.figures, job.index)
    try:
        with sharing_port():
            anyio.run(_serve, settings, report, backend_options={"use_uvloop": True})
    except Exception as error:
        if report.is_up:
            raise
        report.error(in_words(error, settings))
        return 1
    return 0


def _read_job() -> Job:
    # Exactly the job and no byte more: what remains of standard input is waited for in the event loop.
    (size,) = struct.unpack(">I", _read(4))
    job = pickle.loads(_read(size))  # noqa: S301 - from the parent, which could as well have given us code
    assert isinstance(job, Job)
    return job


def _read(size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = os.read(_STDIN, size - len(data))
        if not more:
            sys.exit("this program is started by `turnwire serve --workers`")
        data += more
    return data


class _Report:
    """The one line for the parent. Anything else that is printed goes to standard error from now on."""

    def __init__(self) -> None:
        self.is_up = False
        self._to_parent = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def up(self, _: Any) -> None:
        self.is_up = True
        self._say({"error": None})

    def error(self, text: str) -> None:
        self._say({"error": text})

    def _say(self, line: dict[str, Any]) -> None:
        with self._to_parent as parent:
            print(json.dumps(line), file=parent, flush=True)


async def _serve(settings: Settings, report: _Report) -> None:
    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_end_with_parent, stop)
        await serve_one(settings, report.up, stop, quiet=True)
        tasks.cancel_scope.cancel()


async def _end_with_parent(stop: anyio.Event) -> None:
    await anyio.wait_readable(_STDIN)
    stop.set()


def _named(node_id: str) -> Any:
    """Log lines of several workers go to one stream: each says whose it is."""

    def add_name(record: logging.LogRecord) -> bool:
        record.node = node_id
        return True

    return add_name


if __name__ == "__main__":
    sys.exit(main())
