"""A server in a process of its own that kills itself with SIGKILL at a chosen step of its storage.

`python -m tests.support.crashing_server DATA_DIR PORT PROVIDER_URL [STEP:when:count]`, where STEP is a method of the
event log or (`archive.` in front) of the archive, `when` is `before` or `after`, and `count` says at which call. The
production code has no hook for this: the engines are wrapped here. Prints the port once it listens.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import anyio
from tests.support.server import settings_for

from turnwire_server.app import running
from turnwire_server.archive.sqlite import SqliteArchive
from turnwire_server.eventlog.sqlite import SqliteEventLog


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point: str) -> None:
    """Make the process die at `point`."""
    step, when, count = point.rsplit(":", 2)
    owner: type = SqliteEventLog
    if step.startswith("archive."):
        owner, step = SqliteArchive, step.removeprefix("archive.")
    original = getattr(owner, step)
    calls = 0

    async def dying(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        is_it = calls == int(count)  # now: another call may begin before this one has returned
        if is_it and when == "before":
            _die()
        result = await original(self, *args, **kwargs)
        if is_it and when == "after":
            _die()
        return result

    setattr(owner, step, dying)


async def _main(data_dir: str, port: int, provider_url: str) -> None:
    settings = settings_for(Path(data_dir), provider_url=provider_url, server={"port": port, "drain_s": 2})
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async with running(settings, {}) as app:
            print(app.port, flush=True)
            async for _ in signals:
                break


if __name__ == "__main__":
    if len(sys.argv) > 4:
        arm(sys.argv[4])
    anyio.run(_main, sys.argv[1], int(sys.argv[2]), sys.argv[3], backend_options={"use_uvloop": True})
