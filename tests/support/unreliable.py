"""Engines that answer badly: any engine behind a port, with every call of a step in the test's hands.

    log = Intercepted(engine, LOG_STEPS, Unreliable(Fault.LOST).around)

`Unreliable` fails every other call of each step, so that whoever repeats gets through. It is unrealistic in its
regularity, and in that looking always works unless the looking calls are named as steps too. `Repeating` is the
caller that the ports ask for: it sends what was not answered again, exactly as it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any

from turnwire_server.archive.base import ArchiveUnavailable
from turnwire_server.eventlog.base import LogUnavailable

Call = Callable[[], Awaitable[Any]]
Around = Callable[[str, Call], Awaitable[Any]]
"""Gets the name of a step and the call itself, and answers in its place."""

LOG_STEPS = frozenset(
    [
        "reserve",
        "release",
        "claim",
        "append",
        "emit",
        "post",
        "note",
        "seal",
        "finish",
        "archived",
        "take_over",
        "hand_over",
        "disown",
        "rebuild",
        "delete",
        "trim",
    ]
)
LOG_LOOKS = frozenset(["position", "read", "live", "request", "running", "orphans", "unarchived"])
ARCHIVE_STEPS = frozenset(
    [
        "create_conversation",
        "set_member",
        "set_context",
        "place_context",
        "delete_conversation",
        "insert_request",
        "take_request",
        "end_request",
        "amend_answer",
        "note_effects",
        "park_request",
        "record_cancel",
        "forget_cancels",
        "add_feedback",
        "add_trace",
        "due_reports",
        "reported",
        "put_tenant",
        "add_audit",
        "put_prompt",
        "put_summary",
        "drop_summaries",
    ]
)
ARCHIVE_LOOKS = frozenset(
    [
        "conversation",
        "list_conversations",
        "expire",
        "request",
        "recorded_cancel",
        "request_of",
        "open_requests",
        "jobs",
        "messages",
        "message",
        "traces",
        "context",
        "usage",
        "spent",
        "tenant",
        "tenants",
        "tenant_versions",
        "audit",
        "usage_sums",
        "prompt",
        "prompts",
        "prompt_revisions",
        "prompt_version",
        "prompt_versions",
        "summaries",
    ]
)

_PATIENCE = 20


class Intercepted:
    """An engine whose calls named in ``steps`` go through ``around``; all else is the engine's own."""

    def __init__(self, engine: Any, steps: frozenset[str], around: Around) -> None:
        self._engine = engine
        self._steps = steps
        self._around = around

    def __repr__(self) -> str:
        return f"<Intercepted {self._engine!r}>"

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._engine, name)
        if name not in self._steps:
            return attribute

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await self._around(name, lambda: attribute(*args, **kwargs))

        return call


class Fault(StrEnum):
    """What goes wrong with a call."""

    NONE = "none"
    TWICE = "twice"
    """It is carried out twice, and the second answer counts."""
    LOST = "lost"
    """It is carried out, but the answer does not arrive."""
    MISSED = "missed"
    """It is not carried out, and nobody knows."""
    REFUSED = "refused"
    """It is not carried out, and that much is known."""


class Unreliable:
    """Every other (or third …) call of each step meets the fault, beginning with the first."""

    def __init__(self, fault: Fault, error: Callable[[], Exception], every: int = 2) -> None:
        self.fault = fault
        self.every = every
        self.met: Counter[str] = Counter()
        """How often each step met the fault."""
        self._error = error
        self._calls: Counter[str] = Counter()

    async def around(self, step: str, call: Call) -> Any:
        self._calls[step] += 1
        spared = self.fault is not Fault.TWICE and self._calls[step] % self.every != 1
        if self.fault is Fault.NONE or spared:
            return await call()
        self.met[step] += 1
        if self.fault is Fault.TWICE:
            await call()
            return await call()
        if self.fault is Fault.LOST:
            await call()
        raise self._error()


class Repeating:
    """Sends a step again when it was not answered."""

    def __init__(self, engine: Any, steps: frozenset[str]) -> None:
        self._engine = engine
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._engine, name)
        if name not in self._steps:
            return attribute

        async def call(*args: Any, **kwargs: Any) -> Any:
            for _ in range(_PATIENCE - 1):
                try:
                    return await attribute(*args, **kwargs)
                except (LogUnavailable, ArchiveUnavailable):
                    continue
            return await attribute(*args, **kwargs)

        return call


def unreliable_log(engine: Any, fault: Fault, steps: frozenset[str] = LOG_STEPS, every: int = 2) -> Any:
    """The log, failing every other call of each step."""
    around = Unreliable(fault, lambda: LogUnavailable(f"by the test: {fault}"), every).around
    return Intercepted(engine, steps, around)


def unreliable_archive(engine: Any, fault: Fault, steps: frozenset[str] = ARCHIVE_STEPS, every: int = 2) -> Any:
    """The archive, failing every other call of each step."""
    unknown = fault is not Fault.REFUSED
    around = Unreliable(fault, lambda: ArchiveUnavailable(f"by the test: {fault}", unknown=unknown), every).around
    return Intercepted(engine, steps, around)
