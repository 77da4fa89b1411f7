"""Bad input costs its sender only (DESIGN, guarantee 10)."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from tests.support.client import Client, connected
from tests.support.provider import ControlledProvider, Gate, Script
from tests.support.stack import running_stack
from websockets.exceptions import ConnectionClosed

from turnwire_protocol import COMMANDS, JSON, MSGPACK

FRAMES = 1_000
KNOWN = {"bad_frame", "bad_command", "too_large", "not_found", "unauthenticated"}
WRONG: list[Any] = [None, True, -1, 0, 2**53, 1.5, "", "x" * 5_000, "\u0000", [], [[]], {}, {"a": 1}, "../../etc"]


def _nested(rng: random.Random, codec: Any) -> bytes | str:
    depth = rng.choice([33, 200, 1_000, 20_000])
    if codec.binary:
        return b"\x91" * depth + b"\xc0"
    return "[" * depth + "]" * depth if rng.random() < 0.5 else '{"a":' * depth + "1" + "}" * depth


def _wrong_types(rng: random.Random, codec: Any) -> bytes | str:
    """A command whose fields hold anything but what belongs there."""
    kind = rng.choice([*COMMANDS, "no.such.command", 7, None])
    fields = (
        "request_id",
        "conversation_id",
        "input",
        "since",
        "token",
        "resume",
        "parent_id",
        "limit",
        "user_id",
    )
    message = {"type": kind} | {name: rng.choice(WRONG) for name in rng.sample(fields, rng.randrange(len(fields)))}
    if kind == "hello":
        message["type"] = "hell"  # a second hello ends the connection: see the tests of opening
    return _pack(message, codec)


def _pack(message: Any, codec: Any) -> bytes | str:
    if codec.binary:
        return bytes(msgpack.packb(message))
    return json.dumps(message)


def _cut(rng: random.Random, codec: Any) -> bytes | str:
    whole = _pack({"type": "request.create", "request_id": "r", "conversation_id": "c", "input": "hello"}, codec)
    return whole[: rng.randrange(1, len(whole))]


def _garbage(rng: random.Random, codec: Any) -> bytes | str:
    noise = rng.randbytes(rng.randrange(1, 300))
    return noise if codec.binary else noise.decode("latin-1")


def _wrong_kind(rng: random.Random, codec: Any) -> bytes | str:
    return "text" if codec.binary else rng.randbytes(20)


def _not_objects(rng: random.Random, codec: Any) -> bytes | str:
    return _pack([rng.choice(WRONG) for _ in range(rng.randrange(1, 20))], codec)


def _large(rng: random.Random, codec: Any) -> bytes | str:
    """Within the frame, beyond the input."""
    return _pack({"type": "request.create", "request_id": "r", "conversation_id": "c", "input": "x" * 20_001}, codec)


def _numbers(rng: random.Random, codec: Any) -> bytes | str:
    if codec.binary:
        return bytes(
            msgpack.packb({"type": "ping", "n": rng.choice([float("nan"), 2**63, b"\xff", msgpack.ExtType(5, b"")])})
        )
    number = rng.choice(["1" * 5_000, "-" + "9" * 30, "1e400", "NaN", "0x1", "1." + "0" * 9_000, '"\\ud800"'])
    return '{"type":"ping","n":' + number + "}"


KINDS: list[Callable[[random.Random, Any], bytes | str]] = [
    _nested,
    _wrong_types,
    _cut,
    _garbage,
    _wrong_kind,
    _not_objects,
    _large,
    _numbers,
]


async def _watch(client: Client, provider: ControlledProvider, gates: list[Gate]) -> None:
    """The bystander: its stream goes on, chunk by chunk, while the other one sends."""
    for number, gate in enumerate(gates):
        gate.open()
        await client.until(lambda number=number: f"w{number} " in client.text("r-good"))  # type: ignore[misc]
        await asyncio.sleep(0)
    await client.terminal("r-good")


@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=["json", "msgpack"])
async def test_a_thousand_malformed_frames_cost_their_sender_only(codec: Any) -> None:
    rng = random.Random(7)
    gates = [Gate() for _ in range(30)]
    limits = {"errors_per_minute": 100_000, "input_chars": 20_000}
    async with (
        running_stack(limits=limits) as (provider, app),
        connected(app.url) as good,
        connected(app.url, codec=codec.name) as bad,
    ):
        provider.script(Script.text(*(step for n, gate in enumerate(gates) for step in (gate, f"w{n} "))))
        await good.create("r-good", "c-good", "hello")
        watching = asyncio.create_task(_watch(good, provider, gates))
        for number in range(FRAMES):
            await bad.socket.send(KINDS[number % len(KINDS)](rng, codec))
            if number % 50 == 49:
                await bad.call({"type": "ping"})  # still heard: nothing of this ends a connection
        await watching
        assert good.text("r-good") == "".join(f"w{n} " for n in range(30))
        assert good.events("error") == []
        codes = {message["code"] for message in bad.events("error")}
        assert {"bad_frame", "bad_command", "too_large"} <= codes <= KNOWN, codes
        assert len(bad.events("error")) >= FRAMES * 0.9
        assert len(json.dumps(bad.messages)) < 2_000_000  # nothing that was sent is sent back
        await bad.create("r-after", "c-after", "hello")
        assert (await bad.terminal("r-after"))["type"] == "message.completed"


@pytest.mark.parametrize(
    ("frame", "code"),
    [("x" * 70_000, 1009), (b"\xff\xfe broken", 1007)],
    ids=["oversize", "broken-utf8"],
)
async def test_what_websocket_itself_forbids_ends_that_connection_alone(frame: Any, code: int) -> None:
    gate = Gate()
    limits = {"frame_bytes": 65_536, "input_chars": 20_000}
    async with running_stack(limits=limits) as (provider, app), connected(app.url) as good:
        provider.script(Script.text("one ", gate, "two"))
        await good.create("r1", "c1", "hello")
        for _ in range(10):
            async with connected(app.url) as bad:
                await bad.socket.send(frame, text=True)
                with pytest.raises(ConnectionClosed) as closed:
                    await bad.until(lambda: False)
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == code
        gate.open()
        assert (await good.terminal("r1"))["message"]["parts"] == [{"kind": "text", "text": "one two"}]
        assert len(app.front.sessions) == 1


async def test_a_frame_of_the_wrong_kind_is_a_bad_frame_and_the_connection_lives() -> None:
    async with running_stack() as (_provider, app):
        for codec, frame in (("turnwire.v1.json", b"{}"), ("turnwire.v1.msgpack", "{}")):
            async with connected(app.url, codec=codec) as client:
                await client.socket.send(frame)
                assert (await client.event("error"))["code"] == "bad_frame"
                assert (await client.call({"type": "ping"}))["type"] == "pong"


async def test_the_good_messages_of_a_frame_are_carried_out_beside_the_bad_ones() -> None:
    async with running_stack() as (_provider, app), connected(app.url) as client:
        await client.send_raw('[{"type":"ping","id":"a"},7,{"type":"nonsense","id":"b"},{"type":"ping","id":"c"}]')
        for mark in ("a", "c"):
            assert (await client.answer(mark))["type"] == "pong"
        refs = [(message["code"], message.get("ref")) for message in client.events("error")]
        assert refs == [("bad_frame", None), ("bad_command", "b")]
        await client.send_raw("[]")
        assert (await client.call({"type": "ping"}))["type"] == "pong"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"on_busy": "maybe"}, "on_busy"),
        ({"on_busy": "parallel"}, "parent_id"),
        ({"target": "r0"}, "target"),
        ({"tools": [{"name": "t"}]}, "tools"),
        ({"segments": {"unit": "word"}}, "segments"),
        ({"context": []}, "context"),
        ({"route": "nowhere"}, "route"),
        ({"input": ""}, "input"),
        ({"input": [{"kind": "image", "text": "x"}]}, "input"),
        ({"request_id": "has space"}, "request_id"),
        ({"conversation_id": "x" * 65}, "conversation_id"),
        ({"since": {"epoch": "e"}}, "since"),
        ({"parent_id": 7}, "parent_id"),
    ],
)
async def test_a_wrong_request_is_refused_by_the_name_of_the_field(fields: dict[str, Any], said: str) -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        command = {"type": "request.create", "request_id": "r1", "conversation_id": "c1", "input": "hello", **fields}
        await client.send({**command, "id": "x"})
        error = await client.event("error")
        assert (error["code"], error["ref"], error["retryable"]) == ("bad_command", "x", False)
        assert said in error["message"]
        assert provider.requests == []
