"""The server under test: embedded, durable log on, signed tokens on. `python -m benchmarks.turnwire_target PORT DIR`.

PORT is the provider's. Prints its own port and a token.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop

from turnwire_server.app import running
from turnwire_server.auth import make_token
from turnwire_server.settings import build_settings

_SECRET = "only for benchmarks, thirty-two bytes"


async def _main(provider_port: int, data_dir: str) -> None:
    settings = build_settings(
        {
            "server": {"port": 0, "data_dir": data_dir, "drain_s": 1},
            "auth": {"mode": "jwt", "jwt_secret": _SECRET},
            "limits": {"connections_per_user": 5000, "commands_per_s": 1000},
            "deployments": [
                {
                    "name": "bench",
                    "model": "bench",
                    "base_url": f"http://127.0.0.1:{provider_port}/v1",
                    "max_concurrency": 1000,
                }
            ],
        },
        {},
    )
    async with running(settings, {}) as app:
        print(app.port, make_token(_SECRET, "bench", "bench"), flush=True)
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    uvloop.run(_main(int(sys.argv[1]), sys.argv[2]))
