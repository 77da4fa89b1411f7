"""The OpenAI-compatible provider against a real HTTP server: answers, and every way in which they fail."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack
from email.utils import formatdate
from typing import Any

import pytest
from tests.server.gateway.asking import HELLO, ask, failure_of, provider_at
from tests.support.provider import (
    Do,
    Gate,
    Script,
    refused_base_url,
    running_provider,
    tool_call_steps,
    unconnectable_base_url,
    utf16_units,
)

from turnwire_server.gateway.errors import Blame, ProviderErrorKind
from turnwire_server.gateway.provider import (
    Finish,
    ModelRequest,
    Text,
    ToolCallArguments,
    ToolCallBegin,
    Usage,
)
from turnwire_server.gateway.providers import provider_for

KEY = "sk-secret-1234567890"
KIND = ProviderErrorKind


# Answers.


async def test_an_answer_is_streamed_with_finish_and_usage() -> None:
    async with running_provider() as server, provider_at(server.base_url) as provider:
        server.script(Script.text("Hel", "lo", usage=(7, 2, 3)))
        answer = await ask(provider)
    assert answer.chunks == [Text("Hel"), Text("lo"), Finish("stop"), Usage(7, 2, 3)]


async def test_chunks_arrive_while_the_model_still_writes() -> None:
    gate = Gate()
    async with running_provider() as server, provider_at(server.base_url) as provider, asyncio.timeout(60):
        server.script(Script.text("first", gate, "second"))
        async with provider.stream(HELLO) as stream:
            assert await anext(stream) == [Text("first")]
            gate.open()
            assert Text("second") in await anext(stream)


async def test_a_hundred_answers_at_once_leave_room_for_more() -> None:
    gate, count = Gate(), 130
    async with running_provider() as server, provider_at(server.base_url) as provider, asyncio.timeout(60):
        server.script(*[Script.text("first", gate, "second")] * count)
        async with AsyncExitStack() as stack:
            streams = [await stack.enter_async_context(provider.stream(HELLO)) for _ in range(count)]
            assert [await anext(stream) for stream in streams] == [[Text("first")]] * count
            gate.open()


async def test_the_request_carries_what_was_asked() -> None:
    tools = [{"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}]
    request = ModelRequest(HELLO.messages, tools=tools, max_output_tokens=99, user="user-1")
    async with running_provider() as server, provider_at(server.base_url, api_key=KEY) as provider:
        await ask(provider, request)
        seen = await server.request_received()
    assert seen.body == {
        "model": "test-model",
        "messages": HELLO.messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        "tools": tools,
        "max_tokens": 99,
        "user": "user-1",
    }
    assert seen.headers["authorization"] == f"Bearer {KEY}"


async def test_without_a_key_no_key_from_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-secret")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"Authorization: Bearer {KEY}")
    async with running_provider() as server, provider_at(server.base_url) as provider:
        await ask(provider)
        seen = await server.request_received()
    assert not {"authorization", "openai-organization"} & seen.headers.keys()


async def test_the_key_comes_from_the_named_variable() -> None:
    async with running_provider() as server:
        async with provider_at(server.base_url, api_key_env="SOME_KEY") as provider:
            settings = provider.deployment
        chosen = provider_for(settings, {"SOME_KEY": KEY, "OPENAI_API_KEY": "another"})
        try:
            await ask(chosen)
        finally:
            await chosen.aclose()
        assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls", "content_filter"])
async def test_the_finish_reason_is_passed_on(reason: str) -> None:
    async with running_provider() as server, provider_at(server.base_url) as provider:
        server.script(Script.text("a", finish=reason))
        assert (await ask(provider)).finish == reason


async def test_reasoning_comes_apart_from_the_answer() -> None:
    async with running_provider() as server, provider_at(server.base_url) as provider:
        server.script(Script.reasoning("let ", "me see", answer=["42"]))
        answer = await ask(provider)
    assert (answer.reasoning, answer.text) == ("let me see", "42")


async def test_tool_calls_are_read() -> None:
    steps = [*tool_call_steps("a", '{"x"', ":1}"), *tool_call_steps("b", "{}", call_id="call_2", index=1)]
    async with running_provider() as server, provider_at(server.base_url) as provider:
        server.script(Script(steps, finish="tool_calls", usage=None))
        answer = await ask(provider)
    assert answer.chunks == [
        ToolCallBegin(0, "call_1", "a"),
        ToolCallArguments(0, '{"x"'),
        ToolCallArguments(0, ":1}"),
        ToolCallBegin(1, "call_2", "b"),
        ToolCallArguments(1, "{}"),
        Finish("tool_calls"),
    ]


async def test_text_is_whole_when_every_utf16_unit_comes_alone() -> None:
    text = "Grüße, 漢字, 😀 👨‍👩‍👧 𝔘 end"
    async with running_provider() as server, provider_at(server.base_url) as provider:
        server.script(Script.text(*utf16_units(text)))
        units = (await ask(provider)).text
    assert units.encode("utf-16", "surrogatepass").decode("utf-16") == text


async def test_bytes_cut_inside_a_character_are_put_together() -> None:
    event = b'data: {"choices":[{"index":0,"delta":{"content":"' + "漢😀".encode() + b'"}}]}\r\n\r\n'
    pieces: list[Any] = [event[n : n + 1] for n in range(len(event))]
    async with running_provider() as server, provider_at(server.base_url) as provider:
        server.script(Script.text(*pieces))
        assert (await ask(provider)).text == "漢😀"


async def test_a_provider_that_says_zero_is_believed_and_one_that_says_nothing_is_not_given_words() -> None:
    async with running_provider() as server, provider_at(server.base_url) as provider:
        server.script(Script.text("a", usage=(0, 0)), Script.text("a", usage=None))
        assert (await ask(provider)).usage == Usage(0, 0, 0)
        assert (await ask(provider)).usage is None


async def test_an_answer_that_is_not_streamed_is_taken_whole() -> None:
    body = json.dumps({"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}).encode()
    async with running_provider() as server, provider_at(server.base_url) as provider:
        server.script(Script(body=body, headers={"content-type": "application/json"}))
        answer = await ask(provider)
    assert answer.chunks == [Text("Hi"), Finish("stop")]


async def test_a_stream_without_done_ends_well_after_its_finish_reason() -> None:
    async with running_provider() as server, provider_at(server.base_url) as provider:
        server.script(Script.text("a", done=False))
        answer = await ask(provider)
    assert (answer.text, answer.finish, answer.error) == ("a", "stop", None)


@pytest.mark.parametrize("after", [Do.STALL, Do.CUT, b"data: {broken\n\n"])
async def test_what_goes_wrong_after_the_finish_reason_spoils_nothing(after: Any) -> None:
    finish = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    async with running_provider() as server, provider_at(server.base_url, idle_timeout_s=0.2) as provider:
        server.script(Script.text("a", finish, after))
        answer = await ask(provider)
    assert (answer.text, answer.finish, answer.error) == ("a", "stop", None)


async def test_a_connection_is_used_again_after_a_whole_answer() -> None:
    async with running_provider() as server, provider_at(server.base_url, max_concurrency=1) as provider:
        for _ in range(3):
            assert (await ask(provider)).error is None
        ports = {request.headers["x-client-port"] for request in server.requests}
    assert len(ports) == 1


# Failures: status codes.


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (400, KIND.ERROR, False),
        (401, KIND.AUTH, False),
        (403, KIND.AUTH, False),
        (404, KIND.ERROR, False),
        (408, KIND.TIMEOUT, True),
        (422, KIND.ERROR, False),
        (429, KIND.RATE_LIMITED, True),
        (500, KIND.ERROR, True),
        (502, KIND.ERROR, True),
        (503, KIND.ERROR, True),
    ],
)
async def test_a_status_becomes_one_of_the_kinds(status: int, kind: ProviderErrorKind, retryable: bool) -> None:
    async with running_provider() as server, provider_at(server.base_url) as provider:
        server.script(Script.http_error(status, "the provider's own words"))
        error = await failure_of(provider)
        assert len(server.requests) == 1, "nothing underneath may retry"
    assert (error.kind, error.retryable) == (kind, retryable)
    assert "the provider's own words" in error.message
    assert f"HTTP {status}" in error.message


async def test_an_error_never_shows_the_key_and_is_never_long() -> None:
    said = f"Incorrect API key provided: {KEY}. Header was Bearer {KEY}. " + "x" * 2000
    key: dict[str, Any] = {"api_key": KEY, "api_key_env": "MY_KEY"}
    async with running_provider() as server, provider_at(server.base_url, **key) as provider:
        server.script(Script.http_error(401, said))
        error = await failure_of(provider)
    assert KEY not in error.message
    assert "MY_KEY" in error.message
    assert len(error.message) < 500


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"retry-after": "7"}, 7.0), ({"retry-after-ms": "1500"}, 1.5), ({"retry-after": "soon"}, None), ({}, None)],
)
async def test_a_rate_limit_says_how_long_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    async with running_provider() as server, provider_at(server.base_url) as provider:
        server.script(Script.http_error(429, "slow down", headers=headers))
        assert (await failure_of(provider)).retry_after_s == seconds


async def test_a_retry_date_becomes_seconds() -> None:
    async with running_provider() as server, provider_at(server.base_url) as provider:
        when = formatdate(time.time() + 60, usegmt=True)
        server.script(Script.http_error(429, "slow down", headers={"retry-after": when}))
        after = (await failure_of(provider)).retry_after_s
    assert after is not None
    assert 50 < after <= 60


async def test_an_exhausted_account_is_not_worth_a_retry() -> None:
    body = json.dumps({"error": {"message": "no money", "code": "insufficient_quota"}}).encode()
    async with running_provider() as server, provider_at(server.base_url) as provider:
        server.script(Script(status=429, body=body, headers={"content-type": "application/json"}))
        error = await failure_of(provider)
    assert (error.kind, error.retryable) == (KIND.RATE_LIMITED, False)


@pytest.mark.parametrize(
    ("status", "error", "blame"),
    [
        (
            400,
            {"message": "This model's maximum context length is 8192 tokens.", "code": "context_length_exceeded"},
            "C",
        ),
        (400, {"message": "prompt is too long: 210000 tokens > 200000 maximum", "type": "invalid_request_error"}, "C"),
        (413, {"message": "Request entity too large"}, "C"),
        (400, {"message": "filtered", "code": "content_filter", "innererror": {"code": "x"}}, "R"),
        (400, {"message": "no", "innererror": {"code": "ResponsibleAIPolicyViolation"}}, "R"),
        (400, {"message": "Unknown parameter: 'x'.", "code": "unknown_parameter"}, "Q"),
        (422, {"message": "temperature: must be at most 2"}, "Q"),
        (404, {"message": "The model 'm' does not exist", "code": "model_not_found"}, "D"),
        (500, {"message": "maximum context length"}, "D"),
        (401, {"message": "bad key"}, "D"),
    ],
)
async def test_whose_fault_a_refused_request_is(status: int, error: dict[str, Any], blame: str) -> None:
    expected = {"C": Blame.CONTEXT, "R": Blame.CONTENT, "Q": Blame.REQUEST, "D": Blame.DEPLOYMENT}[blame]
    body = json.dumps({"error": error}).encode()
    async with running_provider() as server, provider_at(server.base_url) as provider:
        server.script(Script(status=status, body=body, headers={"content-type": "application/json"}))
        failure = await failure_of(provider)
    assert failure.blame is expected


@pytest.mark.parametrize("body", [b"", b"<html>Bad gateway</html>", b'{"detail": "x"}', b"[1]", b"\xff\xfe"])
async def test_an_error_page_of_any_shape_is_an_error(body: bytes) -> None:
    async with running_provider() as server, provider_at(server.base_url) as provider:
        server.script(Script(status=502, body=body))
        error = await failure_of(provider)
    assert (error.kind, error.retryable) == (KIND.ERROR, True)


# Failures: the stream.


@pytest.mark.parametrize(
    "script",
    [
        Script.cut_after("a", "b"),
        Script.text("a", "b", Do.RESET),
        Script.text("a", "b", Do.END),
        Script.text("a", "b", finish=None),
        Script.text("a", "b", b'data: {"choices": [{"del', Do.END),
    ],
    ids=["socket closed", "socket reset", "body ended", "done without finish", "ended inside an event"],
)
async def test_an_answer_without_finish_reason_is_cut(script: Script) -> None:
    async with running_provider() as server, provider_at(server.base_url) as provider:
        server.script(script)
        answer = await ask(provider)
    assert answer.error is not None
    assert (answer.error.kind, answer.error.retryable) == (KIND.CUT, True)
    assert answer.text in ("ab", "a", ""), "a reset may take what was not read yet"


@pytest.mark.parametrize("script", [Script.empty(), Script.text(finish=None, usage=None)])
async def test_an_empty_answer_is_cut(script: Script) -> None:
    async with running_provider() as server, provider_at(server.base_url) as provider:
        server.script(script)
        assert (await failure_of(provider)).kind == KIND.CUT


async def test_a_malformed_chunk_is_an_error_after_the_text_before_it() -> None:
    async with running_provider() as server, provider_at(server.base_url) as provider:
        server.script(Script.malformed_after("a"))
        answer = await ask(provider)
    assert answer.text == "a"
    assert answer.error is not None
    assert answer.error.kind == KIND.ERROR
    assert "malformed stream" in answer.error.message


@pytest.mark.parametrize(
    ("reported", "kind", "retryable"),
    [
        ({"message": "busy", "code": 503}, KIND.ERROR, True),
        ({"message": "busy", "type": "overloaded_error"}, KIND.ERROR, True),
        ({"message": "slow", "code": "rate_limit_exceeded"}, KIND.RATE_LIMITED, True),
        ({"message": "who?", "code": "401"}, KIND.AUTH, False),
        ({"message": "long", "code": "context_length_exceeded"}, KIND.ERROR, False),
        ({"message": "unknown"}, KIND.ERROR, True),
    ],
)
async def test_an_error_in_the_stream_becomes_one_of_the_kinds(
    reported: dict[str, Any], kind: ProviderErrorKind, retryable: bool
) -> None:
    async with running_provider() as server, provider_at(server.base_url) as provider:
        server.script(Script.error_in_stream("a", error=reported))
        answer = await ask(provider)
    assert answer.text == "a"
    assert answer.error is not None
    assert (answer.error.kind, answer.error.retryable) == (kind, retryable)
    assert reported["message"] in answer.error.message


async def test_an_error_with_status_200_is_an_error() -> None:
    body = json.dumps({"error": {"message": "model is loading", "code": 503}}).encode()
    async with running_provider() as server, provider_at(server.base_url) as provider:
        server.script(Script(body=body, headers={"content-type": "application/json"}))
        error = await failure_of(provider)
    assert error.kind == KIND.ERROR
    assert "model is loading" in error.message


# Failures: the connection and the time limits.


async def test_a_refused_connection_is_an_error() -> None:
    with refused_base_url() as base_url:
        async with provider_at(base_url) as provider:
            error = await failure_of(provider)
    assert (error.kind, error.retryable) == (KIND.ERROR, True)
    assert "could not be connected to" in error.message


async def test_an_unknown_host_is_an_error() -> None:
    async with provider_at("http://nowhere.invalid/v1") as provider:
        assert (await failure_of(provider)).kind == KIND.ERROR


async def test_a_connection_closed_before_the_answer_is_an_error() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with provider_at(f"http://127.0.0.1:{port}/v1") as provider:
            error = await failure_of(provider)
    assert (error.kind, error.retryable) == (KIND.ERROR, True)
    assert "closed the connection" in error.message


async def test_a_slow_connection_meets_the_connect_limit() -> None:
    with unconnectable_base_url() as base_url:
        async with provider_at(base_url, connect_timeout_s=0.2) as provider:
            error = await failure_of(provider)
    assert error.kind == KIND.TIMEOUT
    assert "could not be connected to within 0.2 s" in error.message


async def test_a_silent_provider_meets_the_first_token_limit() -> None:
    async with running_provider() as server, provider_at(server.base_url, first_token_timeout_s=0.2) as provider:
        server.script(Script.never_answers())
        error = await failure_of(provider)
        await server.client_gone(0)
    assert (error.kind, error.retryable) == (KIND.TIMEOUT, True)
    assert "first token within 0.2 s" in error.message


async def test_comments_that_keep_the_connection_alive_are_no_token() -> None:
    comments: list[Any] = [b": still here\n\n"] * 1000
    async with running_provider() as server, provider_at(server.base_url, first_token_timeout_s=0.2) as provider:
        server.script(Script(comments, rate=100))
        error = await failure_of(provider)
    assert error.kind == KIND.TIMEOUT
    assert "first token" in error.message


async def test_a_stall_meets_the_idle_limit() -> None:
    async with running_provider() as server, provider_at(server.base_url, idle_timeout_s=0.2) as provider:
        server.script(Script.stalled_after("a", "b"))
        answer = await ask(provider)
        await server.client_gone(0)
    assert answer.text == "ab"
    assert answer.error is not None
    assert answer.error.kind == KIND.TIMEOUT
    assert "no token within 0.2 s" in answer.error.message


async def test_a_stream_that_never_stops_meets_the_total_limit() -> None:
    async with running_provider() as server, provider_at(server.base_url, total_timeout_s=0.3) as provider:
        server.script(Script.words(10_000, rate=100))
        answer = await ask(provider)
        await server.client_gone(0)
    assert answer.text.startswith("w0 w1 ")
    assert answer.error is not None
    assert answer.error.kind == KIND.TIMEOUT
    assert "did not finish within 0.3 s" in answer.error.message


async def test_a_steady_stream_outlives_the_idle_limit() -> None:
    async with running_provider() as server, provider_at(server.base_url, idle_timeout_s=0.2) as provider:
        server.script(Script.words(30, rate=60))
        answer = await ask(provider)
    assert answer.error is None
    assert len(answer.text.split()) == 30


async def test_time_spent_by_the_reader_is_not_held_against_the_provider() -> None:
    gate = Gate()
    limits: dict[str, Any] = {"idle_timeout_s": 0.1, "first_token_timeout_s": 0.1}
    async with running_provider() as server, provider_at(server.base_url, **limits) as provider:
        server.script(Script.text("a", gate, "b"))
        text = ""
        async with asyncio.timeout(60), provider.stream(HELLO) as stream:
            async for chunks in stream:
                text += "".join(chunk.text for chunk in chunks if isinstance(chunk, Text))
                gate.open()
                await asyncio.sleep(0.3)  # the subject of the test: longer than every limit
    assert text == "ab"


# Afterwards.


@pytest.mark.parametrize(
    "script",
    [Script.http_error(500), Script.cut_after("a"), Script.empty(), Script.malformed_after("a")],
    ids=["status", "cut", "empty", "malformed"],
)
async def test_after_a_failed_call_the_next_one_works(script: Script) -> None:
    async with running_provider() as server, provider_at(server.base_url, max_concurrency=1) as provider:
        server.script(script, script)
        await failure_of(provider)
        await failure_of(provider)
        assert (await ask(provider)).error is None
