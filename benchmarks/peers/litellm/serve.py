"""`litellm --config config.yaml` with one worker, as its documentation has it for production: it logs errors alone."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from benchmarks.peers.litellm import MASTER_KEY
from benchmarks.peers.started import announce, free_port


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--provider", required=True)
    os.environ |= {
        "BENCH_PROVIDER": parser.parse_args().provider,
        "LITELLM_MASTER_KEY": MASTER_KEY,
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",  # reads no .env file
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # it would look for a newer one elsewhere
    }
    port = free_port()
    announce(port, f"http://127.0.0.1:{port}/v1")

    # Reads its environment when it is imported.
    from litellm import run_server

    config = str(Path(__file__).with_name("config.yaml"))
    run_server(["--config", config, "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"])


if __name__ == "__main__":
    main()
