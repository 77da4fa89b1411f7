"""The stream of an OpenAI-compatible chat completion: bytes in, chunks out.

Pure. It decodes only the fields that are used, by hand, because this runs once per token; and it is lenient
where servers are known to differ: tool calls without ids or indexes, names repeated in every delta, arguments
as objects, usage in every chunk or in none, errors inside a stream that began with 200. What cannot be
understood is never skipped, it is reported: a lost delta would be a hole in the answer.

Above: `providers.openai`, which owns the connection. Below: `gateway.sse`.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import Any

import orjson

from turnwire_server.gateway.provider import (
    Chunk,
    Finish,
    Reasoning,
    Text,
    ToolCallArguments,
    ToolCallBegin,
    Usage,
)
from turnwire_server.gateway.providers.chat_template import ChatTemplate
from turnwire_server.gateway.sse import MAX_EVENT_BYTES, EventTooLarge, SSESplitter


class MalformedStream(Exception):
    """Something in the stream is not what the protocol allows."""


class ErrorInStream(Exception):
    """The server reported an error after it had begun to answer."""

    def __init__(self, error: Any) -> None:
        super().__init__("the provider reported an error in the stream")
        self.error = error


@dataclass(slots=True)
class _Call:
    index: int
    call_id: str
    name: str
    arguments: str = ""

    def has_begun(self) -> bool:
        return bool(self.name)

    def is_whole(self) -> bool:
        try:
            json.loads(self.arguments)
        except ValueError:
            return False
        return True


class ChatDecoder:
    """Decodes one stream. After a failure, and after `done`, nothing more is decoded."""

    __slots__ = (
        "_body",
        "_calls",
        "_is_between_events",
        "_last_call",
        "_order",
        "_sse",
        "_template",
        "done",
        "failure",
        "finished",
        "is_json",
    )

    def __init__(self, *, is_json: bool = False) -> None:
        self.is_json = is_json
        """The whole answer is expected as one JSON document: some servers do not stream, and some report
        errors that way with status 200."""
        self.done = False
        """`[DONE]` was read."""
        self.finished = False
        """A finish reason was read: the answer is whole."""
        self.failure: MalformedStream | ErrorInStream | None = None
        """Why decoding ended early. Chunks that came before it have been returned."""
        self._sse = SSESplitter()
        self._template = ChatTemplate()
        self._is_between_events = True
        self._body = bytearray()
        self._calls: dict[int, _Call] = {}  # by the server's index
        self._last_call: _Call | None = None
        self._order = 0

    def feed(self, data: bytes) -> list[Chunk]:
        """The chunks that `data` completes. Look at `failure` and `done` afterwards."""
        chunks: list[Chunk] = []
        if self.failure is not None or self.done:
            return chunks
        if self._is_between_events and (text := self._template.text_of(data)) is not None:
            chunks.append(Text(text))
            return chunks
        if self.is_json:
            self._gather(data)
            return chunks
        try:
            payloads = self._sse.feed(data)
            for payload in payloads:
                self._take(payload, chunks)
                if self.done:
                    break
            was_between, self._is_between_events = self._is_between_events, self._sse.is_between_events
            is_one = was_between and self._is_between_events and len(payloads) == len(chunks) == 1
            if is_one and isinstance(chunk := chunks[0], Text):
                self._template.learn(data, chunk.text, _only_text_of)
        except EventTooLarge:
            self.failure = MalformedStream(f"one event is larger than {MAX_EVENT_BYTES} bytes")
        except (MalformedStream, ErrorInStream) as failure:
            self.failure = failure
        return chunks

    def end(self) -> list[Chunk]:
        """The stream has ended: what can still be read from its last, perhaps unfinished, event."""
        chunks: list[Chunk] = []
        if self.failure is not None or self.done:
            return chunks
        rest = bytes(self._body) if self.is_json else self._sse.end()
        if not rest or rest.isspace():
            return chunks
        try:
            self._take(rest, chunks)
        except ErrorInStream as failure:
            self.failure = failure
        except MalformedStream:
            # The connection ended inside the event: that is a cut, and the caller sees it as one, because
            # no finish reason came.
            chunks.clear()
        return chunks

    def _gather(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > MAX_EVENT_BYTES:
            self.failure = MalformedStream(f"the answer is larger than {MAX_EVENT_BYTES} bytes")

    def _take(self, payload: bytes, chunks: list[Chunk]) -> None:
        if payload == b"[DONE]":
            self.done = True
            return
        try:
            document = orjson.loads(payload)
        except orjson.JSONDecodeError:
            document = _loads_with_halves(payload)
        if type(document) is not dict:
            raise MalformedStream("an event is not a JSON object")
        try:
            self._take_document(document, chunks)
        except (AttributeError, TypeError, KeyError, IndexError, ValueError) as error:
            raise MalformedStream("an event has fields of the wrong type") from error

    def _take_document(self, document: dict[str, Any], chunks: list[Chunk]) -> None:
        choices = document.get("choices")
        if choices:
            choice = choices[0]
            # `message` where `delta` belongs: the server answered as a whole.
            delta = choice.get("delta") or choice.get("message")
            if delta:
                self._take_delta(delta, chunks)
            reason = choice.get("finish_reason")
            if reason:
                self.finished = True
                chunks.append(Finish(_text(reason)))
        usage = document.get("usage")
        if usage:
            self._take_usage(usage, chunks)
        error = document.get("error")
        if error:
            raise ErrorInStream(error)

    def _take_delta(self, delta: dict[str, Any], chunks: list[Chunk]) -> None:
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        if reasoning:
            chunks.append(Reasoning(_text(reasoning)))
        # A refusal is what the model says to the user in place of an answer.
        text = delta.get("content") or delta.get("refusal")
        if text:
            chunks.append(Text(_text(text)))
        calls = delta.get("tool_calls")
        if calls:
            for call in calls:
                self._take_call(call, chunks)

    def _take_call(self, part: dict[str, Any], chunks: list[Chunk]) -> None:
        function = part.get("function") or {}
        call_id = part.get("id") or ""
        name = function.get("name") or ""
        call = self._call_of(part.get("index"), _text(call_id), _text(name))
        if name and not call.has_begun():
            call.name = name
            call.call_id = call.call_id or call_id or f"call_{secrets.token_hex(12)}"
            chunks.append(ToolCallBegin(call.index, call.call_id, name))
            if call.arguments:  # came before the name
                chunks.append(ToolCallArguments(call.index, call.arguments))
        arguments = function.get("arguments")
        if arguments is None or arguments == "":
            return
        if type(arguments) is not str:
            arguments = json.dumps(arguments, ensure_ascii=False)
        call.arguments += arguments
        if call.has_begun():
            chunks.append(ToolCallArguments(call.index, arguments))

    def _call_of(self, index: int | None, call_id: str, name: str) -> _Call:
        """The call that a delta belongs to. Names are repeated by some servers and never concatenated."""
        known = self._last_call if index is None else self._calls.get(index)
        if known is None:
            return self._add_call(index, call_id)
        if not call_id or not name or not known.has_begun() or call_id == known.call_id:
            if call_id and not known.has_begun():
                known.call_id = call_id
            return known
        # Another id and a name under the same index. Some servers number all parallel calls 0, others make
        # up an id for every delta of one call: what tells them apart is whether the arguments are whole.
        return self._add_call(index, call_id) if known.is_whole() else known

    def _add_call(self, index: int | None, call_id: str) -> _Call:
        call = _Call(self._order, call_id, "")
        self._order += 1
        self._last_call = call
        if index is not None:
            self._calls[index] = call
        return call

    @staticmethod
    def _take_usage(usage: dict[str, Any], chunks: list[Chunk]) -> None:
        tokens_in, tokens_out = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if tokens_in is None and tokens_out is None:
            return  # nothing was said; an estimate must not be taken for the provider's zero
        details = usage.get("prompt_tokens_details") or {}
        cached = details.get("cached_tokens")
        chunks.append(Usage(_count(tokens_in), _count(tokens_out), _count(cached)))


def _only_text_of(data: bytes) -> str | None:
    """What one event by itself says, if that is text and nothing else."""
    splitter, chunks = SSESplitter(), list[Chunk]()
    payloads = splitter.feed(data)
    if len(payloads) != 1 or not splitter.is_between_events:
        return None
    try:
        ChatDecoder()._take(payloads[0], chunks)
    except (MalformedStream, ErrorInStream):
        return None
    return chunks[0].text if len(chunks) == 1 and isinstance(chunks[0], Text) else None


def _loads_with_halves(payload: bytes) -> Any:
    r"""Decodes JSON with an escape like `\ud83d` whose other half is in the next event.

    orjson refuses it, since the str is not valid Unicode on its own; the standard library passes it on.
    """
    try:
        return json.loads(payload.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise MalformedStream("an event is not JSON") from error


def _text(value: object) -> str:
    if type(value) is not str:
        raise MalformedStream("a text field is not a text")
    return value


def _count(value: object) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise MalformedStream("a token count is not a number")
    return int(value)
