"""One worker of `turnwire serve --workers N`; its parent is in `workers`. Not for people.

Reads its job from standard input, says on standard output in one line of JSON that it listens or why it cannot, and
serves until its standard input ends or a signal comes; then it drains as any server does.

When its standard input ended because the parent is dead, nobody waits for it and nobody would end it: it then sees to
both itself.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
import struct
import sys
from typing import Any

import anyio

from turnwire_server.cli.serve import in_words, serve_one
from turnwire_server.cli.workers import DRAIN, Job
from turnwire_server.telemetry.logs import configure_logging
from turnwire_server.telemetry.metrics import share_figures
from turnwire_server.transport.listener import sharing_port

_STDIN = 0
# What an orphan has beyond drain_s, to hand over and to close: a backend that is away must not keep it for ever.
_ORPHAN_S = 30.0

logger = logging.getLogger(__name__)


def main() -> int:
    job = _read_job()
    report = _Report()
    settings = job.settings
    handler = configure_logging(settings.server.log_level, secrets=settings.secret_values(os.environ))
    handler.addFilter(_named(settings.server.node_id))
    share_figures(job.figures, job.index)
    try:
        with sharing_port():
            is_orphan = anyio.run(_serve, job, report, backend_options={"use_uvloop": True})
    except Exception as error:
        if report.is_up:
            raise
        report.error(in_words(error, settings))
        return 1
    if is_orphan:
        _tidy(job)
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


async def _serve(job: Job, report: _Report) -> bool:
    """Returns whether the parent has died meanwhile."""
    stop, orphaned = anyio.Event(), anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_end_with_parent, job, report, stop, orphaned)
        await serve_one(job.settings, report.up, stop, quiet=True)
        tasks.cancel_scope.cancel()
    return orphaned.is_set()


async def _end_with_parent(job: Job, report: _Report, stop: anyio.Event, orphaned: anyio.Event) -> None:
    """Drain when the parent asks or is dead. One that asks says so; from a dead one nothing comes but the end."""
    await anyio.wait_readable(_STDIN)
    has_asked = os.read(_STDIN, len(DRAIN)) == DRAIN
    stop.set()
    if has_asked:
        return
    orphaned.set()
    if report.is_up:
        await anyio.sleep(job.settings.server.drain_s + _ORPHAN_S)
        logger.error("the parent is dead and the drain does not end; this worker ends without")
    _tidy(job)
    os._exit(1)


def _tidy(job: Job) -> None:
    """What the parent would do. Other orphans go on counting into files that have no name any more."""
    shutil.rmtree(job.figures, ignore_errors=True)


def _named(node_id: str) -> Any:
    """Log lines of several workers go to one stream: each says whose it is."""

    def add_name(record: logging.LogRecord) -> bool:
        record.node = node_id
        return True

    return add_name


if __name__ == "__main__":
    sys.exit(main())
