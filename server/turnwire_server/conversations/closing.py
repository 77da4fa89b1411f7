"""Closes a call that a client might run, so that what is told of it is true.

Claims and results are acknowledged without asking the turn (DECISIONS 25), so the turn must not say that nobody has
taken a call up, or that no result came, while somebody is just being told otherwise. It answers the open questions
itself first: who comes later is too late, and whoever was before counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from turnwire_protocol import ToolCallPart, ToolCompleted, ToolFailed
from turnwire_server.eventlog.base import Intent, PostOutcome, RequestInfo

from .patience import until_answered
from .progress import Progress
from .services import Services
from .spec import TurnSpec
from .writer import TurnWriter

# Nobody: no client has claimed it in the turn's name.
_NOBODY = {"by": "", "instance": ""}


@dataclass(frozen=True, slots=True)
class Closed:
    """What stands: the result, and whether somebody was told to run the call."""

    result: Intent | None
    was_claimed: bool


def question(about: str, call_id: str, turn: int = 0) -> str:
    """The name of what is decided about a call; claims and lapses have turns, from 1."""
    return f"{about}:{call_id}:{turn}" if turn else f"{about}:{call_id}"


def lapses(info: RequestInfo, call_id: str) -> int:
    """How many claims of a call have lapsed."""
    turn = 0
    while question("lapse", call_id, turn + 1) in info.decided:
        turn += 1
    return turn


async def close_call(services: Services, spec: TurnSpec, call_id: str, say: Callable[[Intent], None]) -> Closed:
    """Nobody can claim the call any more, nor give its result. ``say`` is told what this puts into the inbox."""

    async def first(decides: str) -> Intent | None:
        """The answer of somebody else; None when this one counts."""
        posted = await until_answered(
            lambda: services.log.post(
                f"close:{spec.request_id}:{decides}",
                spec.request,
                "close",
                {"call_id": call_id, **_NOBODY},
                user_id=spec.user_id,
                any_user=True,
                decides=decides,
                conversation=spec.conversation,
            ),
            "closing a call",
        )
        if posted.outcome is PostOutcome.STORED and posted.intent is not None:
            say(posted.intent)
        return posted.intent if posted.outcome is PostOutcome.DECIDED else None

    look = partial(services.log.request, spec.request, spec.conversation)
    info = await until_answered(look, "looking at what was decided")
    turn = 0 if info is None else lapses(info, call_id)
    claim = await first(question("claim", call_id, turn + 1))
    result = await first(question("result", call_id))
    return Closed(result, was_claimed=turn > 0 or claim is not None)


def result_event(
    head: dict[str, Any], call_id: str, result: Intent, until_ms: int, now_ms: int, limit_s: float
) -> ToolCompleted | ToolFailed:
    """What a client's result comes to. ``until_ms`` is when its time would have been up, ``limit_s`` after the call."""
    body = result.body
    if body.get("error") is not None:
        return ToolFailed(**head, call_id=call_id, outcome="failed", error=body["error"])
    duration_ms = max(now_ms - (until_ms - int(limit_s * 1000)), 0)
    return ToolCompleted(**head, call_id=call_id, output=body.get("output"), duration_ms=duration_ms)


async def end_open_calls(
    services: Services, spec: TurnSpec, writer: TurnWriter, progress: Progress, say: Callable[[Intent], None]
) -> None:
    """Of a turn that is over: every call in history gets a truthful result, those that the ending cut short too."""
    head: dict[str, Any] = {"conversation_id": spec.conversation_id, "request_id": spec.request_id}
    limit_s = services.settings.limits.client_tool_timeout_s
    for call in writer.fold.partial.to_parts():
        if not isinstance(call, ToolCallPart) or call.state in ("completed", "failed"):
            continue
        ran = call.state == "running"
        if call.where == "client" and call.state in ("called", "running"):
            closed = await close_call(services, spec, call.call_id, say)
            if closed.result is not None:
                now_ms = await until_answered(services.log.now_ms, "asking for the time")
                until_ms = progress.until.get(call.call_id, now_ms)
                writer.event(result_event(head, call.call_id, closed.result, until_ms, now_ms, limit_s))
                continue
            ran = ran or closed.was_claimed
        if ran:
            outcome: Any = "unknown"
            error = "the turn ended while this ran; its effect is unknown"
        else:
            outcome, error = "never_started", "the turn ended before this was run"
        writer.event(ToolFailed(**head, call_id=call.call_id, outcome=outcome, error=error))
