"""`python -m turnwire_server.local_model --port N`: serves the local model until it is told to stop.

Says on standard output, in one line of JSON, where it listens or why it cannot, and nothing else. Exit code 3
means that the packages it needs are not installed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from aiohttp import web

from turnwire_server.local_model.engine import Engine, NotInstalled
from turnwire_server.local_model.server import ModelServer

EXIT_NOT_INSTALLED = 3
_PR_SET_PDEATHSIG = 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m turnwire_server.local_model", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--with-parent", action="store_true", help="end when standard input ends")
    options = parser.parse_args()
    if options.with_parent:
        _end_with_parent()
    try:
        with _quiet_runtime():
            engine = Engine()
    except NotInstalled as error:
        _say({"error": str(error)})
        print(error, file=sys.stderr)
        return EXIT_NOT_INSTALLED
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(engine, options.host, options.port))
    return 0


async def _serve(engine: Engine, host: str, port: int) -> None:
    server = ModelServer(engine)
    runner = web.AppRunner(server.application(), handler_cancellation=True, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError):  # Windows
                asyncio.get_running_loop().add_signal_handler(number, ended.set)
        _say({"host": host, "port": runner.addresses[0][1], "model": engine.name})
        await ended.wait()
    finally:
        await runner.cleanup()
        server.close()


def _say(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


def _end_with_parent() -> None:
    """No orphan may stay behind, however the parent died. Its end of our standard input closes with it, on
    every system; Linux also tells by a signal, which comes even while the interpreter is busy elsewhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        # The bare descriptor: a buffered reader would hold a lock that the interpreter wants at its end.
        while os.read(0, 1024):
            pass
        os._exit(0)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


@contextlib.contextmanager
def _quiet_runtime() -> Iterator[None]:
    """The runtime writes pages about the model to standard error while it loads."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


if __name__ == "__main__":
    sys.exit(main())
