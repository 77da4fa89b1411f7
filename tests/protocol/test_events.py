"""Server messages as objects: reading, writing, leaving out."""

from __future__ import annotations

import re

import pytest

from turnwire_protocol import (
    EVENTS,
    LOG_EVENTS,
    TERMINAL_TYPES,
    CommandError,
    ErrorCode,
    ErrorMessage,
    LogEvent,
    Message,
    MessageCompleted,
    OutputTextDelta,
    RemoteProtocolError,
    RequestEvent,
    SteerApplied,
    TerminalEvent,
    TextPart,
    ToolCalled,
    UnknownEvent,
    event_from_wire,
    message_from_wire,
    to_wire,
)

EXCEPTIONS = {"request.state": "RequestStateAnswer", "error": "ErrorMessage", "goaway": "GoAway"}


@pytest.mark.parametrize("name", EVENTS)
def test_class_names_follow_the_wire(name: str) -> None:
    spelled = EXCEPTIONS.get(name) or "".join(word.capitalize() for word in re.split(r"[._]", name))
    assert EVENTS[name].__name__ == spelled


def test_log_events_derive_from_log_event() -> None:
    assert all(issubclass(kind, LogEvent) for kind in LOG_EVENTS.values())
    assert not any(issubclass(kind, LogEvent) for name, kind in EVENTS.items() if name not in LOG_EVENTS)


def test_terminal_events_are_the_six_endings() -> None:
    assert {
        "message.completed",
        "message.cancelled",
        "message.interrupted",
        "message.merged",
        "message.incomplete",
        "message.failed",
    } == TERMINAL_TYPES
    assert all(issubclass(LOG_EVENTS[name], TerminalEvent) for name in TERMINAL_TYPES)


def test_events_of_the_conversation_have_no_request() -> None:
    free = {name for name, kind in LOG_EVENTS.items() if not issubclass(kind, RequestEvent)}
    assert free == {"message.amended", "member.changed", "context.changed"}


def test_events_are_slotted() -> None:
    assert all(kind.__dictoffset__ == 0 for kind in EVENTS.values())


def test_fields_that_are_none_are_left_out_at_every_depth() -> None:
    message = Message(
        message_id="m", request_id="r", role="user", parts=[TextPart(text="")], status="complete", created_at=0
    )
    event = MessageCompleted(conversation_id="c", request_id="r", message=message, finish_reason="stop")
    assert to_wire(event) == {
        "type": "message.completed",
        "conversation_id": "c",
        "seq": 0,
        "ts": 0,
        "request_id": "r",
        "terminal": True,
        "message": {
            "message_id": "m",
            "request_id": "r",
            "role": "user",
            "parts": [{"kind": "text", "text": ""}],
            "status": "complete",
            "created_at": 0,
        },
        "finish_reason": "stop",
    }


def test_a_null_in_somebodys_json_stays() -> None:
    event = ToolCalled(
        conversation_id="c", request_id="r", call_id="k", where="client", arguments={"a": [None, {"b": None}]}
    )
    assert to_wire(event)["arguments"] == {"a": [None, {"b": None}]}


def test_from_is_written_without_its_underscore() -> None:
    wire = to_wire(SteerApplied(conversation_id="c", request_id="r", from_="q"))
    assert wire["from"] == "q"
    assert event_from_wire(wire) == SteerApplied(conversation_id="c", request_id="r", from_="q")


def test_type_comes_first() -> None:
    assert all(next(iter(kind.__dataclass_fields__)) == "type" for kind in LOG_EVENTS.values())


def test_unknown_fields_are_ignored() -> None:
    event = event_from_wire(
        {
            "type": "output_text.delta",
            "conversation_id": "c",
            "request_id": "r",
            "part": 0,
            "offset": 0,
            "text": "",
            "x": 1,
        }
    )
    assert event == OutputTextDelta(conversation_id="c", request_id="r", part=0, offset=0, text="")


@pytest.mark.parametrize(("seq", "kept"), [(5, 5), ("5", None), (True, None), (None, None)])
def test_unknown_types_keep_a_seq_that_is_one(seq: object, kept: int | None) -> None:
    event = event_from_wire({"type": "new.thing", "conversation_id": "c", "seq": seq})
    assert isinstance(event, UnknownEvent)
    assert (event.seq, event.conversation_id) == (kept, "c")


@pytest.mark.parametrize(
    "obj", [{}, {"type": 5}, {"type": "pong"}, {"type": "message.created", "conversation_id": "c"}]
)
def test_a_known_type_without_its_fields_is_the_peers_fault(obj: dict[str, object]) -> None:
    with pytest.raises(RemoteProtocolError):
        event_from_wire(obj)


def test_message_without_its_fields_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="message_id"):
        message_from_wire({"role": "user"})


def test_command_error_becomes_one_error() -> None:
    error = CommandError(
        ErrorCode.BUSY, "a turn is running", ref="1", request_id="r", retry_after_ms=50, details={"a": 1}
    )
    assert to_wire(ErrorMessage.of(error)) == {
        "type": "error",
        "ref": "1",
        "code": "busy",
        "message": "a turn is running",
        "retryable": True,
        "retry_after_ms": 50,
        "request_id": "r",
        "details": {"a": 1},
    }
    assert CommandError(ErrorCode.BUSY, "x", retryable=False).retryable is False
