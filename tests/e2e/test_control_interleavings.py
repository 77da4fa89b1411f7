"""Deltas, interrupts in their phases, reports, steering, cancels and tools in random orders, over real sockets.

Many more orders, and time limits, are in `tests/interleavings`, on a clock that jumps.

Whatever comes when: one ending for each request, an honest history (what is stored, and what the next prompt says, is
what was presented of an interrupted answer and what was sent of a cancelled one), no deltas for whoever has stopped the
answer, and generated ≥ sent ≥ presented (guarantees 4, 5 and 13).
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict, deque
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.support import shop_tools
from tests.support.client import Client, Message, connected
from tests.support.provider import ControlledProvider, Gate, Script
from tests.support.provider_script import tool_call_steps
from tests.support.stack import running_stack

_SEEDS = 20
_AT_ONCE = 8
_WORDS = ("alpha ", "beta ", "gamma ", "delta ", "epsilon ", "zeta ")
_OPERATIONS = ("go on", "go on", "go on", "tentative", "retracted", "presented", "confirmed", "steer", "cancel", "tool")


@dataclass
class Story:
    """One answer and what was done to it. ``name`` is its conversation; ``r`` its request."""

    name: str
    rng: random.Random
    client: Client
    observer: Client
    gates: list[Gate] = field(default_factory=list)
    requests: list[str] = field(default_factory=lambda: ["r"])
    marks: dict[str, str] = field(default_factory=dict)
    """What was sent without waiting for its answer: the mark, and what it was."""
    reported: list[int] = field(default_factory=list)

    def id(self, which: str) -> str:
        return f"{self.name}.{which}"

    def text(self, which: str) -> str:
        return f"<{self.name} {which}>"

    def script(self) -> list[Script]:
        """Text with gates between the words; then, for some, a tool, and more text."""
        steps: list[Any] = []
        for word in _WORDS[: self.rng.randint(1, len(_WORDS))]:
            self.gates.append(Gate())
            steps += [self.gates[-1], word] if self.rng.random() < 0.7 else [word]
        tool = self.rng.choice(["", "", "look", "charge"])
        if not tool:
            return [Script.text(*steps)]
        arguments = '{"amount": 1}' if tool == "charge" else f'{{"item": "{self.name}"}}'
        shop_tools.GATES[f"look {self.name}"] = asyncio.Event()
        return [Script([*steps, *tool_call_steps(tool, arguments)], finish="tool_calls"), Script.text("Done.")]

    async def operate(self, operation: str) -> None:
        number = len(self.marks) + 1
        command: Message = {"id": f"m{number}", "request_id": self.id("r")}
        match operation:
            case "go on":
                next((gate for gate in self.gates if not gate._open.is_set()), Gate()).open()
                return
            case "tool":
                if f"look {self.name}" in shop_tools.GATES:
                    shop_tools.GATES[f"look {self.name}"].set()
                return
            case "tentative" | "retracted" | "confirmed":
                command |= {"type": "request.interrupt", "phase": operation}
                if operation == "confirmed" and self.rng.random() < 0.5:
                    command["presented"] = {"part": 0, "offset": self._offset()}
            case "presented":
                command |= {"type": "request.presented", "part": 0, "offset": self._offset()}
            case "cancel":
                command |= {"type": "request.cancel"}
            case "steer":
                which = f"s{len(self.requests)}"
                self.requests.append(which)
                command |= {"type": "request.create", "request_id": self.id(which), "on_busy": "steer"}
                command |= {"conversation_id": self.name, "input": self.text(which)}
        self.marks[command["id"]] = operation
        await self.client.send(command)
        if operation != "presented" and self.rng.random() < 0.6:
            await self.client.until(lambda: any(m.get("ref") == command["id"] for m in self.client.messages))

    def _offset(self) -> int:
        self.reported.append(self.rng.randint(0, 40))
        return self.reported[-1]

    async def tell(self) -> None:
        """All of it, to the end of every request."""
        await self.observer.open(self.name)
        await self.client.create(self.id("r"), self.name, self.text("r"))
        for operation in self.rng.choices(_OPERATIONS, k=self.rng.randint(2, 12)):
            await self.operate(operation)
            for _ in range(self.rng.choice([0, 0, 1, 5])):
                await asyncio.sleep(0)
            if self.rng.random() < 0.3:
                await self.client.call({"type": "ping"})
        await self.client.call({"type": "ping"})
        for gate in self.gates:
            gate.open()
        await self.operate("tool")
        await self.client.call({"type": "request.interrupt", "request_id": self.id("r"), "phase": "retracted"})
        for which in self.requests:
            await self.client.terminal(self.id(which))
            await self.observer.terminal(self.id(which))

    # --- what must hold --------------------------------------------------------------------------------

    def check_ends(self) -> None:
        for client in (self.client, self.observer):
            ends = sorted(m["request_id"] for m in client.messages if m.get("terminal"))
            assert ends == sorted(self.id(which) for which in self.requests)
            assert client.folds[self.name].active == {}
        refused = {m["ref"]: m for m in self.client.messages if m["type"] == "error"}
        assert not refused, refused

    def check_silence(self) -> None:
        stops = [mark for mark, operation in self.marks.items() if operation in ("confirmed", "cancel")]
        for index, message in enumerate(self.client.messages):
            if message.get("ref") in stops and message.get("outcome") in ("interrupting", "cancelling"):
                late = [m for m in self.client.messages[index:] if m.get("request_id") == self.id("r")]
                assert not [m for m in late if m["type"].endswith(".delta")]

    def check_lengths(self) -> None:
        ending = next(m for m in self.observer.messages if m.get("terminal") and m["request_id"] == self.id("r"))
        sent = self.observer.text(self.id("r"))
        stored = _text(ending["message"])
        if ending["type"] == "message.interrupted":
            assert ending["generated"] >= ending["sent"] >= ending["presented"]
            assert ending["sent"] == len(sent)
            assert stored == sent[: ending["presented"]]
            if ending["basis"] == "assumed":
                assert ending["presented"] == ending["sent"]
        else:
            assert stored == sent

    async def check_history(self, provider: ControlledProvider) -> None:
        await self.client.create(self.id("last"), self.name, self.text("last"))
        await self.client.terminal(self.id("last"))
        page = await self.client.call({"type": "conversation.history", "conversation_id": self.name})
        answers = [item for item in page["items"] if item["role"] == "assistant"]
        (answer,) = [item for item in answers if item["request_id"] == self.id("r")]
        sent = self.observer.text(self.id("r"))
        assert sent.startswith(_text(answer))
        if answer["status"] == "interrupted":
            length = min(max(self.reported), len(sent)) if self.reported else len(sent)
            one_part = len([part for part in answer["parts"] if part["kind"] == "text"]) <= 1
            if one_part and not answer.get("steered") and all(p["kind"] == "text" for p in answer["parts"]):
                assert len(_text(answer)) == length, (answer, sent, self.reported)
        prompts = [r.messages for r in provider.requests if self.text("last") in str(r.messages[-1]["content"])]
        assert len(prompts) == 1
        said = "".join(m["content"] or "" for m in prompts[0] if m["role"] == "assistant")
        before = [_text(item) for item in answers if item["request_id"] != self.id("last")]
        assert said == "".join(before)
        asked = "".join(m["content"] for m in prompts[0] if m["role"] == "user")
        for which in self.requests:
            assert asked.count(self.text(which)) == 1, f"{which} in {asked}"


def _text(message: Message) -> str:
    return "".join(part["text"] for part in message["parts"] if part["kind"] == "text")


# The last seed interrupted an answer in the moment in which its last words were on their way to the log, and hung.
async def test_whatever_comes_when_the_history_is_honest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNWIRE_TEST_EFFECTS", str(tmp_path / "effects"))
    shop_tools.GATES.clear()
    scripts: defaultdict[str, deque[Script]] = defaultdict(deque)
    wrong: list[str] = []

    def answer(body: dict[str, Any]) -> Script:
        first = str(next(m["content"] for m in body["messages"] if m["role"] == "user"))
        waiting = scripts[first.partition(" ")[0]]
        return waiting.popleft() if waiting else Script.text("More. ")

    tools = {"modules": ["tests.support.shop_tools"]}
    async with running_stack(tools=tools, limits={"connections_per_user": 1000}) as (provider, app):
        provider.default = answer
        places = asyncio.Semaphore(_AT_ONCE)

        async def one(seed: int) -> None:
            async with places, AsyncExitStack() as stack:
                client = await stack.enter_async_context(connected(app.url))
                observer = await stack.enter_async_context(connected(app.url))
                story = Story(f"c{seed}", random.Random(seed), client, observer)
                scripts[f"<{story.name}"].extend(story.script())
                try:
                    await story.tell()
                    story.check_ends()
                    story.check_silence()
                    story.check_lengths()
                    await story.check_history(provider)
                except (AssertionError, TimeoutError) as error:
                    wrong.append(f"seed {seed}: {list(story.marks.values())}: {error!r}")

        async with asyncio.TaskGroup() as group:
            for seed in (*range(_SEEDS - 1), 1421):
                group.create_task(one(seed))
        assert not wrong, "\n".join(wrong)
