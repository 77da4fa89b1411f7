"""What must hold after a round, proved from what was recorded (DESIGN section 2). Pure: `Evidence` in, violations out.

The records are read once, in order, by `streams.Reader`, which folds what every client saw as a client does; what it
notes down (which event stood at which seq, what the state was after it) is compared here over all clients, with the
archive and with the provider's own record. Guarantees are numbered as in DESIGN; 0 stands for what no answer may be.

What is *not* held against the server, and why:
- 12: calls that were begun before Redis lost its data may be missing from the ledger. Which attempts were made is
  known to the log and to the owner alone until the turn ends; when both are gone nobody can say it any more.
- 12: rows without a call. An attempt is in the log before it is made, so a node that died in between leaves a row.
- 6: a call that was left while a node or a store was in trouble. Without any such trouble, and without a cancel, every
  call must be read to its end.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Any

from tests.chaos.records import ArchivedRequest, Call, Evidence, Message, Record, UsageLine
from tests.chaos.schedule import LOSING
from tests.chaos.streams import Reader, Seen, Violation

_TROUBLE_S = 20.0
"""So long after a fault of a node or a store a call may still be left because of it."""


@dataclass(slots=True)
class Report:
    """The verdict on a round."""

    violations: list[Violation]
    seen: Seen

    def __bool__(self) -> bool:
        return bool(self.violations)


def check(evidence: Evidence) -> Report:
    """Everything that does not hold, in the order of the guarantees."""
    reader = Reader(evidence.records)
    reader.read_all()
    seen = reader.seen
    found = [*reader.violations]
    for law in LAWS:
        found += law(evidence, seen)
    found += [Violation(4, note) for note in evidence.notes if not note.startswith("(")]
    return Report(sorted(found, key=lambda violation: violation.guarantee), seen)


# --- 3, 4: one turn, one ending --------------------------------------------------------------------------------


def one_record_for_each_request(evidence: Evidence, seen: Seen) -> Iterator[Violation]:
    """3: no id is archived twice, every acknowledged one once, with what was asked."""
    counts = Counter(request.request_id for request in evidence.archive.requests)
    for request_id, count in counts.items():
        if count > 1:
            yield Violation(3, f"{count} archive records of one request", request_id)
    for request_id, record in seen.acknowledged.items():
        if request_id not in counts:
            yield Violation(3, "an acknowledged request is not in the archive", request_id, records=(record,))
    for request in evidence.archive.requests:
        said = seen.contents.get(request.request_id)
        text = text_of(request.input)
        if said is not None and text != said[0]:
            yield Violation(3, f"archived with {text!r}, acknowledged with {said[0]!r}", request.request_id)


def one_content_for_each_id(evidence: Evidence, seen: Seen) -> Iterator[Violation]:
    """3: once an id is acknowledged, the same content is never a conflict and other content never acknowledged."""
    for answer in seen.creates:
        first = seen.contents.get(answer.request_id)
        if first is None:
            continue
        same = answer.text == first[0]
        if answer.is_ack and not same:
            yield Violation(3, "acknowledged for other content", answer.request_id, records=(first[1], answer.record))
        if answer.code == "idempotency_conflict" and same:
            yield Violation(3, "a conflict with itself", answer.request_id, records=(first[1], answer.record))


def one_owner_at_a_time(evidence: Evidence, seen: Seen) -> Iterator[Violation]:
    """3: within an epoch a turn starts once, and its runs, steps and attempts only grow."""
    for key, events in seen.by_request.items():
        conversation, epoch, request_id = key
        starts = [event for event in events if event["type"] == "message.started"]
        if len(starts) > 1:
            seqs = [event["seq"] for event in starts]
            yield Violation(3, f"started {len(starts)} times in epoch {epoch}, at {seqs}", request_id, conversation)
        attempts = [(event["step"], event["attempt"]) for event in events if event["type"] == "step.started"]
        for one, other in pairwise(attempts):
            if other <= one:
                text = f"attempt {one} is followed by {other} in epoch {epoch}"
                yield Violation(3, text, request_id, conversation)
        runs = [event["run"] for event in events if event.get("run") is not None]
        for earlier, later in pairwise(runs):
            if later < earlier:
                yield Violation(3, f"run {later} goes on after {earlier} began", request_id, conversation)


def one_ending(evidence: Evidence, seen: Seen) -> Iterator[Violation]:
    """4: one outcome in the archive, the same in every terminal event, which is the last of its request."""
    archived = {request.request_id: request for request in evidence.archive.requests}
    for request in evidence.archive.requests:
        if request.outcome is None or request.state == "open":
            yield Violation(4, "has no ending in the archive", request.request_id, request.conversation_id)
        elif request.outcome != request.state:
            text = f"state {request.state}, but an ending of {request.outcome}"
            yield Violation(4, text, request.request_id, request.conversation_id)
    for (conversation, epoch, request_id), events in seen.by_request.items():
        terminal = [event for event in events if event.get("terminal")]
        if len(terminal) > 1:
            yield Violation(4, f"{len(terminal)} terminal events in epoch {epoch}", request_id, conversation)
        if terminal and events[-1] is not terminal[0]:
            text = f"{events[-1]['type']} at {events[-1]['seq']} comes after the terminal event"
            yield Violation(4, text, request_id, conversation)
        for event in terminal:
            yield from _as_archived(event, archived.get(request_id))


def _as_archived(event: Message, request: ArchivedRequest | None) -> Iterator[Violation]:
    request_id, conversation = event["request_id"], event["conversation_id"]
    if request is None:
        yield Violation(4, f"{event['type']} was shown, and the archive does not know it", request_id, conversation)
        return
    shown = event["type"].removeprefix("message.")
    if shown != request.state:
        yield Violation(4, f"{event['type']} was shown, {request.state} is archived", request_id, conversation)
    elif "message" in event and event["message"] != request.answer:
        text = f"the message of {event['type']} is not the archived one"
        yield Violation(4, text, request_id, conversation)


def history_is_one_line(evidence: Evidence, seen: Seen) -> Iterator[Violation]:
    """2, 4: what newcomers find in the end is the archive: every request with its messages, and nothing runs."""
    expected: dict[str, dict[str, Any]] = defaultdict(dict)
    for request in evidence.archive.requests:
        for message in (request.input, request.answer):
            if message:
                expected[request.conversation_id][message["message_id"]] = message
    for conversation, snapshot, record in seen.last_snapshots:
        shown = {message["message_id"]: message for message in snapshot["messages"]}
        for active in snapshot["active"]:
            yield Violation(4, "still runs in the end", active["request_id"], conversation, (record,))
        for message_id, message in expected[conversation].items():
            if message_id not in shown:
                text = f"the {message['role']} message is not in the history in the end"
                yield Violation(2, text, message["request_id"], conversation, (record,))
            elif shown[message_id] != message:
                text = f"the {message['role']} message in the history is not the archived one"
                yield Violation(2, text, message["request_id"], conversation, (record,))
        for message_id in shown.keys() - expected[conversation].keys():
            text = f"message {message_id} is in the history and not in the archive"
            yield Violation(2, text, shown[message_id]["request_id"], conversation, (record,))


# --- 5, 6: cancelling and leaving --------------------------------------------------------------------------------


def a_cancel_is_a_fact(evidence: Evidence, seen: Seen) -> Iterator[Violation]:
    """5: what was cancelled with an acknowledgement did not complete; `already_terminal` told the truth."""
    archived = {request.request_id: request for request in evidence.archive.requests}
    for answer in seen.cancels:
        request = archived.get(answer.request_id)
        if request is None:
            continue
        if answer.outcome in ("cancelling", "recorded") and request.state == "completed":
            text = f"its cancel was answered with '{answer.outcome}', and it completed"
            yield Violation(5, text, answer.request_id, request.conversation_id, (answer.record,))
        if answer.outcome == "already_terminal" and answer.state != request.state:
            text = f"said to have ended {answer.state}, but archived as {request.state}"
            yield Violation(4, text, answer.request_id, request.conversation_id, (answer.record,))


def leaving_is_not_cancelling(evidence: Evidence, seen: Seen) -> Iterator[Violation]:
    """6: nothing is cancelled that nobody cancelled, and no call is left without a reason."""
    for request in evidence.archive.requests:
        if request.state == "cancelled" and request.request_id not in seen.cancels_sent:
            text = "cancelled, and nobody has cancelled it"
            yield Violation(6, text, request.request_id, request.conversation_id)
    troubles = [(f.began, f.ended) for f in evidence.faults if not f.kind.startswith("client")]
    too_slow = {
        key[2]
        for key, events in seen.by_request.items()
        if any(event["type"] == "step.failed" and event["reason"] == "provider_timeout" for event in events)
    }
    for call in evidence.calls:
        if call.gone is None or call.finish is not None or call.request_id in {*seen.cancels_sent, *too_slow}:
            continue
        if not any(began <= call.gone <= ended + _TROUBLE_S for began, ended in troubles):
            text = f"call {call.step}.{call.call} was left at {call.gone:.2f}s, without a cancel and without a fault"
            yield Violation(6, text, call.request_id)


# --- 7: text -----------------------------------------------------------------------------------------------------


def answers_are_what_the_provider_said(evidence: Evidence, seen: Seen) -> Iterator[Violation]:
    """7: every text part of an answer is the beginning of one call's text; of a completed one all of it, step by step
    and in order."""
    by_request: dict[str, list[Call]] = defaultdict(list)
    for call in evidence.calls:
        by_request[call.request_id].append(call)
    for request in evidence.archive.requests:
        texts = [part["text"] for part in (request.answer or {}).get("parts", []) if part["kind"] == "text"]
        calls = by_request[request.request_id]
        step, finish = 0, None
        for number, text in enumerate(texts):
            source = _source_of(text, calls)
            if source is None:
                shown = text if len(text) < 80 else f"{text[:60]}…{text[-20:]}"
                yield Violation(7, f"part {number} was said by no call: {shown!r}", request.request_id)
                continue
            if source.step <= step:
                yield Violation(7, f"step {source.step} is in the answer after {step}", request.request_id)
            step, finish = source.step, source.finish
            wanted = ("stop",) if number == len(texts) - 1 else ("tool_calls",)
            if request.state == "completed" and (text != source.text or finish not in wanted):
                missing = source.text[len(text) :]
                said = f"completed with call {step}.{source.call} ({finish}), {missing!r} is missing"
                yield Violation(7, said, request.request_id)
        if request.state == "completed" and finish is None:
            yield Violation(7, "completed without any text, and every call has some", request.request_id)


def _source_of(text: str, calls: Iterable[Call]) -> Call | None:
    """The call that said this; the marker at the beginning tells calls apart, unless it was cut within it."""
    fitting = [call for call in calls if call.text.startswith(text)]
    return max(fitting, key=lambda call: (call.finish is not None, call.step), default=None)


# --- 12: the ledger ----------------------------------------------------------------------------------------------


def every_call_is_accounted_once(evidence: Evidence, seen: Seen) -> Iterator[Violation]:
    """12: one row for each attempt, none missing, and the sums are those of `usage.completed`."""
    rows: dict[str, list[UsageLine]] = defaultdict(list)
    for line in evidence.archive.usage:
        rows[line.request_id].append(line)
    for request_id, lines in rows.items():
        for (step, attempt), count in Counter((line.step, line.attempt) for line in lines).items():
            if count > 1:
                yield Violation(12, f"{count} rows for attempt {step}.{attempt}", request_id)
    # Some begin by waiting for a moment at which they can lose something.
    losses = [fault.ended for fault in evidence.faults if fault.kind in LOSING]
    calls: dict[tuple[str, int], list[Call]] = defaultdict(list)
    for call in evidence.calls:
        calls[call.request_id, call.step].append(call)
    for (request_id, step), made in calls.items():
        entered = [line for line in rows[request_id] if line.step == step]
        excused = sum(any(call.began < loss for loss in losses) for call in made)
        if len(entered) < len(made) - excused:
            text = f"step {step} has {len(entered)} rows for {len(made)} calls ({excused} of them before a loss)"
            yield Violation(12, text, request_id)
        yield from _as_the_provider_said(request_id, entered, made)
    for (conversation, epoch, request_id), events in seen.by_request.items():
        for event in events:
            if event["type"] == "usage.completed":
                yield from _sums(event, rows[request_id], conversation, epoch)


def _as_the_provider_said(request_id: str, rows: Sequence[UsageLine], calls: Sequence[Call]) -> Iterator[Violation]:
    said = {call.usage for call in calls if call.finish is not None and call.usage is not None}
    for row in rows:
        if (
            row.outcome == "completed"
            and row.source == "provider"
            and (row.input_tokens, row.output_tokens) not in said
        ):
            tokens = f"{row.input_tokens} and {row.output_tokens} tokens"
            yield Violation(12, f"attempt {row.step}.{row.attempt} has {tokens}, which no call said", request_id)


def _sums(event: Message, rows: Sequence[UsageLine], conversation: str, epoch: str) -> Iterator[Violation]:
    request_id = event["request_id"]
    shown = {(a["step"], a["attempt"], a["outcome"], a["cost_usd"]) for a in event["attempts"]}
    stored = {(row.step, row.attempt, row.outcome, row.cost_usd) for row in rows}
    if shown != stored:
        text = f"usage.completed names {sorted(shown - stored)} and not {sorted(stored - shown)} of the ledger"
        yield Violation(12, text, request_id, conversation)
    sums = {
        "input_tokens": sum(a["input_tokens"] for a in event["attempts"]),
        "output_tokens": sum(a["output_tokens"] for a in event["attempts"]),
    }
    wrong = {name: event[name] for name, value in sums.items() if event[name] != value}
    if wrong:
        yield Violation(12, f"usage.completed says {wrong}, its attempts sum up to {sums}", request_id, conversation)
    cost = sum((Decimal(a["cost_usd"]) for a in event["attempts"]), Decimal(0))
    if Decimal(event["cost_usd"]) != cost:
        text = f"usage.completed costs {event['cost_usd']}, its attempts {cost}"
        yield Violation(12, text, request_id, conversation)


LAWS = (
    one_record_for_each_request,
    one_content_for_each_id,
    one_owner_at_a_time,
    one_ending,
    history_is_one_line,
    a_cancel_is_a_fact,
    leaving_is_not_cancelling,
    answers_are_what_the_provider_said,
    every_call_is_accounted_once,
)


def text_of(message: Message | None) -> str:
    """The text of a message's text parts."""
    return "".join(part["text"] for part in (message or {}).get("parts", []) if part["kind"] == "text")


# --- showing it ----------------------------------------------------------------------------------------------------


def excerpt(evidence: Evidence, violation: Violation, most: int = 40) -> str:
    """The records that a violation is about, shortened."""
    lines = [str(violation)]
    wanted = set(violation.records)
    about = [
        (number, record)
        for number, record in enumerate(evidence.records)
        if number in wanted or (violation.request_id and _is_about(record, violation.request_id))
    ]
    kept = about if len(about) <= most else [*about[: most // 2], *about[-most // 2 :]]
    lines += [f"  {_line(number, record, violation.request_id)}" for number, record in kept]
    lines += [f"  call {call}" for call in evidence.calls if call.request_id == violation.request_id]
    lines += [f"  archived {r}" for r in evidence.archive.requests if r.request_id == violation.request_id]
    lines += [f"  {row}" for row in evidence.archive.usage if row.request_id == violation.request_id]
    lines += [f"  fault {fault}" for fault in evidence.faults]
    return "\n".join(line if len(line) < 600 else f"{line[:600]}…" for line in lines)


def _is_about(record: Record, request_id: str) -> bool:
    return any(
        m.get("request_id") == request_id and m["type"] not in ("output_text.delta", "reasoning.delta")
        for m in record.messages
    )


def _line(number: int, record: Record, request_id: str) -> str:
    messages = [m for m in record.messages if not request_id or m.get("request_id") == request_id] or record.messages
    place = f"{record.client}#{record.connection}@{record.node}"
    return f"[{number}] {record.at:.3f}s {place} {record.kind} {record.note} {messages}"
