"""One node of a cluster: the production server in a process of its own, with settings given as JSON.

`python -m tests.support.cluster_node SETTINGS [ENVIRON [FAULTS]]`, JSON objects: the tree of the configuration file,
the environment that `api_key_env` and tools look into, and what is to go wrong in this process:

    {"crash": "append:before:4"}        SIGKILL by its own hand at the fourth append, before it is sent
    {"crash": "seal:before:1", "about": "r1"}   the first that is about r1, whatever came before
    {"halt": "archive.end_request:after:1"}     SIGSTOP there; whoever drives the test lets it go on
    {"clock_s": -3600}                  its clock is an hour slow
    {"messages": "late"}                what pub/sub brings comes half a second later; or it is "lost", or "jumbled":
                                        everything twice, each at its own time

A point is a method of the event log or (`archive.` in front) of the archive, `before` or `after`, and at which call.
The production code has no hook for this: the engines are wrapped here. Prints the port once it listens, drains on
SIGTERM. The process dies with whoever started it. Tests have it from `nursery`, which spares it the imports.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

# Nothing of the server is imported here: the clock is set first, and modules keep the `time.time` they found.


def put_clock(seconds: float) -> None:
    """From now on this process's clock is wrong by so much. Its monotonic clock is not, nor is that of any store."""
    right = time.time
    time.time = lambda: right() + seconds


def arm(point: str, number: signal.Signals, *, is_embedded: bool, about: str | None = None) -> None:
    """Have the process send itself this signal at ``point``."""
    from turnwire_server.archive.mongo import MongoArchive
    from turnwire_server.archive.sqlite import SqliteArchive
    from turnwire_server.eventlog.redis import RedisEventLog
    from turnwire_server.eventlog.sqlite import SqliteEventLog

    step, when, count = point.rsplit(":", 2)
    owner: type = SqliteEventLog if is_embedded else RedisEventLog
    if step.startswith("archive."):
        owner, step = SqliteArchive if is_embedded else MongoArchive, step.removeprefix("archive.")
    original = getattr(owner, step)
    calls = 0
    named = about is None

    async def faulty(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls, named
        named = named or repr(about) in repr((args, kwargs))
        calls += named
        is_it = named and calls == int(count)
        if is_it and when == "before":
            os.kill(os.getpid(), number)
        result = await original(self, *args, **kwargs)
        if is_it and when == "after":
            os.kill(os.getpid(), number)
        return result

    setattr(owner, step, faulty)


def mishandle_messages(how: str) -> None:
    """The subscription stands, and what it brings does not come as it was sent."""
    from turnwire_server.eventlog.redis.follow import Following

    received = Following._received

    def mishandled(self: Any, data: bytes, keeper: Any) -> None:
        delays = {"lost": [], "late": [0.5], "jumbled": [random.uniform(0, 0.3), random.uniform(0, 0.3)]}[how]
        for delay in delays:
            asyncio.get_running_loop().call_later(delay, received, self, data, keeper)

    Following._received = mishandled  # type: ignore[method-assign]


async def _serve(tree: dict[str, Any], environ: Mapping[str, str]) -> None:
    import anyio

    from turnwire_server.app import running
    from turnwire_server.settings import build_settings
    from turnwire_server.telemetry.logs import configure_logging

    settings = build_settings(tree, environ)
    configure_logging(settings.server.log_level)
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async with running(settings, environ) as app:
            print(app.port, flush=True)
            async for _ in signals:
                break


def main(arguments: Sequence[str]) -> None:
    """Serve until SIGTERM."""
    given = [json.loads(argument) for argument in arguments]
    environ = given[1] if len(given) > 1 else {}
    faults = given[2] if len(given) > 2 else {}
    is_embedded = "mongo_url" not in given[0].get("storage", {})
    os.environ.update(environ)  # for tools
    if "clock_s" in faults:
        put_clock(faults["clock_s"])
    if "crash" in faults:
        arm(faults["crash"], signal.SIGKILL, is_embedded=is_embedded, about=faults.get("about"))
    if "halt" in faults:
        arm(faults["halt"], signal.SIGSTOP, is_embedded=is_embedded)
    if "messages" in faults:
        mishandle_messages(faults["messages"])

    import anyio

    anyio.run(_serve, given[0], environ, backend_options={"use_uvloop": True})


if __name__ == "__main__":
    main(sys.argv[1:])
