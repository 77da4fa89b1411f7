"""What voice front ends rely upon when somebody speaks while an answer is being spoken.

The rest of it stands elsewhere: how far an answer was heard, and reports that are late, doubled or wrong, in
`test_turn_control`; sentences and clauses in `test_segments` and `tests/server/transport`; which tools finish and which
stop in `test_tool_calls`; all of it in every order in `tests/interleavings`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.test_router import over
from tests.support import shop_tools
from tests.support.client import CallError, Client, connected
from tests.support.prompt_rules import faults_of
from tests.support.provider import ControlledProvider, Do, Gate, Script, running_provider, tool_call_steps
from tests.support.server import running_server
from tests.support.stack import running_stack

from turnwire_server.app import App

HANG_UP = {
    "name": "hang_up",
    "description": "Ends the call.",
    "parameters": {"type": "object", "properties": {}},
}


@pytest.fixture(autouse=True)
def effects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNWIRE_TEST_EFFECTS", str(tmp_path / "effects"))
    shop_tools.GATES.clear()
    shop_tools.REACHED.clear()


@asynccontextmanager
async def _shop(**limits: Any) -> AsyncIterator[tuple[ControlledProvider, App]]:
    tools = {"modules": ["tests.support.shop_tools"]}
    async with running_stack(tools=tools, limits=limits) as (provider, app):
        yield provider, app


async def _interrupt(client: Client, request_id: str = "r1", **fields: Any) -> str:
    answer = await client.call({"type": "request.interrupt", "request_id": request_id, **fields})
    return str(answer["outcome"])


async def _answered(client: Client, request_id: str, **fields: Any) -> str:
    """Say something; how it ended."""
    await client.create(request_id, "c1", f"<{request_id}>", **fields)
    return str((await client.terminal(request_id))["type"])


# agents-js#2059: a token that was on its way was spoken after the interrupt.
async def test_after_the_answer_to_an_interrupt_nothing_more_is_said_whatever_the_model_still_says() -> None:
    async with _shop() as (provider, app), connected(app.url) as client:
        provider.script(Script.words(10_000, rate=200))
        await client.create("r1", "c1", "go on", segments={"unit": "clause", "max_hold_ms": 50})
        await client.event("output_text.segment", "r1")
        assert await _interrupt(client) == "interrupting"
        answered = next(n for n, message in enumerate(client.messages) if message.get("outcome") == "interrupting")
        await client.terminal("r1")
        await client.call({"type": "ping"})
        late = [m for m in client.messages[answered:] if m.get("request_id") == "r1" and m.get("text")]
        assert [m["type"] for m in late] == []
        await provider.client_gone(0)


# pipecat#5426: the answer that nobody heard stayed in the history; agents#3702: the result of a tool did not.
async def test_an_answer_of_which_nothing_was_heard_goes_but_what_its_tools_did_stays() -> None:
    async with _shop() as (provider, app), connected(app.url) as client:
        provider.script(
            Script.tool_call("charge", '{"amount": 3}'),
            Script.text("You have been charged three.", Gate()),
        )
        await client.create("r1", "c1", "<r1>")
        await client.until(lambda: client.text("r1") != "")
        await _interrupt(client, presented={"part": 0, "offset": 0})
        await client.terminal("r1")
        assert await _answered(client, "r2") == "message.completed"
        prompt = provider.requests[-1].messages
        assert faults_of(prompt) == []
        assert [(m["role"], m["content"]) for m in prompt] == [
            ("user", "<r1>"),
            ("assistant", None),
            ("tool", '{"charged":3}'),
            ("user", "<r2>"),
        ]


# agents-js#2059: three replies at once, because the old ones did not let themselves be cancelled.
async def test_a_superseded_turn_whose_tool_does_not_stop_says_nothing_more_and_holds_up_nobody() -> None:
    shop_tools.GATES["ignored"] = asyncio.Event()
    async with _shop(tool_cancel_grace_s=0.2) as (provider, app), connected(app.url) as client:
        provider.script(Script.tool_call("ignore_cancel", "{}"))
        await client.create("r1", "c1", "<r1>")
        await client.event("tool.running")
        assert await _answered(client, "r2", on_busy="interrupt") == "message.completed"
        old = await client.terminal("r1")
        assert (old["type"], old["reason"]) == ("message.interrupted", "superseded")
        shop_tools.GATES["ignored"].set()
        await client.call({"type": "ping"})
        assert client.events(request_id="r1")[-1] == old
        assert len(provider.requests) == 2


# agents#1976, pipecat#4997: a call of an answer that was thrown away was run all the same, or had no result.
async def test_a_call_that_was_being_written_when_the_user_spoke_is_never_run_and_has_a_result() -> None:
    gate = Gate()
    async with _shop() as (provider, app), connected(app.url) as client:
        first, *rest = tool_call_steps("charge", '{"amo', 'unt": 3}')
        provider.script(Script(["One moment. ", first, rest[0], gate, rest[1]], finish="tool_calls"))
        await client.create("r1", "c1", "<r1>")
        await client.event("tool.started", "r1")
        await _interrupt(client)
        gate.open()
        ending = await client.terminal("r1")
        assert (await client.event("tool.failed", "r1"))["outcome"] == "never_started"
        assert [part["kind"] for part in ending["message"]["parts"]] == ["text", "tool_call"]
        assert await _answered(client, "r2") == "message.completed"
        assert faults_of(provider.requests[-1].messages) == []
        assert shop_tools.effects() == []


async def test_a_call_of_an_attempt_that_was_thrown_away_is_never_run() -> None:
    async with running_provider() as first, running_provider() as second:
        first.script(Script([*tool_call_steps("charge", '{"amount": 3}'), Do.CUT]))
        second.script(Script.text("No charge."))
        sections = over(first, second) | {"tools": {"modules": ["tests.support.shop_tools"]}}
        async with running_server(**sections) as app, connected(app.url) as client:
            assert await _answered(client, "r1") == "message.completed"
            parts = (await client.terminal("r1"))["message"]["parts"]
            assert parts == [{"kind": "text", "text": "No charge."}]
            assert shop_tools.effects() == []


@pytest.mark.parametrize("command", ["request.interrupt", "request.cancel"])
@pytest.mark.parametrize("half", [[], ["One "]], ids=["before the first token", "in the midst"])
async def test_what_was_stopped_is_not_begun_again_by_the_next_deployment(command: str, half: list[str]) -> None:
    async with running_provider() as first, running_provider() as second:
        first.script(Script.stalled_after(*half))
        # The first is given up for being slow a moment after it was stopped, unless it was stopped for all.
        async with running_server(**over(first, second, first_token_timeout_s=1, idle_timeout_s=1)) as app:
            async with connected(app.url) as client:
                await client.create("r1", "c1", "<r1>")
                await (client.until(lambda: client.text("r1") == "One ") if half else first.request_received(0))
                await client.call({"type": command, "request_id": "r1"})
                assert (await client.terminal("r1"))["type"] in ("message.interrupted", "message.cancelled")
                await first.client_gone(0)
                assert await _answered(client, "r2") == "message.completed"
                asked = [m["content"] for r in second.requests for m in r.messages if m["role"] == "user"]
                assert len(first.requests) + len(second.requests) == 2, asked


# pipecat-flows#225: what the user said while they could not be listened to was lost.
@pytest.mark.parametrize("on_busy", ["queue", "interrupt", "steer"])
async def test_what_is_said_while_something_runs_that_may_not_be_interrupted_waits_and_is_answered(
    on_busy: str,
) -> None:
    shop_tools.GATES["charge"] = asyncio.Event()
    async with _shop() as (provider, app), connected(app.url) as client:
        provider.script(Script.tool_call("charge", '{"amount": 3}'), Script.text("Charged."), Script.text("And that."))
        await client.create("r1", "c1", "<r1>")
        await client.event("tool.running")
        assert (await client.create("r2", "c1", "<r2>", on_busy=on_busy))["state"] == "queued"
        await client.call({"type": "ping"})
        assert not client.events("tool.completed")
        shop_tools.GATES["charge"].set()
        await client.terminal("r1")
        await client.terminal("r2")
        assert (await client.event("tool.completed"))["output"] == {"charged": 3}
        last = provider.requests[-1].messages
        assert faults_of(last) == []
        assert [m["content"] for m in last if m["role"] == "user"] == ["<r1>", "<r2>"]


async def _in_the_queue(client: Client, provider: ControlledProvider) -> None:
    await _in_the_midst(client, provider)
    await client.create("r2", "c1", "<r2>")
    await _interrupt(client, "r2")
    await _interrupt(client)


async def _at_once(client: Client, provider: ControlledProvider) -> None:
    create = {"type": "request.create", "request_id": "r1", "conversation_id": "c1", "input": "<r1>"}
    await client.send({**create, "id": "a"}, {"type": "request.interrupt", "request_id": "r1", "id": "b"})
    await client.answer("a")
    await client.answer("b")


async def _before_the_first_token(client: Client, provider: ControlledProvider) -> None:
    provider.script(Script.never_answers())
    await client.create("r1", "c1", "<r1>")
    await provider.request_received(0)
    await _interrupt(client)


async def _in_the_midst(client: Client, provider: ControlledProvider) -> None:
    provider.script(Script.stalled_after("One "))
    await client.create("r1", "c1", "<r1>")
    await client.until(lambda: client.text("r1") == "One ")


async def _while_held_back(client: Client, provider: ControlledProvider) -> None:
    await _in_the_midst(client, provider)
    await _interrupt(client, phase="tentative")
    await _interrupt(client)


async def _in_a_tool(client: Client, provider: ControlledProvider) -> None:
    provider.script(Script.tool_call("count", "{}"))
    await client.create("r1", "c1", "<r1>")
    await client.event("tool.running")
    await _interrupt(client, presented={"text": "something that was never said"})


async def _twice(client: Client, provider: ControlledProvider) -> None:
    await _in_the_midst(client, provider)
    await _interrupt(client, presented={"part": 9, "offset": 10**6})
    await _interrupt(client, presented={"part": 0, "offset": 1})


async def _after_the_end(client: Client, provider: ControlledProvider) -> None:
    assert await _answered(client, "r1") == "message.completed"
    await _interrupt(client, presented={"part": 0, "offset": 2})


# agents-js#1791, livekit#4484, pipecat#3677: after an interrupt at the wrong moment the bot was silent for ever.
@pytest.mark.parametrize(
    "moment",
    [
        _at_once,
        _before_the_first_token,
        _in_the_midst,
        _while_held_back,
        _in_a_tool,
        _in_the_queue,
        _twice,
        _after_the_end,
    ],
    ids=lambda moment: moment.__name__.strip("_"),
)
async def test_whenever_it_was_interrupted_the_next_thing_that_is_said_is_answered(
    moment: Callable[[Client, ControlledProvider], Awaitable[None]],
) -> None:
    async with _shop() as (provider, app), connected(app.url) as client:
        await moment(client, provider)
        if moment is _in_the_midst:
            await _interrupt(client)
        await client.terminal("r1")
        assert await _answered(client, "next") == "message.completed"
        prompt = provider.requests[-1].messages
        assert faults_of(prompt) == []
        assert prompt[-1]["content"].endswith("<next>")


async def test_an_action_that_goes_with_an_answer_is_dropped_when_the_answer_is_interrupted() -> None:
    """A front end claims such a call once the answer has been played; after an interrupt there is nothing to claim."""
    async with _shop() as (provider, app), connected(app.url) as client:
        steps = ["Good bye. ", *tool_call_steps("hang_up", "{}")]
        provider.script(Script(steps, finish="tool_calls"))
        await client.create("r1", "c1", "<r1>", tools=[HANG_UP])
        call_id = (await client.event("tool.called"))["call_id"]
        await _interrupt(client, presented={"text": "Good"})
        with pytest.raises(CallError) as refused:
            await client.call({"type": "tool.claim", "request_id": "r1", "call_id": call_id})
        assert refused.value.code == "already_settled"
        ending = await client.terminal("r1")
        assert ending["message"]["parts"][0] == {"kind": "text", "text": "Good"}
        assert (await client.event("tool.failed"))["outcome"] == "never_started"
