"""The property of recovery, with connections cut at any byte (DESIGN, guarantees 1 and 7).

A conversation with several requests goes on: they queue, think, call tools, break off and begin again, are cancelled;
members come and go, the log is trimmed. One client follows it all. Another is cut off again and again, in the middle
of frames and of handshakes, and comes back by every way there is, with its cursor or a useless one. For every seq at
which both stood, both held the same; what they were told of what they had missed was exact.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.client import Client, Message, connected
from tests.support.cutter import Cutter, running_cutter
from tests.support.examples import examples
from tests.support.provider import ControlledProvider, Do, Gate, Script, tool_call_steps
from tests.support.stack import running_stack
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

from turnwire_protocol import TERMINAL_STATES, ConversationFold
from turnwire_server.app import App
from turnwire_server.conversations.services import Services
from turnwire_server.eventlog.base import ConversationRef, Position

C = "c1"
REF = ConversationRef("default", C)
CUTS = (ConnectionClosed, InvalidHandshake, InvalidMessage, OSError, EOFError)

ACTIONS = ["go on"] * 6 + ["create"] * 2 + ["branch", "cancel", "share", "trim", "finish"]
ANSWERS = ["text", "text", "reasoning", "tool", "cut"]
WAYS = ["open", "resume", "create", "hello", "hello with request"]
CURSORS = ["its own"] * 6 + ["none", "of another epoch", "beyond the end", "the beginning"]

actions = st.lists(st.sampled_from(ACTIONS), min_size=3, max_size=14)
answers = st.lists(st.sampled_from(ANSWERS), min_size=1, max_size=4)
visits = st.lists(
    st.tuples(st.integers(50, 4_000), st.sampled_from(WAYS), st.sampled_from(CURSORS)), min_size=1, max_size=8
)


@dataclass
class Story:
    """What happens in the conversation, whoever looks."""

    app: App
    provider: ControlledProvider
    hand: Client
    answers: list[str]
    gates: deque[Gate] = field(default_factory=deque)
    requests: list[str] = field(default_factory=list)

    def script(self, body: Message) -> Script:
        """The answer to the next model call; a gate before every piece, so that the story decides the pace."""
        kind = self.answers[len(self.provider.requests) % len(self.answers)]
        if kind == "tool" and body["messages"][-1]["role"] != "tool":
            steps: list[Any] = ["I ask. ", *tool_call_steps("no_such_tool", '{"a":', " 1}")]
            return Script.text(*self._gated(steps), finish="tool_calls")
        if kind == "cut" and len(self.provider.requests) % 2:
            return Script.text(*self._gated(["half ", "an answer"]), Do.CUT)
        words = [f"{len(self.provider.requests)}.{n} 漢😀 " for n in range(4)]
        if kind == "reasoning":
            return Script.reasoning("let me ", "think", answer=self._gated(words))
        return Script.text(*self._gated(words))

    def _gated(self, steps: list[Any]) -> list[Any]:
        gates = [Gate() for _ in steps]
        self.gates.extend(gates)
        return [step for pair in zip(gates, steps, strict=True) for step in pair]

    async def act(self, action: str) -> None:
        match action:
            case "create" | "branch" if len(self.requests) < 6:
                await self.create(**({"parent_id": None} if action == "branch" else {}))
            case "go on" if self.gates:
                self.gates.popleft().open()
            case "finish":
                while self.gates:
                    self.gates.popleft().open()
            case "cancel":
                await self.hand.cancel(self.requests[len(self.gates) % len(self.requests)])
            case "share":
                role = "viewer" if len(self.gates) % 2 else None
                await self.hand.call(
                    {"type": "conversation.share", "conversation_id": C, "user_id": "bob", "role": role}
                )
            case "trim":
                await trim(self.app.front.services)
        await self.hand.call({"type": "ping"})

    async def create(self, **fields: Any) -> None:
        request = f"r{len(self.requests)}"
        self.requests.append(request)
        await self.hand.create(request, C, f"question {request}", **fields)

    async def end(self) -> Position:
        """Let everything end; where the log ends then."""
        self.provider.default = lambda _body: Script.text("the rest")
        while self.gates:
            self.gates.popleft().open()
        # Not by its terminal event: where the log was trimmed, that may have come within a snapshot.
        for request in self.requests:
            while (await self.hand.status(request))["state"] not in TERMINAL_STATES:
                pass
        return await self.app.front.services.log.position(REF)


async def trim(services: Services) -> None:
    """Drop from the log whatever may be dropped, as if its time had passed."""
    log: Any = services.log
    kept, log._retention_s = log._retention_s, -1
    try:
        await log.trim()
    finally:
        log._retention_s = kept


@dataclass
class Views:
    """What clients held at each seq: the same for all."""

    known: dict[int, Message] = field(default_factory=dict)

    def watch(self, client: Client) -> None:
        fold = client._fold

        def fold_and_compare(frame: list[Message]) -> None:
            fold(frame)
            state = client.folds.get(C)
            if state is not None and any("seq" in message for message in frame):
                view = state.view()
                known = self.known.setdefault(state.seq, view)
                assert known == view, f"two views of seq {state.seq}:\n{known}\n{view}"
                assert state.seq == view["seq"]

        client._fold = fold_and_compare  # type: ignore[method-assign]


@dataclass
class Wanderer:
    """The client that is cut off. `folds` is all it keeps between its connections."""

    app: App
    views: Views
    folds: dict[str, ConversationFold] = field(default_factory=dict)

    async def wander(self, cutter: Cutter, visits: list[tuple[int, str, str]]) -> None:
        for budget, way, cursor in visits:
            with contextlib.suppress(*CUTS):
                port = cutter.port(budget)
                async with connected(self.app.url, hello=False, host="127.0.0.1", port=port) as client:
                    await self.come_back(client, way, cursor)
                    while True:
                        await client.read_frame(60)

    async def come_back(self, client: Client, way: str, cursor: str) -> None:
        since = self._since(cursor)
        client.folds = self.folds
        self.views.watch(client)
        log = self.app.front.services.log
        before = await log.position(REF)
        answer = await _said(client, way, {} if since is None else {"since": since})
        _check(answer, since, before, await log.position(REF))

    def _since(self, cursor: str) -> Message | None:
        fold = self.folds.get(C)
        if fold is None or cursor == "none":
            return None
        match cursor:
            case "of another epoch":
                return {"epoch": "another", "seq": fold.seq}
            case "beyond the end":
                return {"epoch": fold.epoch, "seq": fold.seq + 100_000}
            case "the beginning":
                self.folds[C] = ConversationFold(fold.epoch, 0)
                return {"epoch": fold.epoch, "seq": 0}
        return {"epoch": fold.epoch, "seq": fold.seq}


async def _said(client: Client, way: str, fields: Message) -> Message:
    """Say hello and come back this way; the answer with the verdict."""
    if way.startswith("hello"):
        name = {"request_id": "r0"} if way == "hello with request" else {"conversation_id": C}
        await client.send({"type": "hello", "id": "hello", "resume": [{**name, **fields}]})
        return await client.answer("resume.0")
    await client.send({"type": "hello", "id": "hello"})
    match way:
        case "open":
            return await client.open(C, **fields)
        case "resume":
            return await client.call({"type": "request.resume", "request_id": "r0", **fields})
    answer = await client.create("r0", C, "question r0", **fields)
    assert answer["duplicate"] is True
    return answer


def _check(answer: Message, since: Message | None, before: Position, after: Position) -> None:
    """The verdict is what the cursor deserves, and `missed` is exact."""
    assert answer["epoch"] == before.epoch
    assert before.seq <= answer["seq"] <= after.seq
    useless = since is None or since["epoch"] != answer["epoch"] or since["seq"] > answer["seq"]
    if since is None or useless or since["seq"] < before.trimmed:
        assert answer["verdict"] == "snapshot"
    elif since["seq"] >= after.trimmed:  # else it was trimmed just now
        missed = answer["seq"] - since["seq"]
        assert answer["verdict"] == ("replayed" if missed else "live")
        assert answer.get("missed", 0) == missed


@given(actions=actions, answers=answers, visits=visits)
@settings(max_examples=examples(12), deadline=None, suppress_health_check=list(HealthCheck))
async def test_whoever_is_cut_at_any_byte_and_comes_back_holds_what_all_others_hold(
    actions: list[str], answers: list[str], visits: list[tuple[int, str, str]]
) -> None:
    routes = [{"name": "default", "deployments": ["test"], "max_attempts": 2}]
    limits = {"checkpoint_events": 1 + len(actions) % 4, "tail_bytes": 2_000}
    async with (
        running_stack(routes=routes, limits=limits) as (provider, app),
        connected(app.url) as hand,
        connected(app.url) as steady,
        running_cutter(app.port) as cutter,
    ):
        story = Story(app, provider, hand, answers)
        provider.default = story.script
        views = Views()
        views.watch(steady)
        wanderer = Wanderer(app, views)
        await steady.open(C)
        await story.create()
        await steady.event("message.created", "r0")
        async with asyncio.timeout(60):
            reading = asyncio.create_task(_read(steady))
            wandering = asyncio.create_task(wanderer.wander(cutter, visits))
            try:
                for action in actions:
                    await story.act(action)
                end = await story.end()
            finally:
                await _stop(wandering, reading)
            await steady.until(lambda: steady.folds[C].seq >= end.seq)
            async with connected(app.url, hello=False) as client:
                await wanderer.come_back(client, "open", "its own")
                await client.until(lambda: C in client.folds and client.folds[C].seq >= end.seq)
                assert client.folds[C].view() == steady.folds[C].view()
        await hand.until(lambda: hand.folds[C].seq >= end.seq)
        assert hand.folds[C].view() == steady.folds[C].view()
        assert steady.folds[C].active == {}


async def _read(client: Client) -> None:
    while True:
        await client.read_frame(60)


async def _stop(*tasks: asyncio.Task[None]) -> None:
    """Stop reading, and see what reading found."""
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
