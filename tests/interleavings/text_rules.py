"""Three lengths (generated, sent, presented) and what is held back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from turnwire_protocol import Message, message_from_wire
from turnwire_server.conversations.presented import Place, clamped, cut, end_of, length, place_of_text

from .facts import DELTAS, ENDING_S, NEVER, ROUNDING_S, Facts, at, units
from .plan import LIMITS, LONGEST_PIECE
from .telling import Sent

_Reports = list[tuple[Sent, Place]]
# What others do with a request that waits shows however it is held.
_NOT_ITS_OWN = ("message.created", "request.queued")


def lengths_are_honest(facts: Facts, request_id: str) -> None:
    """generated ≥ sent ≥ presented; the end keeps an interrupted answer as far as it was presented, any other whole."""
    outcome, end = facts.end(request_id)
    whole = facts.whole.get(request_id)
    if whole is None:
        assert not (getattr(end, "message", None) and end.message.parts), "what never started has said nothing"
        return
    reports = _reports(facts, request_id, whole)
    if outcome == "interrupted":
        _interrupted(facts, request_id, end, whole, reports)
    else:
        assert end.message.parts == whole.parts, f"{outcome}: {end.message.parts} of {whole.parts}"
    _amended(facts, outcome, end, whole, reports)


def _interrupted(facts: Facts, request_id: str, end: Any, whole: Message, reports: _Reports) -> None:
    sent = length(whole.parts)
    assert end.generated >= end.sent >= end.presented, end
    assert end.sent == sent, f"sent {end.sent}, but {sent} are in the log"
    asked = facts.asked(request_id)
    if not any(each.failed for each in asked):
        given = sum(units(text) for each in asked for _, text in each.said)
        assert end.generated == given, f"generated {end.generated}, given were {given}"
    first_stop = min(sent.at for sent in facts.stops(request_id))
    certain = [place for sent, place in reports if sent.done <= first_stop]
    if end.basis == "assumed":
        assert not certain, "there were reports"
        assert end.message.parts == cut(whole, end_of(whole.parts)).parts, "assumed: all that was sent"
    else:
        possible = [cut(whole, clamped(whole.parts, place)).parts for _, place in reports]
        assert end.message.parts in possible, f"{end.message.parts} of {possible}"
        assert end.presented == length(end.message.parts)
        least = length(whole.parts, clamped(whole.parts, max(certain, default=Place())))
        assert end.presented >= least, f"presented {end.presented}, reported was {least}"


def _amended(facts: Facts, outcome: str, end: Any, whole: Message, reports: _Reports) -> None:
    """The stored answer reaches as far as the highest report, once there was one that counts, and only grows."""
    (stored,) = [message_from_wire(m) for m in facts.record.history if m["message_id"] == whole.message_id]
    cuts: list[Any] = [entry.event for entry in facts.record.entries if entry.type == "message.amended"]
    cuts = [event for event in cuts if event.message_id == whole.message_id]
    assert stored == (cuts[-1].message if cuts else end.message), f"stored is {stored}"
    grown = [event.presented for event in cuts]
    assert grown == sorted(grown), f"a cut that does not reach as far as the last one: {grown}"
    if outcome == "interrupted" and end.basis == "assumed":
        assert stored.parts == cut(whole, end_of(whole.parts)).parts
        return
    carried_out = [place for sent, place in reports if sent.done < NEVER]
    counts = outcome == "interrupted" or any(sent.at > at(end) and sent.done < NEVER for sent, _ in reports)
    if counts and carried_out and outcome in ("interrupted", "completed"):
        least = length(whole.parts, clamped(whole.parts, max(carried_out)))
        assert length(stored.parts) >= least, f"cut at {length(stored.parts)}, reported was {least}"


def _reports(facts: Facts, request_id: str, whole: Message) -> _Reports:
    found: _Reports = []
    for sent in facts.orders[request_id]:
        said = sent.command if sent.kind == "request.presented" else sent.command.get("presented")
        if said is None:
            continue
        if "text" in said:
            found.append((sent, place_of_text(whole.parts, said["text"])))
        else:
            found.append((sent, Place.reported(said["part"], said["offset"])))
    return found


def held_is_held(facts: Facts, request_id: str) -> None:
    """From a tentative interrupt until something lets it go on, nothing of it is written, and little generated."""
    own = [event for event in facts.events[request_id] if event.type not in _NOT_ITS_OWN]
    for sent, since, until in _holds(facts, request_id):
        # One that came with the last words has nothing to hold: the end was decided.
        may_show = [event for event in own if event.type in DELTAS] if at(own[-1]) <= sent.at + ENDING_S else own
        shown = [event for event in may_show if since + ROUNDING_S < at(event) < until - ROUNDING_S]
        assert not shown, f"{request_id} is held from {since} to {until} ({sent.command}), shown was {shown}"
        given = [text for each in facts.asked(request_id) for when, text in each.said if since < when < until]
        generated = sum(map(len, given))
        assert generated <= LIMITS["held_chars"] + LONGEST_PIECE, f"{generated} were generated while it was held"


def _holds(facts: Facts, request_id: str) -> Iterator[tuple[Sent, float, float]]:
    """From the answer to a tentative interrupt until something may have let the request go on, or ended it."""
    if facts.end(request_id)[0] == "merged":
        return  # it is in another answer, which has holds of its own
    began, ended = at(facts.events[request_id][0]), at(facts.events[request_id][-1])
    for sent in facts.orders[request_id]:
        if sent.outcome != "held" or sent.answered > ended:
            continue
        until = [sent.at + LIMITS["interrupt_hold_s"], began + LIMITS["turn_deadline_s"] - ROUNDING_S]
        until += [max(stop.at, sent.at) for stop in facts.stops(request_id)]
        for other in facts.orders[request_id]:
            if other.command.get("phase") == "retracted" and other.done >= sent.at:
                until.append(max(other.at, sent.at))
        until += [since + LIMITS["disconnect_grace_s"] - ROUNDING_S for since, _ in facts.record.away]
        if min(until) > sent.answered:
            yield sent, sent.answered, min(until)
