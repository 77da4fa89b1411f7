"""Workers that need no Redis: each has an embedded server of its own, in a folder named by its index.

`python -m tests.server.cli.apart DATA_DIR PORT COUNT` is the parent; the port is shared and the figures are, but no
conversation is. It prints the port once all are up. $TURNWIRE_TEST_FAULT is what a worker does instead of serving:
`fails`, `waits`, `hangs` or `crashes`, a colon, the index it concerns, and perhaps `:again`: the first time it is well.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import logging
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

import anyio
from tests.support.server import settings_for

from turnwire_server.cli import worker
from turnwire_server.cli.serve import in_words
from turnwire_server.cli.workers import Job, Supervisor
from turnwire_server.eventlog.base import LogUnavailable
from turnwire_server.telemetry.logs import configure_logging

FAULT = "TURNWIRE_TEST_FAULT"


def main(data_dir: str, port: int, count: int) -> None:
    configure_logging()
    provider = os.environ.get("TURNWIRE_TEST_PROVIDER")
    settings = settings_for(Path(data_dir), provider_url=provider, server={"port": port, "drain_s": 10})

    async def run() -> int:
        # Forked from the parent, which has all that they would load, workers are there at once.
        loop = asyncio.get_running_loop()
        loop.subprocess_exec = functools.partial(loop.subprocess_exec, preexec_fn=be_worker)  # type: ignore[method-assign]
        supervisor = Supervisor(settings, count)
        return await supervisor.run(lambda port: print(port, flush=True), lambda: print("going away", flush=True))

    try:
        code = anyio.run(run)  # not on uvloop, whose child may not run Python
    except Exception as error:
        print(in_words(error, settings), file=sys.stderr)
        code = 1
    sys.exit(code)


def be_worker() -> NoReturn:
    """In the child, instead of becoming another program; all but its pipes is closed as it would be then."""
    code = 1
    try:
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        gc.enable()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        asyncio.set_event_loop(None)
        asyncio._set_running_loop(None)
        read_job = worker._read_job
        worker._read_job = lambda: in_folder_of_its_own(read_job())
        code = contextvars.Context().run(worker.main)
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def in_folder_of_its_own(job: Job) -> Job:
    folder = job.settings.server.data_dir / str(job.index)
    first = not folder.exists()
    _have_fault(job.index, first)
    server = job.settings.server.model_copy(update={"data_dir": folder})
    return Job(job.settings.model_copy(update={"server": server}), job.index, job.figures)


async def _no_backend(*_: Any, **__: Any) -> None:
    raise LogUnavailable("Redis does not answer")


async def _waiting(*_: Any, **__: Any) -> None:
    logging.getLogger("turnwire_server").warning("waits for its backend")
    await anyio.sleep_forever()


def _have_fault(index: int, first: bool) -> None:
    kind, _, rest = os.environ.get(FAULT, "").partition(":")
    where, _, when = rest.partition(":")
    if not kind or int(where) != index or (when == "again" and first):
        return
    match kind:
        case "fails":
            worker.serve_one = _no_backend
        case "waits":
            worker.serve_one = _waiting
        case "hangs":
            time.sleep(3600)
        case "crashes":
            os._exit(7)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
