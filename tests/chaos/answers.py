"""The provider of a chaos round: a real HTTP server whose every answer follows from seed, request, step and call.

The text names the call it comes from, so that each piece of an answer can be traced to the one call that sent it:
`«request/step.call» word word …`. Calls are told apart by the marker that the clients put into their input, and nodes
by the key they call with. Some answers call tools, think, break off, stall or are refused; a second try of a step is
mostly spared, so that turns do get through.
"""

from __future__ import annotations

import random
import re
from typing import Any

from tests.chaos.records import Call, Recorder
from tests.support.provider import ControlledProvider, RecordedRequest
from tests.support.provider_script import Delta, Do, Script, Step, tool_call_steps

KEY = "CHAOS_NODE"
IDLE_S = 1.2
"""After so much silence in a stream the server is to give it up."""

_MARK = re.compile(r"\[([A-Za-z0-9_.:-]+)\]")
_WORDS = ("alpha", "beta", "gämma", "delta", "ε", "зeta", "日本", "😀", "theta", "iota", "κάππα", "lambda")
_TROUBLES = ("cut", "reset", "stall", "refused", "overrun", "error", "unfinished", "empty")


def input_text(request_id: str, words: int) -> str:
    """What a client says, so that `Answers` finds the request again."""
    return f"[{request_id}] " + " ".join(_WORDS[n % len(_WORDS)] for n in range(words))


class Answers:
    """Give `script` to a `ControlledProvider` as its default; `calls` afterwards."""

    def __init__(self, seed: int, provider: ControlledProvider) -> None:
        self._seed = seed
        self._provider = provider
        self._made: dict[int, tuple[str, int, int, Script]] = {}
        self._counts: dict[tuple[str, int], int] = {}
        provider.default = self.script

    def script(self, body: dict[str, Any]) -> Script:
        """The answer to one request body."""
        request_id, step = _request_and_step(body["messages"])
        call = self._counts[request_id, step] = self._counts.get((request_id, step), 0) + 1
        rng = random.Random(f"{self._seed}:{request_id}:{step}:{call}")
        made = _script(rng, request_id, step, call)
        self._made[len(self._provider.requests)] = (request_id, step, call, made)
        return made

    def calls(self, recorder: Recorder) -> list[Call]:
        """What the provider saw, in order."""
        return [self._call(recorder, request) for request in self._provider.requests]

    def _call(self, recorder: Recorder, request: RecordedRequest) -> Call:
        request_id, step, call, script = self._made[request.index]
        finished = script.body is None and request.sent == len(script.steps)
        usage = script.usage if isinstance(script.usage, tuple) else None
        return Call(
            request_id=request_id,
            step=step,
            call=call,
            node=request.headers.get("authorization", "").removeprefix("Bearer "),
            began=recorder.since_start(request.received_at),
            ended=None if request.ended_at is None else recorder.since_start(request.ended_at),
            gone=None if request.gone_at is None else recorder.since_start(request.gone_at),
            text=_text(script.steps),
            sent=_text(script.steps[: request.sent + 1]),
            finish=script.finish if finished else None,
            usage=None if usage is None else (usage[0], usage[1]),
        )


def _request_and_step(messages: list[dict[str, Any]]) -> tuple[str, int]:
    """The newest request that the prompt names, and the step: each one before it has made one tool call."""
    last = max((n for n, message in enumerate(messages) if message["role"] == "user"), default=None)
    if last is None:
        return "?", 1
    marks = _MARK.findall(str(messages[last]["content"]))
    # Calls with no text between them stand in one message, whatever steps they are from.
    return marks[-1] if marks else "?", 1 + sum(len(message.get("tool_calls") or ()) for message in messages[last:])


def _text(steps: Any) -> str:
    return "".join(step for step in steps if isinstance(step, str))


def _script(rng: random.Random, request_id: str, step: int, call: int) -> Script:
    thoughts: list[Step] = []
    if rng.random() < 0.15:
        thoughts = [Delta({"reasoning_content": f"hm {n} "}) for n in range(rng.randint(1, 5))]
    long = rng.random() < 0.06
    count = rng.randint(250, 500) if long else rng.randint(2, 45)
    mark = f"«{request_id}/{step}.{call}»"
    words: list[Step] = [mark, *(f" {rng.choice(_WORDS)}{n}" for n in range(count))]
    fields: dict[str, Any] = {
        "rate": rng.uniform(200, 500) if long else rng.uniform(15, 150),
        "usage": (rng.randint(1, 90), count) if rng.random() < 0.85 else None,
    }
    if rng.random() < (0.18 if call == 1 else 0.06):
        return _troubled(rng, [*thoughts, *words], fields)
    if step < 3 and rng.random() < 0.15:
        name, arguments = rng.choice(
            (
                ("demo_clock", "{}"),
                ("demo_clock", "{}"),
                ("demo_countdown", '{"seconds": 1}'),
                ("no_such_tool", '{"a": 1}'),
                ("demo_clock", '{"broken": '),
            )
        )
        half = len(arguments) // 2
        calls = tool_call_steps(name, arguments[:half], arguments[half:], call_id=f"call_{step}_{call}")
        return Script([*thoughts, *words[: rng.randint(1, count)], *calls], finish="tool_calls", **fields)
    return Script([*thoughts, *words], **fields)


def _troubled(rng: random.Random, steps: list[Step], fields: dict[str, Any]) -> Script:
    kept = steps[: rng.randint(1, len(steps))]
    match rng.choice(_TROUBLES):
        case "cut":
            return Script([*kept, Do.CUT], **fields)
        case "reset":
            return Script([*kept, Do.RESET], **fields)
        case "stall":
            return Script([*kept, Do.STALL], **fields)
        case "refused":
            return Script.http_error(500, "by the test")
        case "overrun":
            return Script.http_error(429, "by the test", headers={"retry-after": "1"})
        case "error":
            return Script.error_in_stream(*kept, error={"message": "by the test", "type": "server_error"})
        case "unfinished":
            return Script([*kept, Do.END], **fields)
        case _:
            return Script.empty()
