"""Decoding the chat stream: what is understood, what servers do differently, what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnwire_server.gateway.provider import (
    Chunk,
    Finish,
    Reasoning,
    Text,
    ToolCallArguments,
    ToolCallBegin,
    Usage,
)
from turnwire_server.gateway.providers.chat_chunks import ChatDecoder, ErrorInStream, MalformedStream


def event(data: Any) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def delta(finish: str | None = None, **fields: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]})


def call(**fields: Any) -> bytes:
    function = {key: fields.pop(key) for key in ("name", "arguments") if key in fields}
    return delta(tool_calls=[{**fields, "function": function}])


def decode(*parts: bytes) -> list[Chunk]:
    decoder = ChatDecoder()
    chunks = [chunk for part in parts for chunk in decoder.feed(part)]
    assert decoder.failure is None, decoder.failure
    return chunks


def failure_of(*parts: bytes) -> MalformedStream | ErrorInStream | None:
    decoder = ChatDecoder()
    for part in parts:
        decoder.feed(part)
    return decoder.failure


def test_text_reasoning_finish_and_usage_are_read() -> None:
    assert decode(
        delta(role="assistant", content=""),
        delta(reasoning_content="hm"),
        delta(reasoning="m"),
        delta(content="a"),
        delta("stop"),
        event(
            {
                "choices": [],
                "usage": {
                    "prompt_tokens": 9,
                    "completion_tokens": 0,
                    "prompt_tokens_details": {"cached_tokens": 4},
                },
            }
        ),
        b"data: [DONE]\n\n",
    ) == [Reasoning("hm"), Reasoning("m"), Text("a"), Finish("stop"), Usage(9, 0, 4)]


def test_a_zero_usage_is_a_usage_and_a_missing_one_is_none() -> None:
    zero = {"prompt_tokens": 0, "completion_tokens": 0, "prompt_tokens_details": None}
    assert decode(event({"choices": [], "usage": zero})) == [Usage(0, 0, 0)]
    assert decode(event({"choices": [], "usage": None}), event({"choices": [], "usage": {}})) == []


def test_a_refusal_is_text() -> None:
    assert decode(delta(refusal="I cannot.")) == [Text("I cannot.")]


def test_halves_of_a_surrogate_pair_in_two_events_are_passed_on() -> None:
    chunks = decode(
        b'data: {"choices":[{"delta":{"content":"a\\ud83d"}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":"\\ude00b"}}]}\n\n',
    )
    assert chunks == [Text("a\ud83d"), Text("\ude00b")]


def test_nothing_is_read_after_done() -> None:
    decoder = ChatDecoder()
    assert decoder.feed(delta(content="a") + b"data: [DONE]\n\n" + delta(content="b")) == [Text("a")]
    assert decoder.done
    assert decoder.feed(delta(content="c")) == []


# Tool calls.


def test_a_tool_call_in_pieces_is_read() -> None:
    assert decode(
        call(index=0, id="c1", name="clock", arguments=""),
        call(index=0, arguments='{"a"'),
        call(index=0, arguments=":1}"),
    ) == [ToolCallBegin(0, "c1", "clock"), ToolCallArguments(0, '{"a"'), ToolCallArguments(0, ":1}")]


def test_parallel_calls_keep_their_indexes() -> None:
    assert decode(
        call(index=0, id="c1", name="a", arguments="{}"),
        call(index=1, id="c2", name="b", arguments=""),
        call(index=1, arguments="{}"),
    ) == [
        ToolCallBegin(0, "c1", "a"),
        ToolCallArguments(0, "{}"),
        ToolCallBegin(1, "c2", "b"),
        ToolCallArguments(1, "{}"),
    ]


def test_a_name_repeated_in_every_delta_is_one_name() -> None:
    assert decode(
        call(index=0, id="c1", name="clock", arguments="{"),
        call(index=0, id="c1", name="clock", arguments="}"),
    ) == [ToolCallBegin(0, "c1", "clock"), ToolCallArguments(0, "{"), ToolCallArguments(0, "}")]


def test_a_new_id_in_every_delta_is_one_call_while_its_arguments_are_unfinished() -> None:
    assert decode(
        call(index=0, id="x1", name="clock", arguments='{"a":'),
        call(index=0, id="x2", name="clock", arguments="1}"),
    ) == [ToolCallBegin(0, "x1", "clock"), ToolCallArguments(0, '{"a":'), ToolCallArguments(0, "1}")]


def test_calls_that_all_have_index_zero_are_told_apart_by_their_ids() -> None:
    assert decode(
        call(index=0, id="c1", name="a", arguments="{}"),
        call(index=0, id="c2", name="b", arguments='{"x":1}'),
    ) == [
        ToolCallBegin(0, "c1", "a"),
        ToolCallArguments(0, "{}"),
        ToolCallBegin(1, "c2", "b"),
        ToolCallArguments(1, '{"x":1}'),
    ]


def test_a_call_without_id_gets_one() -> None:
    first, second = decode(call(index=0, name="a"), call(index=1, name="b"))
    assert isinstance(first, ToolCallBegin)
    assert isinstance(second, ToolCallBegin)
    assert first.call_id.startswith("call_")
    assert first.call_id != second.call_id


def test_calls_without_index_are_read() -> None:
    assert decode(call(id="c1", name="a", arguments='{"q":'), call(arguments="2}")) == [
        ToolCallBegin(0, "c1", "a"),
        ToolCallArguments(0, '{"q":'),
        ToolCallArguments(0, "2}"),
    ]


def test_arguments_before_the_name_wait_for_it() -> None:
    assert decode(call(index=0, id="c1", arguments="{"), call(index=0, name="a", arguments="}")) == [
        ToolCallBegin(0, "c1", "a"),
        ToolCallArguments(0, "{"),
        ToolCallArguments(0, "}"),
    ]


def test_arguments_as_an_object_become_text() -> None:
    assert decode(call(index=0, id="c1", name="a", arguments={"city": "Köln"})) == [
        ToolCallBegin(0, "c1", "a"),
        ToolCallArguments(0, '{"city": "Köln"}'),
    ]


# Failures.


@pytest.mark.parametrize(
    "broken",
    [
        b"data: {\n\n",
        b"data: 17\n\n",
        b"data: nonsense\n\n",
        b'data: {"choices": [{"delta": {"content": "\xff"}}]}\n\n',
        b'data: {"choices": 3}\n\n',
        b'data: {"choices": [7]}\n\n',
        b"data: " + b"[" * 100_000 + b"\n\n",
        delta(content=["a"]),
        delta(tool_calls=[3]),
        delta(tool_calls=[{"index": 0, "function": {"name": 5}}]),
        event({"choices": [], "usage": {"prompt_tokens": "many", "completion_tokens": 1}}),
    ],
)
def test_what_cannot_be_understood_is_reported(broken: bytes) -> None:
    assert isinstance(failure_of(delta(content="a"), broken), MalformedStream)


def test_chunks_before_a_failure_are_kept_and_nothing_comes_after_it() -> None:
    decoder = ChatDecoder()
    assert decoder.feed(delta(content="a") + b"data: {\n\n" + delta(content="b")) == [Text("a")]
    assert isinstance(decoder.failure, MalformedStream)
    assert decoder.feed(delta(content="c")) == []


@pytest.mark.parametrize("error", [{"message": "overloaded", "code": 503}, "overloaded"])
def test_an_error_inside_the_stream_is_reported(error: Any) -> None:
    failure = failure_of(delta(content="a"), event({"error": error}))
    assert isinstance(failure, ErrorInStream)
    assert failure.error == error


def test_an_answer_that_is_not_streamed_is_read_as_a_whole() -> None:
    body = json.dumps(
        {
            "choices": [
                {
                    "message": {
                        "content": "Hi",
                        "tool_calls": [{"id": "c1", "function": {"name": "a", "arguments": "{}"}}],
                    },
                    "finish_reason": "tool_calls",
                }
            ],
            "usage": {"prompt_tokens": 1, "completion_tokens": 2},
        }
    ).encode()
    decoder = ChatDecoder(is_json=True)
    assert decoder.feed(body[:20]) == decoder.feed(body[20:]) == []
    assert decoder.end() == [
        Text("Hi"),
        ToolCallBegin(0, "c1", "a"),
        ToolCallArguments(0, "{}"),
        Finish("tool_calls"),
        Usage(1, 2, 0),
    ]
    assert decoder.finished


def test_a_last_event_without_its_blank_line_counts_when_it_is_whole() -> None:
    decoder = ChatDecoder()
    decoder.feed(delta("stop", content="a").rstrip(b"\n"))
    assert decoder.end() == [Text("a"), Finish("stop")]


def test_a_last_event_that_was_cut_off_is_no_malformed_one() -> None:
    decoder = ChatDecoder()
    decoder.feed(delta("stop", content="a")[:40])
    assert decoder.end() == []
    assert decoder.failure is None
    assert not decoder.finished


WORDS = st.lists(
    st.sampled_from(["a", " the", '"', "\\", "\n", "\x00", "é", "\u00a0", "\u2028", "🐋"]), min_size=1
).map("".join)


@given(st.lists(WORDS, min_size=3, max_size=30), st.booleans(), st.booleans(), st.data())
def test_what_all_events_have_in_common_changes_nothing(
    words: list[str], with_spaces: bool, ascii_only: bool, data: st.DataObject
) -> None:
    """Whole events, pieces of them and several at once: the same text as if each had been parsed."""

    def sent(word: str) -> bytes:
        body = {"id": "x", "choices": [{"delta": {"content": word}}], "usage": None, "of": {"content": words[0]}}
        separators = None if with_spaces else (",", ":")
        return b"data: " + json.dumps(body, ensure_ascii=ascii_only, separators=separators).encode() + b"\n\n"

    pieces: list[bytes] = []
    for event_ in map(sent, words):
        cut = data.draw(st.sampled_from([0, 0, 0, len(event_) // 2, len(event_) - 1]))
        pieces += [piece for piece in (event_[:cut], event_[cut:]) if piece]
    texts = [chunk.text for chunk in decode(*pieces) if isinstance(chunk, Text)]
    assert "".join(texts) == "".join(words)


def test_an_event_that_only_looks_like_the_others_is_parsed() -> None:
    other = delta(content='a"}, "finish_reason": "stop", "x": {"content": "b')
    broken = delta(content="a").replace(b'"a"', b'"a\x01"')
    assert decode(*[delta(content="a")] * 3, other)[-1] == Text('a"}, "finish_reason": "stop", "x": {"content": "b')
    assert isinstance(failure_of(*[delta(content="a")] * 3, broken), MalformedStream)
    assert decode(*[delta(content="a")] * 3, delta("stop", content="b")) == [
        *[Text("a")] * 3,
        Text("b"),
        Finish("stop"),
    ]


def test_a_byte_order_mark_is_one_at_the_beginning_of_a_stream_only() -> None:
    """Later it belongs to a field's name that nobody knows. The template of the first event had learned it."""
    decoder = ChatDecoder()
    marked = b"\xef\xbb\xbf" + delta(content="a")
    assert decoder.feed(marked) == [Text("a")]
    assert decoder.feed(marked) == []
    assert decoder.feed(delta(content="b")) == [Text("b")]


def test_what_all_events_have_in_common_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = ChatDecoder()
    assert decoder.feed(delta(content="a")) == [Text("a")]
    monkeypatch.setattr(ChatDecoder, "_take", None)
    assert decoder.feed(delta(content=" word")) == [Text(" word")]
