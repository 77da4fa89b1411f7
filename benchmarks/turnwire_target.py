"""The server as it is shipped, with authentication by JWT: embedded (log and archive on SQLite, `synchronous=FULL`), or
on the Redis and the MongoDB that it is given.

Only what guards against one user with a thousand connections is turned off, as here all are of a few users.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import uuid
from contextlib import AsyncExitStack

from benchmarks.processes import obey, run, say
from benchmarks.secret import SECRET
from benchmarks.seeds import seed
from turnwire_server.app import open_engines_for, running
from turnwire_server.cli.serve import spare_the_collector
from turnwire_server.settings import build_settings


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--provider", required=True)
    parser.add_argument("--data-dir", help="default: a directory of its own, removed at the end")
    parser.add_argument("--redis-url")
    parser.add_argument("--mongo-url")
    parser.add_argument("--no-traces", action="store_true", help="no trace is kept")
    parser.add_argument("--otlp-url", help="traces are sent there as well as kept")
    parser.add_argument("--history", type=int, help="messages of the conversation `long` of the clients' first user")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory() as fresh:
        tree = {
            "server": {"port": 0, "data_dir": arguments.data_dir or fresh, "drain_s": 0},
            "auth": {"mode": "jwt", "jwt_secret": SECRET},
            "limits": {
                "connections": 100_000,
                "connections_per_user": 100_000,
                "connections_per_tenant": 100_000,
                "commands_per_s": 100_000,
                "heartbeat_s": 600,  # the crowd's clients only read
            },
            "deployments": [
                {"name": "bench", "model": "bench", "base_url": arguments.provider, "max_concurrency": 10_000}
            ],
            "routes": [{"name": "default", "deployments": ["bench"], "max_attempts": 1}],
            "tenants": {"default": {}},
        }
        if arguments.redis_url is not None:
            name = f"bench-{uuid.uuid4().hex[:8]}"
            tree["storage"] = {
                "redis_url": arguments.redis_url,
                "redis_prefix": name,
                "mongo_url": arguments.mongo_url,
                "mongo_database": name,
            }
        tree["telemetry"] = {"trace_record": not arguments.no_traces, "otlp_endpoint": arguments.otlp_url}
        settings = build_settings(tree, {})
        if arguments.history is not None:
            async with AsyncExitStack() as stack:
                archive = (await open_engines_for(settings, stack)).archive
                await seed(archive, "long", arguments.history, tenant_id="bench", user_id="user-0")
        async with running(settings, {}) as app:
            spare_the_collector()
            say({"url": app.url})
            await obey({})


if __name__ == "__main__":
    run(main())
