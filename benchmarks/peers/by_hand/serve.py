"""Starts the app on uvicorn with what `uvicorn[standard]` brings: uvloop, httptools, websockets."""

from __future__ import annotations

import argparse
import os

import uvicorn

from benchmarks.peers.started import announce, free_port


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--provider", required=True)
    parser.add_argument("--redis-url", required=True)
    arguments = parser.parse_args()
    os.environ |= {"OPENAI_BASE_URL": arguments.provider, "REDIS_URL": arguments.redis_url}
    port = free_port()
    announce(port, f"ws://127.0.0.1:{port}/chat")
    uvicorn.run("benchmarks.peers.by_hand.app:app", host="127.0.0.1", port=port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
