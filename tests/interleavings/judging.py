"""What must hold of a story, whatever came when. Each rule raises AssertionError for the first thing that does not."""

from __future__ import annotations

from typing import Any

from tests.support.prompt_rules import faults_of

from turnwire_protocol import to_wire

from . import text_rules, tool_rules
from .facts import DELTAS, ENDING_S, NEVER, SLACK_S, Facts, at, is_confirmed, supersedes
from .plan import LIMITS
from .telling import Record, Tab

_MODEL_S = (*DELTAS, "part.reset", "tool.started")
_REFUSALS = ("not_found", "invalid_state", "already_settled")


def judge(record: Record) -> None:
    """All of it."""
    assert record.onlooker is not None, "set by whoever told it"
    for tab in (*record.tabs, record.onlooker):
        assert tab.error is None, f"{tab.name} was told what does not fit: {tab.error!r}"
    facts = Facts(record)
    for tab in record.tabs:
        _everything_is_answered(tab)
        _stopped_is_silent(facts, tab)
    for request_id in facts.events:
        _there_is_one_end(facts, request_id)
        _it_ends_as_somebody_said(facts, request_id)
        _nothing_takes_too_long(facts, request_id)
        text_rules.lengths_are_honest(facts, request_id)
        text_rules.held_is_held(facts, request_id)
        tool_rules.results_are_true(facts, request_id)
        tool_rules.approvals_expire(facts, request_id)
        _every_attempt_is_accounted(facts, request_id)
    _everybody_knows_the_same(facts)
    _steered_is_merged(facts)
    _the_next_prompt_is_honest(facts)
    _leaving_cancels_after_the_grace_time(facts)


def _everything_is_answered(tab: Tab) -> None:
    for sent in tab.sent:
        if sent.answer is None:
            assert sent.kind == "request.presented" or tab.closed_at < NEVER, f"no answer to {sent.command}"
        elif sent.answer["type"] == "error":
            assert sent.kind.startswith(("tool.", "request.")), sent
            assert sent.answer["code"] in _REFUSALS, f"{sent.command}: {sent.answer}"


def _stopped_is_silent(facts: Facts, tab: Tab) -> None:
    """No deltas on a connection that was told so; after an interrupt nothing more of the model's in the log either."""
    for sent in tab.sent:
        if sent.outcome not in ("interrupting", "cancelling"):
            continue
        request_id = sent.command["request_id"]
        index = next(i for i, (_, message) in enumerate(tab.received) if message is sent.answer)
        late = [message for _, message in tab.received[index:] if message.get("request_id") == request_id]
        assert not [m for m in late if m["type"] in DELTAS], f"deltas after the answer to {sent.command}"
        if sent.outcome == "interrupting":
            written = [e for e in facts.events[request_id] if e.type in _MODEL_S and at(e) > sent.answered]
            assert not written, f"written after the interrupt: {written}"


def _there_is_one_end(facts: Facts, request_id: str) -> None:
    events = facts.events[request_id]
    kinds = [event.type for event in events]
    ends = [event for event in events if getattr(event, "terminal", False)]
    assert ends == events[-1:], f"{request_id} has {len(ends)} ends: {kinds}"
    assert kinds[0] == "message.created", kinds
    for kind in ("message.created", "message.started", "usage.completed"):
        assert kinds.count(kind) <= 1, kinds
    assert ("message.started" in kinds) == (kinds[-2] == "usage.completed") == ("usage.completed" in kinds), kinds


def _it_ends_as_somebody_said(facts: Facts, request_id: str) -> None:
    outcome, end = facts.end(request_id)
    for sent in facts.orders[request_id]:
        if sent.outcome == "cancelling":
            assert outcome == "cancelled", f"{request_id} was cancelled and is {outcome}"
        elif sent.outcome == "interrupting":
            assert outcome in ("interrupted", "cancelled"), f"{request_id} was interrupted and is {outcome}"
        elif sent.outcome in ("already_terminal", "amended"):
            assert at(end) <= sent.answered + ENDING_S, "it had not ended"
        elif sent.outcome == "recorded":
            assert outcome == "cancelled", f"{request_id} was cancelled before it was known, and is {outcome}"
    stops = facts.stops(request_id)
    if outcome == "cancelled" and end.reason != "disconnected":
        assert any(sent.kind == "request.cancel" for sent in stops), "nobody cancelled it"
    if outcome == "interrupted":
        assert any(map(supersedes if end.reason == "superseded" else is_confirmed, stops)), "nobody interrupted it"
    if outcome == "failed":
        assert any(asked.failed for asked in facts.asked(request_id)), end.error


def _nothing_takes_too_long(facts: Facts, request_id: str) -> None:
    outcome, end = facts.end(request_id)
    if outcome != "incomplete":
        return
    events = facts.events[request_id]
    waits = any(getattr(event, "where", None) == "client" for event in events)
    assert end.reason == "deadline", end.reason
    assert waits or any(asked.failed for asked in facts.asked(request_id)), "it was not to take so long"
    (started,) = [event for event in events if event.type == "message.started"]
    assert at(end) - at(started) >= LIMITS["turn_deadline_s"] - SLACK_S, "it was ended before its time"


def _every_attempt_is_accounted(facts: Facts, request_id: str) -> None:
    rows, asked = facts.record.usage[request_id], facts.asked(request_id)
    assert len({(row.step, row.attempt) for row in rows}) == len(rows), rows
    # An attempt is in the ledger before it is made, so one may stand there that was stopped in between.
    assert len(asked) <= len(rows) <= len(asked) + 1, f"{len(asked)} calls, {len(rows)} rows"
    for told in facts.events[request_id]:
        if told.type == "usage.completed":
            assert told.output_tokens == sum(row.output_tokens for row in rows), (told, rows)
            assert len(told.attempts) == len(rows), (told, rows)


def _everybody_knows_the_same(facts: Facts) -> None:
    record, fold = facts.record, facts.fold
    assert not fold.active, "something has not ended"
    branch = [to_wire(message) for message in fold.branch()]
    assert branch == record.history, "what is stored is not what was told"
    assert record.onlooker is not None, "checked before"
    seen = record.onlooker.client.folds[record.plan.name]
    assert (seen.seq, [to_wire(m) for m in seen.branch()]) == (fold.seq, branch), "the onlooker knows otherwise"


def _steered_is_merged(facts: Facts) -> None:
    applied = {
        e.from_: request_id for request_id, log in facts.events.items() for e in log if e.type == "steer.applied"
    }
    for request_id in facts.events:
        outcome, end = facts.end(request_id)
        if outcome == "merged":
            assert applied.get(request_id) == end.into, f"{request_id} was folded in and is nowhere"
        else:
            assert request_id not in applied, f"{request_id} was folded in and is a turn of its own"


def _the_next_prompt_is_honest(facts: Facts) -> None:
    """It says what was kept, and no more; whatever was read by a model is in it once; any provider takes it."""
    last = facts.asked(facts.record.id("last"))
    assert len(last) == 1, last
    prompt = last[0].messages
    assert not (faults := faults_of(prompt)), faults
    by_id: dict[str, dict[str, Any]] = {message["message_id"]: message for message in facts.record.history}
    way: list[dict[str, Any]] = []
    next_id = facts.record.history[-1]["parent_id"]
    while next_id is not None:
        way.insert(0, by_id[next_id])
        next_id = by_id[next_id].get("parent_id")
    kept = [part["text"] for m in way if m["role"] == "assistant" for part in m["parts"] if part["kind"] == "text"]
    said = "".join(message["content"] or "" for message in prompt if message["role"] == "assistant")
    assert said == "".join(kept), f"the prompt says {said!r}, kept is {kept!r}"
    asked = "".join(message["content"] for message in prompt if message["role"] == "user")
    for message in way:
        request_id = message["request_id"]
        was_read = any(e.type in ("message.started", "message.merged") for e in facts.events[request_id])
        if message["role"] == "user" and was_read:
            assert asked.count(f"<{request_id}>") == 1, f"{request_id} in {asked}"


def _leaving_cancels_after_the_grace_time(facts: Facts) -> None:
    request_id = facts.record.id("r")
    if request_id not in facts.events:
        return
    outcome, end = facts.end(request_id)
    grace_s, away = LIMITS["disconnect_grace_s"], facts.record.away
    is_bound = facts.record.plan.on_disconnect == "cancel"
    if outcome == "cancelled" and end.reason == "disconnected":
        assert is_bound, "nobody asked for that"
        long = [since for since, until in away if until - since >= grace_s - SLACK_S / 10]
        assert any(since + grace_s - SLACK_S / 10 <= at(end) for since in long), f"at {at(end)}, away {away}"
    elif is_bound:
        for since, until in away:
            late = since + grace_s + SLACK_S
            assert until <= late or at(end) <= late, f"{outcome} at {at(end)}, away {away}"
