"""Runs one tool call and says truthfully how it ended.

Whatever a tool does (raise, hang, ignore that it is cancelled, return something that is no JSON, return far too much)
becomes an outcome of PROTOCOL section 5, never an exception of the turn. Only a cancel of the caller passes through,
after the tool has been stopped. Knows tools, not models and not the log: events are made by the caller from what this
returns. How a run is begun is in `running`, what becomes of its result in `output`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import anyio
import orjson

from turnwire_server.settings import Limits

from .context import Progress, ToolContext
from .errors import InvalidArguments, RetryableToolError, ToolEffectUnknown, ToolError
from .output import UnusableOutput, cut, usable
from .places import Places
from .progress import ProgressGate
from .registry import Tool, ToolRegistry
from .retries import delay_s
from .running import Raised, Runs

logger = logging.getLogger(__name__)

Outcome = Literal["completed", "failed", "timed_out", "cancelled", "never_started", "unknown"]

_ERROR_BYTES = 4096


@dataclass(frozen=True, slots=True)
class ToolResult:
    """``output`` when it completed, else ``error`` and what kind of failure it was."""

    output: Any = None
    outcome: Outcome = "completed"
    error: str = ""
    duration_ms: int = 0


async def _nothing() -> None:
    """Nobody wants to know."""


@dataclass(slots=True, eq=False, kw_only=True)
class ToolCall:
    """One call to run once, with `ToolExecutor.run`.

    ``begin`` is awaited when the arguments are valid and there is a place, before the tool is run: write `tool.running`
    there. What it raises passes through `run`. ``progress`` is called in the event loop, ten times a second at most.
    ``result`` is set when `run` has ended, also when it ended with a cancel of its caller.
    """

    tool: Tool
    arguments: Mapping[str, Any]
    tenant_id: str
    user_id: str
    conversation_id: str
    request_id: str
    call_id: str
    begin: Callable[[], Awaitable[None]] = _nothing
    progress: Progress = lambda fraction, message: None
    result: ToolResult | None = None
    is_cancelled: bool = False
    _wake: Callable[[], None] = field(default=lambda: None, repr=False)

    def cancel(self) -> None:
        """Stop this call, not the turn: `run` returns ``cancelled`` (``never_started`` when it was not run yet), or
        ``unknown`` when the tool does not stop."""
        self.is_cancelled = True
        self._wake()


def parse_arguments(text: str) -> dict[str, Any]:
    """The arguments a model wrote. Raises ValueError, with a text for the model, when they are no JSON object."""
    try:
        arguments = orjson.loads(text or "{}")
    except orjson.JSONDecodeError as error:
        raise ValueError(f"the arguments are not valid JSON: {error}") from None
    if not isinstance(arguments, dict):
        raise ValueError("the arguments must be a JSON object")
    return arguments


@dataclass(frozen=True, slots=True)
class _Ended:
    """How a call or one run of it ended. ``retry``: the next run may be better, after ``retry_after_s`` s at least."""

    outcome: Outcome
    output: Any = None
    error: str = ""
    retry: bool = False
    retry_after_s: float | None = None


class ToolExecutor:
    """Runs the tools of this node. `aclose` when the node ends, after its turns."""

    def __init__(
        self,
        registry: ToolRegistry,
        limits: Limits,
        *,
        rng: random.Random | None = None,
        ended: Callable[[Tool, ToolResult], None] = lambda tool, result: None,
    ) -> None:
        """``ended`` is told of every call that was run to an end, for the figures."""
        self.registry = registry
        self.limits = limits
        self.rng = rng or random.Random()  # noqa: S311 - only spreads the load
        self.runs = Runs()
        self._ended = ended
        self._threads = Places(limits.tool_threads)
        # By the tool, not by its name: a tool that an MCP server lists anew is another one.
        self._places: dict[Tool, Places] = {}

    def __repr__(self) -> str:
        return f"<ToolExecutor {self.registry!r} running={len(self.runs)}>"

    async def aclose(self) -> None:
        """Stop what still runs; what does not stop is left behind."""
        await self.runs.aclose(self.limits.tool_cancel_grace_s)

    async def run(self, call: ToolCall) -> ToolResult:
        """Run the call to its end. Raises only what ``call.begin`` raised and the cancel of the caller; on a cancel
        the tool is stopped first, which takes `limits.tool_cancel_grace_s` at most, and ``call.result`` says how."""
        began = time.monotonic()
        run = _CallRun(self, call)
        try:
            await run.to_the_end()
        finally:
            ended = run.ended
            duration_ms = int((time.monotonic() - began) * 1000)
            call.result = ToolResult(ended.output, ended.outcome, ended.error, duration_ms)
            self._ended(call.tool, call.result)
        return call.result

    def places_of(self, tool: Tool) -> list[Places]:
        """Where a run of the tool needs a place."""
        wanted = [self._threads] if tool.run_in_thread is not None else []
        if tool.max_concurrency is not None:
            wanted.insert(0, self._places.setdefault(tool, Places(tool.max_concurrency)))
        return wanted


class _CallRun:
    """One call on its way: validation, places, runs and retries. ``ended`` is true at every moment."""

    def __init__(self, executor: ToolExecutor, call: ToolCall) -> None:
        self._executor = executor
        self._limits = executor.limits
        self._call = call
        self._tool = call.tool
        self._timeout_s = call.tool.timeout_s or self._limits.tool_timeout_s
        self._attempt = 0
        self.ended = _Ended("never_started", error="the turn ended before this was run")

    async def to_the_end(self) -> None:
        call, tool = self._call, self._tool
        try:
            arguments = tool.validate(call.arguments)
        except InvalidArguments as error:
            self.ended = _Ended("never_started", error=cut(str(error), _ERROR_BYTES))
            return
        except Exception:
            logger.exception("the arguments of tool %s could not be checked", tool.name)
            self.ended = _Ended("never_started", error="the arguments could not be checked")
            return
        while True:
            if not await self._one_run(arguments):
                return
            ended = self.ended
            if not ended.retry or self._attempt > tool.retries or not tool.may_run_again:
                return
            logger.info("tool %s did not succeed (%s); it is tried again", tool.name, ended.outcome)
            if await self._is_woken(delay_s(self._attempt, self._executor.rng, ended.retry_after_s)):
                return

    async def _one_run(self, arguments: dict[str, Any]) -> bool:
        """Whether it was run; if not, ``ended`` stays what the run before left or says why there was none."""
        call = self._call
        places = await self._take_places()
        if places is None:
            if self._attempt == 0:
                self.ended = _Ended("never_started", error=_CANCELLED_EARLY if call.is_cancelled else _BUSY)
            return False
        run: asyncio.Future[Any] | None = None
        try:
            if self._attempt == 0:
                self.ended = _Ended("cancelled", error=_CANCELLED_EARLY)
                await call.begin()
            if call.is_cancelled:
                return False
            self._attempt += 1
            gate = ProgressGate(call.progress)
            flag = threading.Event()
            run = self._start(arguments, gate, flag)
        finally:
            if run is None:
                _give_back(places)
        # From here on the places belong to the run, which may outlive the call.
        run.add_done_callback(lambda _: _give_back(places))
        try:
            await self._wait_for(run, flag)
        finally:
            gate.close()
        return True

    async def _take_places(self) -> list[Places] | None:
        """The places for one run, or None when there were none in time or the call was cancelled."""
        taken: list[Places] = []
        try:
            with anyio.move_on_after(self._limits.tool_queue_s) as scope:
                self._call._wake = scope.cancel
                if self._call.is_cancelled:
                    return None
                for places in self._executor.places_of(self._tool):
                    await places.take()
                    taken.append(places)
                kept, taken = taken, []
                return kept
        finally:
            _give_back(taken)
        return None

    def _start(self, arguments: dict[str, Any], gate: ProgressGate, flag: threading.Event) -> asyncio.Future[Any]:
        call, tool = self._call, self._tool
        context = ToolContext(
            call.tenant_id,
            call.user_id,
            call.conversation_id,
            call.request_id,
            call.call_id,
            attempt=self._attempt,
            _progress=gate.report,
            _is_cancelled=flag.is_set,
        )
        if tool.run_in_thread is not None:
            return self._executor.runs.start_in_thread(partial(tool.run_in_thread, arguments, context), tool.name)
        assert tool.run is not None, "a client's tool is not run here"
        return self._executor.runs.start(partial(tool.run, arguments, context), tool.name)

    async def _wait_for(self, run: asyncio.Future[Any], flag: threading.Event) -> None:
        """Until the run has ended, its time is up, the call is cancelled, or the caller is: then it is stopped."""
        try:
            await self._is_woken(self._timeout_s, run)
            if run.done():
                self.ended = self._collect(run)
            elif self._call.is_cancelled:
                self.ended = await self._stop(run, flag, _Ended("cancelled", error="it was cancelled"))
            else:
                late = f"the tool did not finish within {self._timeout_s:g} s"
                self.ended = await self._stop(run, flag, _Ended("timed_out", error=late, retry=True))
        except asyncio.CancelledError:
            if run.done() and not run.cancelled():
                self.ended = self._collect(run)
            else:
                ended = _Ended("cancelled", error="the turn ended while this ran")
                self.ended = await self._stop(run, flag, ended)
            raise

    async def _is_woken(self, seconds: float, run: asyncio.Future[Any] | None = None) -> bool:
        """Wait; whether the call was cancelled, or the run ended, before the seconds had passed."""
        woken = asyncio.Event()
        self._call._wake = woken.set
        if self._call.is_cancelled:
            return True
        if run is not None:
            run.add_done_callback(lambda _: woken.set())
        with anyio.move_on_after(seconds):
            await woken.wait()
            return True
        return False

    async def _stop(self, run: asyncio.Future[Any], flag: threading.Event, ended: _Ended) -> _Ended:
        """Stop the run; ``ended`` when it has stopped in time, else that nobody knows what it did."""
        # What comes while it stops is not believed: a tool that cleans up may return anything.
        flag.set()
        if isinstance(run, asyncio.Task):
            run.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait({run}, timeout=self._limits.tool_cancel_grace_s)
        if run.done():
            return ended
        logger.warning("tool %s did not stop when it was told to; it is left to itself", self._tool.name)
        return _Ended("unknown", error=f"{ended.error}, and it did not stop: it may still do its work")

    def _collect(self, run: asyncio.Future[Any]) -> _Ended:
        tool = self._tool
        if run.cancelled():
            logger.error("tool %s was cancelled by something within it", tool.name)
            return _Ended("failed", error=_FAILED)
        result = run.result()
        if isinstance(result, Raised):
            return _ended_by(tool, result.error)
        try:
            return _Ended("completed", usable(result, self._limits.tool_output_bytes))
        except UnusableOutput as error:
            logger.error("tool %s returned what cannot be used: %s", tool.name, error.why)
            return _Ended("failed", error=str(error))
        except Exception:  # a value with methods of its own can do anything while it is looked at
            logger.exception("what tool %s returned could not be read", tool.name)
            return _Ended("failed", error="the tool ran to its end, but returned something that is no JSON")


_FAILED = "the tool failed; details are in the server's log"
_BUSY = "too many calls of this tool run at the moment; try again later"
_CANCELLED_EARLY = "it was cancelled before it was run"


def _ended_by(tool: Tool, error: BaseException) -> _Ended:
    """What a tool raised, as an outcome."""
    match error:
        case RetryableToolError():
            return _Ended("failed", error=_text(error), retry=True, retry_after_s=error.retry_after_s)
        case ToolError():
            return _Ended("failed", error=_text(error))
        case ToolEffectUnknown() if not tool.may_run_again:
            return _Ended("unknown", error=_text(error))
        case ToolEffectUnknown():
            return _Ended("failed", error=_text(error), retry=True)
        case TimeoutError() | ConnectionError():
            logger.warning("tool %s failed: %s", tool.name, type(error).__name__, exc_info=error)
            return _Ended("failed", error="the tool could not reach what it needs", retry=True)
    logger.error("tool %s failed: %s", tool.name, type(error).__name__, exc_info=error)
    return _Ended("failed", error=_FAILED)


def _text(error: BaseException) -> str:
    try:
        return cut(str(error), _ERROR_BYTES) or "the tool failed"
    except Exception:
        logger.error("a tool raised a %s that has no text", type(error).__name__)
        return _FAILED


def _give_back(places: list[Places]) -> None:
    for each in places:
        each.give_back()
