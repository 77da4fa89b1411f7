"""The client in the README works as it stands there."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

from tests.support.server import running_server

README = Path(__file__).parents[2] / "README.md"


async def test_the_client_of_the_readme_prints_an_answer() -> None:
    (source,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    async with running_server() as app:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", source.replace("ws://127.0.0.1:8787/v1", app.url), stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(60):
            out, _ = await process.communicate()
    assert process.returncode == 0
    assert b"demonstration model" in out
