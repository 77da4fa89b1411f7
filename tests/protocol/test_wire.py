"""One connection without a socket: frames and time in, commands and errors out."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from turnwire_protocol import (
    JSON,
    MSGPACK,
    Close,
    CloseCode,
    ConversationOpen,
    ErrorCode,
    ErrorMessage,
    Hello,
    LocalProtocolError,
    Ping,
    RequestCancel,
    RequestCreate,
    State,
    Wire,
    WireLimits,
)

LIMITS = WireLimits(
    frame_bytes=1000,
    input_chars=10,
    commands_per_s=2,
    errors_per_minute=3,
    hello_timeout_s=10,
    heartbeat_s=20,
    auth_grace_s=30,
)
HELLO = {"type": "hello", "token": "t"}
STATUS = {"type": "request.status", "id": "s", "request_id": "r"}
CANCEL = {"type": "request.cancel", "request_id": "r"}
PING = {"type": "ping"}
REFRESH = {"type": "auth.refresh", "token": "t"}
UNAUTHENTICATED = Close(4501, "unauthenticated")


def frame(*messages: Any) -> str:
    return orjson.dumps(messages[0] if len(messages) == 1 else messages).decode()


def send(wire: Wire, *messages: Any, now: float = 0) -> list[Any]:
    return list(wire.receive_frame(frame(*messages), now))


def opening(limits: WireLimits = LIMITS) -> Wire:
    return Wire(JSON, limits, 0)


def opened(limits: WireLimits = LIMITS, *, expires_at: float | None = None, now: float = 0) -> Wire:
    wire = Wire(JSON, limits, now)
    wire.receive_frame(frame(HELLO), now)
    wire.welcomed(expires_at, now)
    return wire


def codes(answers: list[Any]) -> list[str]:
    return [answer.code.value if isinstance(answer, ErrorMessage) else answer.type for answer in answers]


# --- opening ---------------------------------------------------------------------------------------------


def test_hello_opens() -> None:
    wire = opening()
    assert send(wire, HELLO) == [Hello(token="t")]
    assert wire.state is State.AUTHENTICATING
    wire.welcomed(None, 0)
    assert wire.state is State.OPEN
    assert wire.close is None


@pytest.mark.parametrize("message", [STATUS, PING, REFRESH, CANCEL, {"type": "no.such"}])
def test_anything_before_hello_ends_the_connection(message: dict[str, Any]) -> None:
    wire = opening()
    (answer,) = send(wire, message)
    assert answer.code is ErrorCode.UNAUTHENTICATED
    assert answer.ref == message.get("id")
    assert wire.close == UNAUTHENTICATED
    assert wire.state is State.CLOSING
    assert send(wire, HELLO) == []


def test_hello_behind_another_command_is_not_read() -> None:
    wire = opening()
    assert codes(send(wire, STATUS, HELLO)) == ["unauthenticated"]


def test_commands_may_follow_hello_at_once() -> None:
    wire = opening()
    assert codes(send(wire, HELLO, STATUS, PING)) == ["hello", "request.status", "ping"]


def test_a_hello_that_cannot_be_read_may_be_said_again() -> None:
    wire = opening()
    assert codes(send(wire, {"type": "hello", "token": 5})) == ["bad_command"]
    assert codes(send(wire, HELLO)) == ["hello"]


def test_garbage_before_hello_counts_as_errors() -> None:
    wire = opening()
    for _ in range(3):
        assert codes(wire.receive_frame("garbage", 0)) == ["bad_frame"]
        assert wire.close is None
    assert codes(wire.receive_frame("[5, 6]", 0)) == ["bad_frame"]
    assert wire.close == Close(4509, "too many errors")


def test_a_message_without_type_before_hello_is_only_bad() -> None:
    wire = opening()
    assert codes(send(wire, {"token": "t"})) == ["bad_command"]
    assert wire.close is None


def test_second_hello_is_a_protocol_violation() -> None:
    wire = opened()
    (answer,) = send(wire, {**HELLO, "id": "h"})
    assert (answer.code, answer.ref) == (ErrorCode.BAD_COMMAND, "h")
    assert wire.close == Close(4500, "protocol violation")


def test_two_hellos_in_one_frame_are_a_protocol_violation() -> None:
    wire = opening()
    assert codes(send(wire, HELLO, HELLO, STATUS)) == ["hello", "bad_command"]
    assert wire.close == Close(4500, "protocol violation")


def test_too_many_resume_entries_are_too_large() -> None:
    entries = [{"request_id": f"r{n}"} for n in range(65)]
    roomy = WireLimits()
    wire = opening(roomy)
    (answer,) = send(wire, {**HELLO, "resume": entries})
    assert answer.code is ErrorCode.TOO_LARGE
    assert answer.details == {"size": 65, "limit": 64}
    assert codes(send(wire, {**HELLO, "resume": entries[:64]})) == ["hello"]


def test_no_hello_in_time_closes() -> None:
    wire = opening()
    assert wire.next_timer() == 10
    wire.handle_timer(9.9)
    assert wire.close is None
    wire.handle_timer(10)
    assert wire.close == Close(4508, "no hello in time")
    assert wire.next_timer() is None


def test_garbage_does_not_extend_the_time_for_hello() -> None:
    wire = opening()
    wire.receive_frame("garbage", 9)
    assert wire.next_timer() == 10


# --- token expiry ----------------------------------------------------------------------------------------


def test_after_expiry_only_ping_and_refresh_are_heard() -> None:
    wire = opened(expires_at=5)
    assert codes(send(wire, STATUS, now=4.9)) == ["request.status"]
    answers = send(wire, STATUS, CANCEL, PING, REFRESH, now=5)
    assert codes(answers) == ["unauthenticated", "unauthenticated", "ping", "auth.refresh"]
    assert answers[0].ref == "s"
    assert wire.state is State.EXPIRED
    assert wire.close is None


def test_refresh_renews() -> None:
    wire = opened(expires_at=5)
    wire.handle_timer(5)
    assert wire.state is State.EXPIRED
    wire.refreshed(50, 6)
    assert wire.state is State.OPEN
    assert codes(send(wire, STATUS, now=7)) == ["request.status"]
    wire.handle_timer(36)
    assert wire.close is None


def test_grace_over_closes_with_token_expired() -> None:
    wire = opened(expires_at=5)
    assert wire.next_timer() == 5
    wire.handle_timer(5)
    assert wire.next_timer() == 35
    wire.handle_timer(34.9)
    assert wire.close is None
    wire.handle_timer(35)
    assert wire.close == Close(4401, "token expired")


def test_one_late_timer_sees_expiry_and_grace() -> None:
    wire = opened(expires_at=5)
    wire.handle_timer(40)
    assert wire.close == Close(4401, "token expired")


def test_a_token_that_never_expires_sets_no_timer() -> None:
    wire = opened()
    assert wire.next_timer() == 50
    wire.handle_timer(49)
    assert wire.state is State.OPEN


def test_welcome_for_a_token_that_has_expired_meanwhile() -> None:
    wire = opening()
    send(wire, HELLO)
    wire.welcomed(3, 4)
    assert wire.state is State.EXPIRED


# --- heartbeat -------------------------------------------------------------------------------------------


def test_silence_closes_after_two_and_a_half_heartbeats() -> None:
    wire = opened()
    wire.handle_timer(49.9)
    assert wire.close is None
    wire.handle_timer(50)
    assert wire.close == Close(4003, "no heartbeat")


@pytest.mark.parametrize("data", ['{"type":"ping"}', "garbage", "[]"])
def test_every_frame_counts_as_a_sign_of_life(data: str) -> None:
    wire = opened()
    wire.receive_frame(data, 30)
    assert wire.next_timer() == 80


def test_silence_counts_while_authenticating() -> None:
    wire = opening()
    send(wire, HELLO, now=3)
    assert wire.next_timer() == 53


# --- limits ----------------------------------------------------------------------------------------------


def test_too_many_commands_are_rate_limited() -> None:
    wire = opened()
    answers = send(wire, STATUS, STATUS, STATUS)
    assert codes(answers) == ["request.status", "request.status", "rate_limited"]
    assert answers[2].ref == "s"
    assert answers[2].request_id == "r"
    assert answers[2].retryable
    assert answers[2].retry_after_ms == 500
    assert codes(send(wire, STATUS, now=0.4)) == ["rate_limited"]
    assert codes(send(wire, STATUS, now=0.5)) == ["request.status"]


def test_the_wait_that_is_told_is_enough() -> None:
    wire = opened(WireLimits(commands_per_s=3))
    assert codes(send(wire, STATUS, STATUS, STATUS)) == ["request.status"] * 3
    (answer,) = send(wire, STATUS, now=0.123)
    assert codes(send(wire, STATUS, now=0.123 + answer.retry_after_ms / 1000)) == ["request.status"]


def test_cancel_ping_and_refresh_are_never_rate_limited() -> None:
    wire = opened()
    send(wire, STATUS, STATUS)
    answers = send(wire, *([CANCEL, PING, REFRESH] * 5))
    assert codes(answers) == ["request.cancel", "ping", "auth.refresh"] * 5
    assert wire.close is None


def test_unknown_commands_are_rate_limited_too() -> None:
    wire = opened()
    assert codes(send(wire, *([{"type": "x"}] * 3))) == ["bad_command", "bad_command", "rate_limited"]


@pytest.mark.parametrize(
    ("text", "fits"),
    [("x" * 10, True), ("x" * 11, False), ("😀" * 5, True), ("😀" * 5 + "x", False), ("日" * 10, True)],
)
def test_input_is_measured_in_utf16_units(text: str, fits: bool) -> None:
    create = {"type": "request.create", "id": "c", "request_id": "r", "conversation_id": "k"}
    for given in (text, [{"kind": "text", "text": text[:3]}, {"kind": "text", "text": text[3:]}]):
        (answer,) = send(opened(), {**create, "input": given})
        if fits:
            assert isinstance(answer, RequestCreate)
        else:
            assert (answer.code, answer.ref, answer.request_id) == (ErrorCode.TOO_LARGE, "c", "r")
            assert not answer.retryable


TOOL = {"name": "t", "description": "x" * 60, "parameters": {}}


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ({"type": "request.create", "conversation_id": "k", "input": "x", "context": {"a": "x" * 99}}, "context"),
        ({"type": "request.create", "conversation_id": "k", "input": "x", "tools": [TOOL]}, "tools"),
        ({"type": "request.regenerate", "message_id": "m", "context": {"a": "x" * 99}}, "context"),
        ({"type": "tool.approve", "call_id": "c", "arguments": {"a": "x" * 99}}, "arguments"),
        ({"type": "presence.set", "conversation_id": "k", "state": "x" * 99}, "state"),
        ({"type": "context.set", "conversation_id": "k", "key": "a", "version": 1, "value": ["x" * 99]}, "value"),
    ],
)
def test_somebodys_own_json_is_measured(command: dict[str, Any], what: str) -> None:
    message = {**command, "request_id": "r"}
    limits = WireLimits(context_bytes=100, tools_bytes=100, presence_bytes=100)
    (answer,) = send(opened(limits), message)
    assert (answer.code, answer.message) == (ErrorCode.TOO_LARGE, f"{what}: at most 100")
    assert codes(send(opened(WireLimits(context_bytes=200, tools_bytes=200, presence_bytes=200)), message)) == [
        command["type"]
    ]


@pytest.mark.parametrize("kind", ["request.create", "conversation.open"])
def test_metadata_is_measured_as_json(kind: str) -> None:
    limits = WireLimits(metadata_bytes=20)
    command = {"type": kind, "conversation_id": "k"} | ({"request_id": "r", "input": "x"} if "create" in kind else {})
    assert codes(send(opened(limits), {**command, "metadata": {"a": "x" * 12}})) == [kind]
    (answer,) = send(opened(limits), {**command, "metadata": {"a": "日" * 6}})
    assert answer.code is ErrorCode.TOO_LARGE
    assert answer.message == "metadata: at most 20"
    assert answer.details == {"size": 26, "limit": 20}


def test_oversize_frame_closes_with_websockets_own_code() -> None:
    wire = opened()
    assert wire.receive_frame(frame({"type": "ping", "x": "y" * 1000}), 0) == []
    assert wire.close == Close(1009, "message too big")


def test_too_many_errors_close_and_the_rest_is_not_read() -> None:
    wire = opened(WireLimits(errors_per_minute=3))
    answers = wire.receive_frame(frame(1, 2, 3, PING, 4, PING), 0)
    assert codes(answers) == ["bad_frame", "bad_frame", "bad_frame", "ping", "bad_frame"]
    assert wire.close == Close(4509, "too many errors")


def test_errors_of_the_minute_before_are_forgotten() -> None:
    wire = opened(WireLimits(errors_per_minute=3, heartbeat_s=1000))
    for now in (0, 1, 2, 60, 61, 62):
        wire.receive_frame("garbage", now)
        assert wire.close is None
    wire.receive_frame("garbage", 62.5)
    assert wire.close is not None


def test_errors_made_above_count_as_well() -> None:
    wire = opened()
    for _ in range(3):
        wire.count_error(0)
    assert wire.close is None
    wire.count_error(1)
    assert wire.close == Close(4509, "too many errors")


# --- frames ----------------------------------------------------------------------------------------------


def test_a_bad_message_costs_its_neighbours_nothing() -> None:
    wire = opened()
    answers = wire.receive_frame('[{"type":"ping","id":"1"},7,{"type":"ping","id":"2"}]', 0)
    assert answers == [
        Ping(id="1"),
        ErrorMessage(code=ErrorCode.BAD_FRAME, message="expected an object", retryable=False),
        Ping(id="2"),
    ]


def test_each_message_of_a_frame_counts_by_itself() -> None:
    wire = opened()
    assert codes(send(wire, STATUS, STATUS, STATUS, STATUS)) == ["request.status"] * 2 + ["rate_limited"] * 2


def test_an_empty_array_is_nothing() -> None:
    assert opened().receive_frame("[]", 0) == []


@pytest.mark.parametrize(("codec", "data"), [(JSON, b"{}"), (MSGPACK, "{}")])
def test_frame_of_the_wrong_kind_is_bad(codec: Any, data: Any) -> None:
    wire = Wire(codec, LIMITS, 0)
    assert codes(wire.receive_frame(data, 0)) == ["bad_frame"]
    assert wire.close is None


def test_msgpack_connection_speaks_the_same() -> None:
    wire = Wire(MSGPACK, LIMITS, 0)
    assert codes(wire.receive_frame(MSGPACK.encode([HELLO, STATUS]), 0)) == ["hello", "request.status"]


# --- closing ---------------------------------------------------------------------------------------------


def test_the_first_close_stands() -> None:
    wire = opened()
    wire.close_with(CloseCode.GOING_AWAY, "drained")
    wire.close_with(CloseCode.FORBIDDEN)
    assert wire.close == Close(4000, "drained")


def test_nothing_is_read_while_closing() -> None:
    wire = opened()
    wire.close_with(CloseCode.GOING_AWAY)
    assert send(wire, PING, STATUS) == []
    assert wire.next_timer() is None
    wire.handle_timer(1000)
    assert wire.close == Close(4000, "going away")


@pytest.mark.parametrize("late", ["welcomed", "refreshed"])
def test_an_answer_that_comes_too_late_changes_nothing(late: str) -> None:
    wire = opening()
    send(wire, HELLO)
    wire.close_with(CloseCode.NO_HEARTBEAT)
    getattr(wire, late)(5, 1)
    assert wire.state is State.CLOSING
    wire.closed()
    getattr(wire, late)(5, 1)
    assert wire.state is State.CLOSED
    wire.close_with(CloseCode.GOING_AWAY)
    assert wire.state is State.CLOSED


def test_welcome_without_hello_is_our_own_fault() -> None:
    wire = opening()
    with pytest.raises(LocalProtocolError):
        wire.welcomed(None, 0)
    assert wire.state is State.OPENING


def test_refresh_answer_keeps_an_open_connection_open() -> None:
    wire = opened(expires_at=10)
    wire.refreshed(20, 5)
    assert wire.next_timer() == 20


def test_commands_are_typed() -> None:
    wire = opened()
    commands = send(wire, {"type": "conversation.open", "conversation_id": "c"}, CANCEL)
    assert commands == [ConversationOpen(conversation_id="c"), RequestCancel(request_id="r")]
