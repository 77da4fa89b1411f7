"""One node of a cluster: the production server in a process of its own, with settings given as JSON.

`python -m tests.support.cluster_node SETTINGS [ENVIRON]`, both JSON objects: the tree of the configuration file, and
the environment that `api_key_env` looks into. Prints the port once it listens, drains on SIGTERM. Nothing in the
server is changed; the process dies with whoever started it.
"""

from __future__ import annotations

import json
import signal
import sys
from typing import Any

import anyio

from turnwire_server.app import running
from turnwire_server.settings import build_settings
from turnwire_server.telemetry.logs import configure_logging


async def _main(tree: dict[str, Any], environ: dict[str, str]) -> None:
    settings = build_settings(tree, environ)
    configure_logging(settings.server.log_level)
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async with running(settings, environ) as app:
            print(app.port, flush=True)
            async for _ in signals:
                break


if __name__ == "__main__":
    given = [json.loads(argument) for argument in sys.argv[1:]]
    anyio.run(_main, given[0], given[1] if len(given) > 1 else {}, backend_options={"use_uvloop": True})
