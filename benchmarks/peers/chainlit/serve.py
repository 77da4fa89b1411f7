"""`chainlit run app.py --headless`, with its folder of settings, files and translations in a place that is removed."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path

from benchmarks.peers.started import announce, free_port


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--provider", required=True)
    folder = tempfile.mkdtemp()
    os.environ |= {
        "OPENAI_BASE_URL": parser.parse_args().provider,
        "CHAINLIT_APP_ROOT": folder,
        "TRACELOOP_TELEMETRY": "false",
    }
    port = free_port()
    announce(port, f"ws://127.0.0.1:{port}/ws/socket.io/", lambda: shutil.rmtree(folder, ignore_errors=True))

    # Reads where its folder is when it is imported.
    from chainlit.cli import cli

    app = str(Path(__file__).with_name("app.py"))
    cli(["run", app, "--headless", "--host", "127.0.0.1", "--port", str(port)])


if __name__ == "__main__":
    main()
