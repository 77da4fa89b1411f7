"""A Python peer's side of the talk with the benchmark: one line of JSON when it accepts, its end when stdin closes.

Needs the standard library alone, because each peer runs in an environment of its own, and knows nothing of the server:
whatever starts it may take the main thread and never give it back.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable

_POLL_S = 0.02


def free_port() -> int:
    """A port of loopback that nobody has, for servers that cannot say which one they were given."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def announce(port: int, url: str, at_end: Callable[[], None] = lambda: None) -> None:
    """Say `url` as soon as `port` accepts; call `at_end` and end the process when stdin closes.

    Call it before the server starts. What the process prints to stdout from now on is lost: the benchmark reads
    nothing there but the line, and a full pipe would hold the server up.
    """
    line = os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)

    def say() -> None:
        while not _accepts(port):
            time.sleep(_POLL_S)
        line.write(json.dumps({"url": url}) + "\n")
        line.flush()

    def end() -> None:
        sys.stdin.buffer.read()
        at_end()
        os._exit(0)  # the benchmark has its figures, and there is nothing to save

    for part in (say, end):
        threading.Thread(target=part, daemon=True).start()


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
