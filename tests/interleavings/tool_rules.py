"""Every call in an answer has one result, and it is true of what was done by whoever ran it."""

from __future__ import annotations

from typing import Any

from turnwire_protocol import ToolCallPart

from .facts import NEVER, ROUNDING_S, SLACK_S, Facts, at
from .plan import LIMITS
from .timed_tools import Run

_RESULTS = ("tool.completed", "tool.failed")
# A parked turn whose time has come is found at the next look.
_PARKED_LOOK_S = 1.0


def results_are_true(facts: Facts, request_id: str) -> None:
    """Of all calls of a request."""
    whole = facts.whole.get(request_id)
    calls = [part for part in whole.parts if isinstance(part, ToolCallPart)] if whole else []
    for call in calls:
        assert call.state in ("completed", "failed"), f"{call} has no result"
        (end,) = [e for e in facts.events[request_id] if e.type in _RESULTS and e.call_id == call.call_id]
        outcome = "completed" if end.type == "tool.completed" else end.outcome
        if call.where == "client":
            _by_a_client(facts, request_id, call, outcome)
        else:
            _by_the_server(facts, request_id, call, outcome)
    for run in facts.record.runs:
        if run.request_id == request_id:
            assert any(run.call_id == call.call_id for call in calls), f"{run} and nothing of it in the answer"
            for sent in facts.orders[request_id]:
                stopped = sent.outcome in ("interrupting", "cancelling")
                assert not stopped or run.began <= sent.answered, f"{run} began after the answer to {sent.command}"


def _by_the_server(facts: Facts, request_id: str, call: ToolCallPart, outcome: str) -> None:
    runs = [run for run in facts.record.runs if run.call_id == call.call_id]
    assert len(runs) <= 1, f"{call.call_id} ran {len(runs)} times"
    if runs:
        _ran(facts, request_id, call, outcome, runs[0])
        return
    waited = call.name == "refund" and outcome in ("timed_out", "cancelled")
    assert outcome in ("never_started", "denied") or waited or "before it was run" in (call.error or ""), call


def _ran(facts: Facts, request_id: str, call: ToolCallPart, outcome: str, run: Run) -> None:
    took = (NEVER if run.ended is None else run.ended) - run.began
    is_interruptible = call.name in ("look", "stubborn")
    assert outcome in ("completed", "timed_out", "unknown", "cancelled"), f"{outcome}, and it ran: {run}"
    if outcome == "completed":
        assert run.how == "returned", run
        assert call.output == {"done": call.call_id}, call
    elif outcome == "timed_out":
        assert took >= LIMITS["tool_timeout_s"] - ROUNDING_S, run
    elif outcome == "unknown":
        assert call.name == "stubborn", f"its effect is known: {run}"
    else:
        assert run.how == "stopped" or call.name == "stubborn", run
        own = [sent for sent in facts.orders[request_id] if sent.command.get("call_id") == call.call_id]
        by_itself = any(sent.kind == "tool.cancel" for sent in own)
        assert is_interruptible or by_itself, f"{run} was not to be interrupted"
    if run.how == "returned" and not is_interruptible and took < LIMITS["tool_timeout_s"] - ROUNDING_S:
        assert outcome == "completed", f"it did its work, and the model is told {outcome}"


def _by_a_client(facts: Facts, request_id: str, call: ToolCallPart, outcome: str) -> None:
    said = [sent for sent in facts.orders[request_id] if sent.command.get("call_id") == call.call_id]
    agreed = {kind for kind in ("tool.claim", "tool.result", "tool.approve", "tool.deny") if _acknowledged(said, kind)}
    results = _acknowledged(said, "tool.result")
    if outcome == "completed":
        possible = [s.command["output"] for s in said if s.kind == "tool.result" and s.outcome in ("ack", "")]
        assert call.output in possible, f"{call.output}, and acknowledged was {possible}"
        assert any(s.kind == "tool.claim" and s.outcome in ("ack", "") for s in said), "nobody has claimed it"
    else:
        assert not results, f"{results} was acknowledged, and the model is told {outcome}"
    if outcome == "never_started":
        assert "tool.claim" not in agreed, f"{said} was acknowledged"
    if call.name != "lookup":  # that has no side effects: another tab may run it when the first is gone
        holders = {sent.tab.name for sent in _acknowledged(said, "tool.claim")}
        assert len(holders) <= 1, f"{holders} have both claimed {call.name}"
    outputs = [sent.command["output"] for sent in results]
    assert all(output == outputs[0] for output in outputs), f"two results were acknowledged: {outputs}"
    assert not {"tool.approve", "tool.deny"} <= agreed, f"both were acknowledged: {said}"


def _acknowledged(said: list[Any], kind: str) -> list[Any]:
    return [sent for sent in said if sent.kind == kind and sent.outcome == "ack"]


def approvals_expire(facts: Facts, request_id: str) -> None:
    """At their time, unless somebody has decided: then that counts."""
    for asked in facts.events[request_id]:
        if asked.type != "tool.approval_required":
            continue
        about = [e for e in facts.events[request_id] if getattr(e, "call_id", None) == asked.call_id]
        (end,) = [event for event in about if event.type in _RESULTS]
        said = [sent for sent in facts.orders[request_id] if sent.command.get("call_id") == asked.call_id]
        decided = [*_acknowledged(said, "tool.approve"), *_acknowledged(said, "tool.deny")]
        is_told = any(event.type in ("tool.approved", "tool.denied") for event in about)
        if end.type == "tool.completed":
            assert is_told, "nobody agreed to it"
            assert not _acknowledged(said, "tool.deny"), "it was denied"
        elif end.outcome == "timed_out" and not is_told:
            assert not decided, f"{decided} was acknowledged, and it has expired"
            expires_s = at(asked) + (asked.expires_at - asked.ts) / 1000
            holds = sum(sent.outcome == "held" for sent in facts.orders[request_id])
            late_s = _PARKED_LOOK_S + holds * LIMITS["interrupt_hold_s"] + SLACK_S
            assert expires_s - ROUNDING_S <= at(end) <= expires_s + late_s, f"expires at {expires_s}, did at {at(end)}"
