"""Segments for one connection: what entries, snapshots and time make of what it asked for."""

from __future__ import annotations

from typing import Any

from turnwire_protocol import (
    ActiveRequest,
    ConversationSnapshot,
    Entry,
    LogEvent,
    Message,
    MessageCompleted,
    MessageCreated,
    MessageInterrupted,
    OutputTextDelta,
    OutputTextSegment,
    PartReset,
    ReasoningDelta,
    Segments,
    TextPart,
    ToolStarted,
)
from turnwire_server.transport.speech import Speech

NOBODY: frozenset[str] = frozenset()
SENTENCES = Segments(unit="sentence")


def message(request_id: str = "r1", *texts: str, role: Any = "assistant") -> Message:
    parts: Any = [TextPart(text=text) for text in texts]
    return Message(
        message_id=f"{role}-{request_id}", request_id=request_id, role=role, parts=parts, status="partial", created_at=1
    )


def entries(*events: LogEvent) -> list[Entry]:
    return [Entry.of(event, seq, 1) for seq, event in enumerate(events, start=1)]


def of(kind: Any, request_id: str = "r1", **fields: Any) -> Any:
    return kind(conversation_id="talk", request_id=request_id, **fields)


def created(request_id: str = "r1") -> LogEvent:
    event: LogEvent = of(MessageCreated, request_id, message=message(request_id, role="user"))
    return event


def delta(text: str, offset: int, part: int = 0, request_id: str = "r1") -> LogEvent:
    event: LogEvent = of(OutputTextDelta, request_id, part=part, offset=offset, text=text)
    return event


def completed(request_id: str = "r1") -> LogEvent:
    event: LogEvent = of(MessageCompleted, request_id, finish_reason="stop")
    return event


def asked(request_id: str | None = None, segments: Segments = SENTENCES) -> Speech:
    speech = Speech("talk")
    speech.ask(segments, request_id)
    return speech


def texts(segments: list[OutputTextSegment]) -> list[tuple[int, int, str, bool]]:
    return [(segment.part, segment.start, segment.text, segment.last) for segment in segments]


def taken(speech: Speech, *events: LogEvent, muted: frozenset[str] = NOBODY) -> list[tuple[int, int, str, bool]]:
    return texts(speech.take(entries(*events), muted, 0.0))


def snapshot(*active: Message, ended: tuple[Message, ...] = ()) -> ConversationSnapshot:
    running = [
        ActiveRequest(
            request_id=one.request_id,
            conversation_id="talk",
            state="streaming",
            last_seq=1,
            created_at=1,
            input=message(one.request_id, role="user"),
            message=one,
        )
        for one in active
    ]
    return ConversationSnapshot(conversation_id="talk", epoch="e", seq=9, messages=list(ended), active=running)


def test_a_turn_comes_in_sentences_and_its_last_one_is_marked() -> None:
    speech = asked()
    assert taken(speech, created(), delta("One. Tw", 0)) == [(0, 0, "One. ", False)]
    assert taken(speech, delta("o.", 7), completed()) == [(0, 5, "Two.", True)]
    assert taken(speech, created("r2"), delta("Three", 0, request_id="r2")) == []


def test_reasoning_is_not_spoken_and_a_tool_ends_what_came_before() -> None:
    speech = asked()
    think, call = (
        of(ReasoningDelta, part=0, offset=0, text="Hm. Hm"),
        of(ToolStarted, call_id="c", part=2, name="t", where="server"),
    )
    assert taken(speech, created(), think, delta("Let me look", 0, part=1), call) == [(1, 0, "Let me look", False)]
    assert taken(speech, delta("Yes.", 0, part=3), completed()) == [(3, 0, "Yes.", True)]


def test_what_a_reset_makes_void_comes_anew() -> None:
    speech = asked()
    assert taken(speech, created(), delta("One. Two. Thr", 0)) == [(0, 0, "One. ", False), (0, 5, "Two. ", False)]
    assert taken(speech, of(PartReset, part=0, offset=0), delta("Un. Deux.", 0), completed()) == [
        (0, 0, "Un. ", False),
        (0, 4, "Deux.", True),
    ]


def test_only_the_request_that_asked_gets_them() -> None:
    speech = asked("r2")
    assert taken(speech, created(), delta("One. Two", 0), created("r2"), delta("Un. Deux", 0, request_id="r2")) == [
        (0, 0, "Un. ", False)
    ]
    assert not speech.is_over
    assert taken(speech, completed("r2"), completed()) == [(0, 4, "Deux", True)]
    assert speech.is_over


def test_a_request_may_ask_for_others_than_the_conversation() -> None:
    speech = asked()
    speech.ask(Segments(unit="clause"), "r2")
    text = "As it is now, fine. O"
    assert len(taken(speech, created(), delta(text, 0), created("r2"), delta(text, 0, request_id="r2"))) == 3


def test_what_was_cancelled_here_is_not_spoken() -> None:
    speech = asked()
    taken(speech, created(), delta("One. Two. Three", 0))
    assert taken(speech, delta(". Four", 15), completed(), muted=frozenset(["r1"])) == []
    held = asked(segments=Segments(unit="sentence", max_hold_ms=100))
    taken(held, created(), delta("One two three", 0))
    assert held.release(frozenset(["r1"]), 1.0) == []
    assert held.hold_until is None


def test_the_rest_of_an_interrupted_answer_is_not_spoken() -> None:
    speech = asked()
    taken(speech, created(), delta("One. Two", 0))
    ending = of(MessageInterrupted, reason="user", generated=8, sent=8, presented=3, basis="reported")
    assert taken(speech, ending) == [(0, 5, "", True)]


def test_an_answer_without_text_has_no_segments() -> None:
    assert taken(asked(), created(), completed()) == []


# --- in the midst of an answer -----------------------------------------------------------------------------


def test_who_comes_in_the_midst_gets_the_sentence_that_is_not_over_whole() -> None:
    speech = asked()
    more = entries(delta("o is it. Th", 7))
    assert speech.unknown(more, NOBODY) == [("r1", 0, 7)]
    speech.know("r1", [TextPart(text="One. Two is it. Th")], 0, 7)
    assert speech.unknown(more, NOBODY) == []
    assert texts(speech.take(more, NOBODY, 0.0)) == [(0, 5, "Two is it. ", False)]


def test_what_begins_within_the_entries_needs_no_look() -> None:
    assert asked().unknown(entries(created(), delta("One", 0), delta(" two", 3)), NOBODY) == []
    assert asked("r2").unknown(entries(delta("o", 5)), NOBODY) == []
    assert asked().unknown(entries(delta("o", 5)), frozenset(["r1"])) == []


def test_after_a_snapshot_a_newcomer_goes_on_with_the_sentence_that_is_not_over() -> None:
    speech = asked()
    assert speech.replaced(snapshot(message("r1", "One. Two ")), NOBODY, 0.0) == []
    assert taken(speech, delta("is. T", 9)) == [(0, 5, "Two is. ", False)]


def test_after_a_snapshot_nothing_is_left_out_and_nothing_comes_twice() -> None:
    speech = asked()
    assert taken(speech, created(), delta("One. Two", 0)) == [(0, 0, "One. ", False)]
    later = snapshot(message("r1", "One. Two is. Three is. F", "Another part. A"))
    assert texts(speech.replaced(later, NOBODY, 0.0)) == [
        (0, 5, "Two is. ", False),
        (0, 13, "Three is. ", False),
        (0, 23, "F", False),
        (1, 0, "Another part. ", False),
    ]
    assert taken(speech, delta("nd", 15, part=1), completed()) == [(1, 14, "And", True)]


def test_after_a_snapshot_with_another_text_it_begins_anew() -> None:
    speech = asked()
    taken(speech, created(), delta("One. Two. Th", 0))
    assert texts(speech.replaced(snapshot(message("r1", "Uno. Dos. Tr")), NOBODY, 0.0)) == [
        (0, 0, "Uno. ", False),
        (0, 5, "Dos. ", False),
    ]


def test_what_ended_unseen_is_brought_to_its_end() -> None:
    speech = asked("r1")
    taken(speech, created(), delta("One. Two", 0))
    over = snapshot(ended=(message("r1", "One. Two. Three."),))
    assert texts(speech.replaced(over, NOBODY, 0.0)) == [(0, 5, "Two. ", False), (0, 10, "Three.", True)]
    assert speech.is_over
