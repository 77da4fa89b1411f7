"""Every command in every state that a request can be in, as tables.

A cell says the answer (an outcome, a state, `ack`, `none`, or the code of an error), then what becomes of the request
where that is not what becomes of it anyway (`>cancelled`), of the request that the command makes (`+merged`), and how
often the model is asked in this conversation where that is not as usual (`*2`). Nothing else happens: each request that
is there has one end, and another one that runs meanwhile goes on. The command comes over another connection than that
of the request; where there are two nodes, at the other one, which does not run the turn. All cells are tried on one
embedded node and on two with Redis (and, when asked for, a Redis Cluster), and no cell differs.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.support import shop_tools
from tests.support.client import CallError, Client, connected
from tests.support.provider import ControlledProvider, Gate, Script, running_provider
from tests.support.server import Nodes, running_server

from turnwire_server.app import App
from turnwire_server.eventlog.base import ConversationRef, Phase, RequestRef

# Ends by itself: queued, running and waiting ones `completed`, ended ones as they are.
BEFORE = """
                    unknown               queued
cancel              recorded              cancelling>cancelled
interrupt           not_found             interrupting>interrupted
tentative           not_found             held
retracted           not_found             resumed
presented           not_found             none
steer               invalid_state         invalid_state
interrupt-create    preparing+completed   queued+completed
parallel-create     preparing+completed   preparing+completed
regenerate          not_found             queued+completed
tool.claim          not_found             not_found
tool.result         not_found             not_found
tool.approve        not_found             not_found
tool.deny           not_found             not_found
tool.cancel         not_found             not_found
resume              not_found             queued
status              not_found             queued
create              preparing>completed   queued
"""
RUNNING = """
                    preparing                       streaming                       held
cancel              cancelling>cancelled            cancelling>cancelled            cancelling>cancelled
interrupt           interrupting>interrupted        interrupting>interrupted        interrupting>interrupted
tentative           held                            held                            held
retracted           resumed                         resumed                         resumed
presented           none                            none                            none
steer               queued+merged*2                 queued+merged*2                 queued+merged*2
interrupt-create    queued>interrupted+completed    queued>interrupted+completed    queued>interrupted+completed
parallel-create     preparing+completed             preparing+completed             preparing+completed
regenerate          queued+completed                queued+completed                queued+completed
tool.claim          not_found                       not_found                       not_found
tool.result         not_found                       not_found                       not_found
tool.approve        not_found                       not_found                       not_found
tool.deny           not_found                       not_found                       not_found
tool.cancel         not_found                       not_found                       not_found
resume              preparing                       streaming                       streaming
status              preparing                       streaming                       streaming
create              preparing                       streaming                       streaming
"""
AT_TOOLS = """
                    on-the-server                 unclaimed                     claimed
cancel              cancelling>cancelled          cancelling>cancelled          cancelling>cancelled
interrupt           interrupting>interrupted      interrupting>interrupted      interrupting>interrupted
tentative           held                          held                          held
retracted           resumed                       resumed                       resumed
presented           none                          none                          none
steer               queued+merged                 queued+merged                 queued+merged
interrupt-create    queued>interrupted+completed  queued>interrupted+completed  queued>interrupted+completed
parallel-create     preparing+completed           preparing+completed           preparing+completed
regenerate          queued+completed              queued+completed              queued+completed
tool.claim          invalid_state                 ack                           ack
tool.result         invalid_state                 invalid_state                 ack>completed
tool.approve        invalid_state                 invalid_state                 invalid_state
tool.deny           invalid_state                 invalid_state                 invalid_state
tool.cancel         ack>completed                 ack>completed                 ack>completed
resume              waiting_tool                  waiting_tool                  waiting_tool
status              waiting_tool                  waiting_tool                  waiting_tool
create              waiting_tool                  waiting_tool                  waiting_tool
"""
ASKING = """
                    asking                        parked
cancel              cancelling>cancelled          cancelling>cancelled
interrupt           interrupting>interrupted      interrupting>interrupted
tentative           held                          held
retracted           resumed                       resumed
presented           none                          none
steer               queued+merged                 queued+merged
interrupt-create    queued>interrupted+completed  queued>interrupted+completed
parallel-create     preparing+completed           preparing+completed
regenerate          queued+completed              queued+completed
tool.claim          invalid_state                 invalid_state
tool.result         invalid_state                 invalid_state
tool.approve        ack>completed                 ack>completed
tool.deny           ack>completed                 ack>completed
tool.cancel         ack>completed                 ack>completed
resume              waiting_approval              waiting_approval
status              waiting_approval              waiting_approval
create              waiting_approval              waiting_approval
"""
ENDED = """
                    completed  cancelled  interrupted  merged  incomplete  failed
cancel              already_terminal
interrupt           amended
tentative           amended
retracted           amended
presented           none
steer               invalid_state
interrupt-create    preparing+completed
parallel-create     preparing+completed
regenerate          preparing+completed
tool.claim          not_found
tool.result         not_found
tool.approve        not_found
tool.deny           not_found
tool.cancel         not_found
resume              =
status              =
create              =
"""

LOOKUP = {
    "name": "lookup",
    "description": "Looks something up in the page.",
    "parameters": {"type": "object", "properties": {}},
}
_AT_ONCE = 32
Cells = dict[tuple[str, str], str]


def cells(table: str) -> Cells:
    """By state and command. One cell in a line counts for all states; `=` is the state itself."""
    head, *lines = [line.split() for line in table.strip().splitlines()]
    found: Cells = {}
    for command, *said in lines:
        for state, cell in zip(head, said if len(said) > 1 else said * len(head), strict=True):
            found[state, command] = state if cell == "=" else cell
    return found


@dataclass
class Case:
    """One command in one state: a conversation of its own with the request ``r``."""

    name: str
    owner: Client
    other: Client
    provider: ControlledProvider
    app: App
    scripts: defaultdict[str, deque[Script]]
    gate: Gate = field(default_factory=Gate)
    message_id: str = "msg_of_nobody"
    call_id: str = "call_of_nobody"
    usual_end: str = "completed"
    begun: int = 1
    """How often the model has been asked when the command comes."""
    calls: int = 1
    """And in the end, if nothing is changed."""
    others: dict[str, str] = field(default_factory=dict)
    """Other requests of the conversation, and how they end."""

    def id(self, which: str = "r") -> str:
        return f"{self.name}.{which}"

    def text(self, which: str = "r") -> str:
        return f"<{self.name}> {which}"

    async def create(self, *steps: Any, which: str = "r", client: Client | None = None, **fields: Any) -> None:
        """Have it answered by these steps, or by a whole script."""
        if steps:
            self.scripts[self.text(which)].append(steps[0] if isinstance(steps[0], Script) else Script.text(*steps))
        await (client or self.owner).create(self.id(which), self.name, self.text(which), **fields)
        created = await self.owner.event("message.created", self.id(which))
        if which == "r":
            self.message_id = created["message"]["message_id"]

    async def begun_call(self, kind: str, name: str, **fields: Any) -> None:
        self.calls = 2
        await self.create(Script.tool_call(name, fields.pop("arguments", "{}")), **fields)
        self.call_id = (await self.owner.event(kind, self.id()))["call_id"]

    async def say(self, client: Client, kind: str, **fields: Any) -> Any:
        return await client.call({"type": kind, "request_id": self.id(), **fields})

    async def say_of_call(self, client: Client, kind: str, **fields: Any) -> Any:
        return await self.say(client, kind, call_id=self.call_id, **fields)

    def asked(self) -> int:
        """How often the model was asked in this conversation."""
        return sum(
            any(f"<{self.name}> " in str(message["content"]) for message in request.messages)
            for request in self.provider.requests
        )


# --- states ----------------------------------------------------------------------------------------------


async def _unknown(case: Case) -> None:
    case.usual_end, case.begun, case.calls = "", 0, 0
    await case.owner.open(case.name)


async def _queued(case: Case) -> None:
    case.calls, case.others = 2, {"r0": "completed"}
    await case.create("One", case.gate, which="r0")
    await case.create()
    await case.owner.event("request.queued", case.id())


async def _preparing(case: Case) -> None:
    await case.create(case.gate, "One")
    await case.gate.reached()


async def _streaming(case: Case) -> None:
    await case.create("One ", case.gate, "two.")
    await case.owner.until(lambda: case.owner.text(case.id()) == "One ")


async def _held(case: Case) -> None:
    await _streaming(case)
    await case.say(case.owner, "request.interrupt", phase="tentative")


async def _on_the_server(case: Case) -> None:
    shop_tools.GATES[f"look {case.name}"] = asyncio.Event()
    await case.begun_call("tool.running", "look", arguments=f'{{"item": "{case.name}"}}')


async def _unclaimed(case: Case) -> None:
    await case.begun_call("tool.called", "lookup", tools=[LOOKUP])


async def _claimed(case: Case) -> None:
    await _unclaimed(case)
    await case.other.open(case.name)
    await case.say_of_call(case.other, "tool.claim")
    await case.owner.event("tool.running", case.id())


async def _asking(case: Case) -> None:
    await case.begun_call("tool.approval_required", "refund", arguments='{"amount": 9}')


async def _parked(case: Case) -> None:
    await _asking(case)
    log = case.app.front.services.log
    async with asyncio.timeout(10):
        while (info := await log.request(RequestRef("default", case.id()))) is None or info.phase is not Phase.PARKED:
            await asyncio.sleep(0.02)


async def _ended(case: Case, end: str, *steps: Any) -> None:
    case.usual_end = end
    await case.create(*steps)
    await case.owner.terminal(case.id())


async def _completed(case: Case) -> None:
    await _ended(case, "completed", "One.")


async def _incomplete(case: Case) -> None:
    await _ended(case, "incomplete", Script.text("One", finish="length"))


async def _failed(case: Case) -> None:
    await _ended(case, "failed", Script.http_error(400, "no"))


async def _cancelled(case: Case) -> None:
    case.usual_end = "cancelled"
    await _streaming(case)
    await case.owner.cancel(case.id())
    await case.owner.terminal(case.id())


async def _interrupted(case: Case) -> None:
    case.usual_end = "interrupted"
    await _streaming(case)
    await case.say(case.owner, "request.interrupt")
    await case.owner.terminal(case.id())


async def _merged(case: Case) -> None:
    case.usual_end, case.begun, case.calls, case.others = "merged", 2, 2, {"r0": "completed"}
    await case.create("One ", case.gate, which="r0")
    await case.owner.until(lambda: case.owner.text(case.id("r0")) == "One ")
    await case.create(on_busy="steer")
    await case.owner.terminal(case.id("r0"))
    await case.owner.terminal(case.id())


STATES: dict[str, Callable[[Case], Awaitable[None]]] = {
    "unknown": _unknown,
    "queued": _queued,
    "preparing": _preparing,
    "streaming": _streaming,
    "held": _held,
    "on-the-server": _on_the_server,
    "unclaimed": _unclaimed,
    "claimed": _claimed,
    "asking": _asking,
    "parked": _parked,
    "completed": _completed,
    "cancelled": _cancelled,
    "interrupted": _interrupted,
    "merged": _merged,
    "incomplete": _incomplete,
    "failed": _failed,
}


async def _let_go_on(case: Case) -> None:
    """Whatever the request waits for comes."""
    case.gate.open()
    if f"look {case.name}" in shop_tools.GATES:
        shop_tools.GATES[f"look {case.name}"].set()
    for kind, fields in (
        ("request.interrupt", {"phase": "retracted"}),
        ("tool.approve", {"call_id": case.call_id}),
        ("tool.claim", {"call_id": case.call_id}),
        ("tool.result", {"call_id": case.call_id, "output": 1}),
    ):
        for client in (case.other, case.owner):
            try:
                await case.say(client, kind, **fields)
            except CallError as error:
                assert error.code in ("not_found", "invalid_state", "already_settled"), error


# --- commands --------------------------------------------------------------------------------------------

_SIMPLE: dict[str, dict[str, Any]] = {
    "cancel": {"type": "request.cancel"},
    "interrupt": {"type": "request.interrupt"},
    "tentative": {"type": "request.interrupt", "phase": "tentative"},
    "retracted": {"type": "request.interrupt", "phase": "retracted"},
    "resume": {"type": "request.resume"},
    "status": {"type": "request.status"},
}
_CREATES: dict[str, dict[str, Any]] = {
    "interrupt-create": {"on_busy": "interrupt"},
    "parallel-create": {"on_busy": "parallel", "parent_id": None},
}


COMMANDS = (
    *_SIMPLE,
    *_CREATES,
    "presented",
    "create",
    "regenerate",
    "steer",
    *(f"tool.{what}" for what in ("claim", "result", "approve", "deny", "cancel")),
)


async def _command(case: Case, command: str) -> str:
    """Say it; the answer as the tables have it."""
    other = case.other
    try:
        if command in _SIMPLE:
            answer = await other.call({**_SIMPLE[command], "request_id": case.id()})
        elif command == "presented":
            mark = {"type": "request.presented", "id": "mark", "request_id": case.id(), "part": 0, "offset": 1}
            await other.send(mark, {"type": "ping", "id": "after"})
            await other.answer("after")
            if "mark" in other._answers:
                await other.answer("mark")
            return "none"
        elif command == "create":
            answer = await other.create(case.id(), case.name, case.text())
        elif command == "regenerate":
            again = {"type": "request.regenerate", "request_id": case.id("new"), "message_id": case.message_id}
            answer = await other.call(again)
        elif command == "steer":
            answer = await other.create(case.id("new"), case.name, case.text("new"), on_busy="steer", target=case.id())
        elif command in _CREATES:
            answer = await other.create(case.id("new"), case.name, case.text("new"), **_CREATES[command])
        else:
            answer = await case.say_of_call(other, command, **({"output": 1} if command == "tool.result" else {}))
    except CallError as error:
        return str(error.code)
    return str(answer.get("outcome") or answer.get("state") or answer["type"])


async def _until_steered(case: Case) -> None:
    """The turn has heard of the request that is to be folded in, and where it writes text it has been."""
    ref, running = ConversationRef("default", case.name), case.id()
    async with asyncio.timeout(10):
        while case.id("new") not in {m["request_id"] for m in case.owner.events("message.merged")}:
            turns = [node.front.hub.turn(ref, running) for node in _nodes(case.app)]
            heard = [turn for turn in turns if turn and turn._running and turn._running.steering.is_waiting]
            if heard and case.calls > 1:
                return
            await case.owner.call({"type": "ping"})


async def _ending(client: Client, request_id: str) -> str:
    return str((await client.terminal(request_id))["type"]).removeprefix("message.")


async def _what_happens(case: Case, command: str, cell: str) -> str:
    """Bring it about; the cell as it should be."""
    await case.other.open(case.name)
    answer = await _command(case, command)
    told = len(case.other.messages)
    await case.other.call({"type": "ping"})  # commands are carried out in order: this one has been, to its end
    rest, _, calls = cell.partition("*")
    rest, _, new = rest.partition("+")
    _, _, end = rest.partition(">")
    if new == "merged":
        await _until_steered(case)
    if not end and case.usual_end:
        await _let_go_on(case)
    happened = answer
    usual = case.calls
    if end or case.usual_end:
        ended = await _ending(case.owner, case.id())
        if ended != case.usual_end or end:
            happened += f">{ended}"
        if command == "create" and not case.usual_end:
            usual += 1
        elif ended != case.usual_end and end:
            usual = case.begun
    if new:
        ended = await _ending(case.owner, case.id("new"))
        happened += f"+{ended}"
        usual += ended == "completed"
    case.gate.open()
    for which, how in case.others.items():
        if command == "interrupt-create" and case.usual_end == "completed":
            how = "interrupted"
        assert await _ending(case.owner, case.id(which)) == how, which
    if (asked := case.asked()) != usual or calls:
        happened += f"*{asked}"
    _judge(case, answer, told)
    return happened


def _judge(case: Case, answer: str, told: int) -> None:
    """What holds in every cell."""
    ends = [m["request_id"] for m in case.owner.messages if m.get("terminal")]
    assert len(ends) == len(set(ends)), f"two ends: {ends}"
    fold = case.owner.folds.get(case.name)
    assert fold is None or not fold.active, "everything has ended"
    if answer in ("cancelling", "interrupting"):
        late = [m for m in case.other.messages[told:] if m.get("request_id") == case.id()]
        assert not [m for m in late if m["type"].endswith(".delta")], "deltas after the answer"


# --- all of it -------------------------------------------------------------------------------------------


async def test_every_command_in_every_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNWIRE_TEST_EFFECTS", str(tmp_path / "effects"))
    shop_tools.GATES.clear()
    expected = {at: cell for table in (BEFORE, RUNNING, AT_TOOLS, ASKING, ENDED) for at, cell in cells(table).items()}
    assert len(expected) == len(STATES) * len(COMMANDS)
    scripts: defaultdict[str, deque[Script]] = defaultdict(deque)

    def answer(body: dict[str, Any]) -> Script:
        waiting = scripts[str(body["messages"][-1]["content"])]
        return waiting.popleft() if waiting else Script.text("Said.")

    found: Cells = {}
    limits = {"interrupt_hold_s": 60, "connections_per_user": 1000, "heartbeat_s": 600, "command_timeout_s": 60}
    tools = {"modules": ["tests.support.shop_tools"]}
    async with running_provider() as provider, AsyncExitStack() as servers:
        provider.default = answer
        deployment = {"name": "test", "model": "test-model", "base_url": provider.base_url, "idle_timeout_s": 600}
        routes = [{"name": "default", "deployments": ["test"], "max_attempts": 1}]
        sections = {"limits": limits, "tools": tools, "deployments": [deployment], "routes": routes}
        app = await servers.enter_async_context(running_server(**sections))
        async with connected(app.url) as bystander:
            gate = Gate()
            provider.script(Script.text("One ", gate, "two."))
            await bystander.create("by", "by", "by")
            await bystander.until(lambda: bystander.text("by") == "One ")

            places = asyncio.Semaphore(_AT_ONCE)

            async def one(state: str, command: str) -> None:
                async with places, AsyncExitStack() as stack:
                    owner = await stack.enter_async_context(connected(_nodes(app)[0].url))
                    other = await stack.enter_async_context(connected(_nodes(app)[-1].url))
                    case = Case(f"{state}.{command}", owner, other, provider, app, scripts)
                    try:
                        await STATES[state](case)
                        found[state, command] = await _what_happens(case, command, expected[state, command])
                    except (AssertionError, TimeoutError, CallError) as error:
                        found[state, command] = f"{type(error).__name__}: {error}"

            async with asyncio.TaskGroup() as group:
                # Those first that wait longest before they are in their state.
                for state, command in sorted(expected, key=lambda at: at[0] != "parked"):
                    group.create_task(one(state, command))
            wrong = [f"{at}: {cell}, not {expected[at]}" for at, cell in found.items() if cell != expected[at]]
            assert not wrong, "\n".join(wrong)
            assert (await bystander.status("by"))["state"] == "streaming"
            gate.open()
            assert await _ending(bystander, "by") == "completed"


def _nodes(app: App) -> tuple[App, ...]:
    return app.apps if isinstance(app, Nodes) else (app,)
