"""Bad frames cost their sender an error each, and nobody an exception."""

from __future__ import annotations

import json
import random
from typing import Any

import msgpack
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turnwire_protocol import (
    JSON,
    MSGPACK,
    CommandError,
    ErrorMessage,
    FrameError,
    State,
    Wire,
    WireLimits,
    parse_command,
)

PATIENT = WireLimits(errors_per_minute=10**6, commands_per_s=10**6)
GOOD = [
    {"type": "hello", "id": "1", "token": "t", "resume": [{"request_id": "r", "since": {"epoch": "e", "seq": 3}}]},
    {
        "type": "request.create",
        "id": "2",
        "request_id": "r",
        "conversation_id": "c",
        "input": [{"kind": "text", "text": "😀"}],
    },
    {"type": "conversation.history", "conversation_id": "c", "limit": 5, "leaf": "m"},
]
JUNK: list[Any] = [None, True, -1, 2**53, 1.5, "", "x" * 100, [], {}, [[]], {"a": {}}, "\x00", 10**30]


def opened(codec: Any) -> Wire:
    wire = Wire(codec, PATIENT, 0)
    hello: Any = codec.encode({"type": "hello"})
    wire.receive_frame(hello if codec.binary else hello.decode(), 0)
    wire.welcomed(None, 0)
    return wire


def bent(rng: random.Random, message: Any) -> Any:
    """`message` with one value somewhere in it replaced by junk, dropped or put under another name."""
    copy = orjson.loads(orjson.dumps(message))
    at = copy
    while True:
        key = rng.choice(list(at) if isinstance(at, dict) else range(len(at)))
        if isinstance(at[key], dict | list) and at[key] and rng.random() < 0.6:
            at = at[key]
            continue
        match rng.randrange(3):
            case 0:
                at[key] = rng.choice(JUNK)
            case 1:
                del at[key]
            case _ if isinstance(at, dict):
                at[rng.choice(["type", "id", "request_id", "é"])] = at.pop(key)
        return copy


def test_a_thousand_bent_messages_are_answered_one_by_one() -> None:
    rng = random.Random(7)
    wire = opened(JSON)
    answers = 0
    for _ in range(1000):
        message = bent(rng, rng.choice(GOOD[1:]))
        answers += len(wire.receive_frame(json.dumps(message), 0))
    assert answers == 1000
    assert wire.state is State.OPEN


def test_a_thousand_broken_frames_are_answered_one_by_one() -> None:
    rng = random.Random(8)
    json_wire, msgpack_wire = opened(JSON), opened(MSGPACK)
    for _ in range(500):
        text = orjson.dumps(rng.choice(GOOD)).decode()
        (answer,) = json_wire.receive_frame(text[: rng.randrange(len(text))], 0)
        assert isinstance(answer, ErrorMessage)
        data = msgpack.packb(rng.choice(GOOD))
        (answer,) = msgpack_wire.receive_frame(data[: rng.randrange(len(data))], 0)
        assert isinstance(answer, ErrorMessage)
    assert json_wire.state is msgpack_wire.state is State.OPEN


@settings(max_examples=300, deadline=None)
@given(st.text() | st.binary())
def test_any_frame_gives_messages_or_errors(data: str | bytes) -> None:
    for codec in (JSON, MSGPACK):
        for item in codec.decode(data):
            assert isinstance(item, dict | FrameError)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["type", "id", "request_id", "input", "since"]), st.from_type(object) | st.text())
)
def test_any_object_is_a_command_or_a_command_error(obj: dict[str, Any]) -> None:
    obj["type"] = "request.create"
    with pytest.raises(CommandError) as caught:
        parse_command(obj)
    assert caught.value.message


def test_a_lone_surrogate_in_a_decoded_text_frame_is_bad() -> None:
    assert isinstance(JSON.decode('{"type":"\ud83d"}')[0], FrameError)


@pytest.mark.parametrize("depth", [100, 1000, 100_000])
def test_depth_is_refused_whatever_the_parser_can_do(depth: int) -> None:
    for text in (
        "[" * depth + "]" * depth,
        '{"a":' * depth + "1" + "}" * depth,
        '[1e99,{"a":' + "[" * depth + "]" * depth + "}]",
    ):
        items = JSON.decode(text)
        assert items
        assert any(isinstance(item, FrameError) for item in items)
    for data in (b"\x91" * depth + b"\xc0", b"\x81\xa1a" * depth + b"\xc0"):
        assert all(isinstance(item, FrameError) for item in MSGPACK.decode(data))


def test_secrets_are_not_repeated_in_errors() -> None:
    for message in ({"type": "auth.refresh", "token": ["s3cret"]}, {"type": "hello", "token": "s3cret" * 9999}):
        with pytest.raises(CommandError) as caught:
            parse_command(message)
        assert "s3cret" not in str(caught.value)


def test_an_endless_type_is_not_repeated_in_the_error() -> None:
    with pytest.raises(CommandError) as caught:
        parse_command({"type": "x" * 100_000})
    assert len(caught.value.message) < 200
