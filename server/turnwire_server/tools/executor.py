"""Runs one tool call and says truthfully how it ended.

Whatever a tool does (raise, hang, return something that is no JSON, return far too much) becomes an outcome of
PROTOCOL section 5, never an exception of the turn. Only a cancel of the turn passes through. Knows tools, not
models and not the log: events are made by the caller from what this returns.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import anyio
import orjson

from .registry import Progress, Tool, ToolError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ToolResult:
    """``output`` when it completed, else ``error`` and what kind of failure it was."""

    output: Any = None
    outcome: Literal["completed", "failed", "timed_out"] = "completed"
    error: str = ""
    duration_ms: int = 0


def parse_arguments(text: str) -> dict[str, Any]:
    """The arguments a model wrote. Raises ValueError, with a text for the model, when they are no JSON object."""
    try:
        arguments = orjson.loads(text or "{}")
    except orjson.JSONDecodeError as error:
        raise ValueError(f"the arguments are not valid JSON: {error}") from None
    if not isinstance(arguments, dict):
        raise ValueError("the arguments must be a JSON object")
    return arguments


class ToolExecutor:
    """The tools of this server by name."""

    def __init__(self, tools: Mapping[str, Tool], *, timeout_s: float, output_bytes: int) -> None:
        self._tools = tools
        self._timeout_s = timeout_s
        self._output_bytes = output_bytes

    def get(self, name: str) -> Tool | None:
        return self._tools.get(name)

    async def run(self, tool: Tool, arguments: dict[str, Any], progress: Progress) -> ToolResult:
        """Run the tool within its time and size."""
        began = time.monotonic()

        def result(**values: Any) -> ToolResult:
            return ToolResult(duration_ms=int((time.monotonic() - began) * 1000), **values)

        try:
            with anyio.fail_after(self._timeout_s):
                output = await tool.run(arguments, progress)
        except TimeoutError:
            return result(outcome="timed_out", error=f"the tool did not finish within {self._timeout_s:g} s")
        except ToolError as error:
            return result(outcome="failed", error=str(error))
        except Exception:
            logger.exception("tool %s failed", tool.name)
            return result(outcome="failed", error="the tool failed; details are in the server's log")
        try:
            size = len(orjson.dumps(output))
        except (TypeError, ValueError):
            logger.error("tool %s returned %s, which is no JSON", tool.name, type(output).__name__)
            return result(outcome="failed", error="the tool returned something that is no JSON")
        if size > self._output_bytes:
            return result(outcome="failed", error=f"the tool returned {size} bytes; {self._output_bytes} are allowed")
        return result(output=output)
