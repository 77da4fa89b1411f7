"""The wire examples that every implementation shares: decoded, understood and encoded again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.protocol.vectors import cases, load

from turnwire_protocol import (
    COMMANDS,
    EVENTS,
    JSON,
    MSGPACK,
    CloseCode,
    Codec,
    CommandError,
    ConversationFold,
    ErrorCode,
    FoldError,
    FrameError,
    OffsetMismatch,
    SequenceGap,
    UnknownEvent,
    UnknownRequest,
    command_to_wire,
    event_from_wire,
    parse_command,
    to_wire,
)

CODECS = {"json": JSON, "msgpack": MSGPACK}
FOLD_ERRORS = {
    "offset_mismatch": OffsetMismatch,
    "sequence_gap": SequenceGap,
    "unknown_request": UnknownRequest,
}


def frame_of(codec: Codec, message: dict[str, Any]) -> str | bytes:
    data = codec.encode(message)
    return data if codec.binary else data.decode()


@pytest.mark.parametrize("name", ["commands", "events"])
def test_names_are_unique(name: str) -> None:
    names = [case["name"] for key in load(name) for case in load(name)[key]]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("case", cases("commands", "valid") + cases("events", "valid"))
def test_message_survives_both_codecs(case: dict[str, Any]) -> None:
    message = case["message"]
    for codec in CODECS.values():
        assert codec.decode(frame_of(codec, message)) == [message]
    assert MSGPACK.decode(bytes.fromhex(case["msgpack"])) == [message], MSGPACK.encode(message).hex()


@pytest.mark.parametrize("case", cases("commands", "valid"))
def test_command_is_understood_and_written_again(case: dict[str, Any]) -> None:
    message = case["message"]
    command = parse_command(message)
    known = {name: message[name] for name in message if name in type(command).model_fields}
    assert command_to_wire(command) == known
    assert parse_command(command_to_wire(command)) == command


@pytest.mark.parametrize("case", cases("commands", "invalid"))
def test_bad_command_is_answered_with_what_was_expected(case: dict[str, Any]) -> None:
    with pytest.raises(CommandError) as caught:
        parse_command(case["message"])
    error = caught.value
    said = {"code": error.code.value, "message": error.message, "ref": error.ref, "request_id": error.request_id}
    assert {name: value for name, value in said.items() if value is not None} == case["error"]
    assert not error.retryable


@pytest.mark.parametrize("case", cases("events", "valid"))
def test_event_is_understood_and_written_again(case: dict[str, Any]) -> None:
    message = case["message"]
    event = event_from_wire(message)
    assert not isinstance(event, UnknownEvent)
    wire = to_wire(event)
    # Fields with a default may be left out by a sender; what was sent must be there unchanged.
    assert wire | message == wire
    assert event_from_wire(wire) == event
    for codec in CODECS.values():
        assert codec.decode(frame_of(codec, wire)) == [wire]


def test_every_command_has_a_vector() -> None:
    assert {case["message"]["type"] for case in load("commands")["valid"]} == set(COMMANDS)


def test_every_event_has_a_vector() -> None:
    assert {case["message"]["type"] for case in load("events")["valid"]} == set(EVENTS)


@pytest.mark.parametrize("case", cases("frames", "cases"))
def test_frame_is_taken_apart(case: dict[str, Any]) -> None:
    data = case["text"] if "text" in case else bytes.fromhex(case["hex"])
    found = [
        {"error": {"code": item.code.value, "message": item.message} | ({"ref": item.ref} if item.ref else {})}
        if isinstance(item, FrameError)
        else {"message": item}
        for item in CODECS[case["codec"]].decode(data)
    ]
    assert found == case["items"]


def test_codes_are_those_of_the_vectors() -> None:
    codes = load("codes")
    assert [{"code": c.value, "retryable": c.retryable} for c in ErrorCode] == codes["errors"]
    closes = [{"code": c.value, "reason": c.reason, "may_return": c.may_return} for c in CloseCode]
    assert closes == codes["close"]


def fold_case(case: dict[str, Any]) -> ConversationFold:
    fold = ConversationFold(load("fold")["epoch"])
    if "snapshot" in case:
        fold = ConversationFold.from_snapshot(case["snapshot"])
    for frame in case["frames"]:
        fold.apply_frame([event_from_wire(message) for message in frame])
    return fold


@pytest.mark.parametrize("case", [c for c in cases("fold", "cases") if "view" in c.values[0]])  # type: ignore[operator]
def test_fold_gives_the_view(case: dict[str, Any]) -> None:
    view = fold_case(case).view()
    assert view == case["view"]
    json.dumps(view)  # in wire form throughout


@pytest.mark.parametrize("case", [c for c in cases("fold", "cases") if "error" in c.values[0]])  # type: ignore[operator]
def test_fold_refuses_what_does_not_fit(case: dict[str, Any]) -> None:
    good = {**case, "frames": case["frames"][:-1]}
    fold = fold_case(good)
    before = fold.seq
    with pytest.raises(FOLD_ERRORS[case["error"]]) as caught:
        fold.apply_frame([event_from_wire(message) for message in case["frames"][-1]])
    assert isinstance(caught.value, FoldError)
    assert fold.seq == before


@pytest.mark.parametrize("case", [c for c in cases("fold", "cases") if "view" in c.values[0]])  # type: ignore[operator]
def test_fold_goes_on_from_its_own_view(case: dict[str, Any]) -> None:
    """Whoever begins with the view as a snapshot knows the same."""
    view = fold_case(case).view()
    snapshot = {"type": "conversation.snapshot", "conversation_id": "conv-1", **view}
    assert ConversationFold.from_snapshot(snapshot).view() == view
