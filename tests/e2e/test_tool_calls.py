"""Tools as jobs that everybody can watch: on the server, at a client, after somebody agreed; whatever they do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support import shop_tools
from tests.support.client import CallError, Client, connected
from tests.support.provider import ControlledProvider, Script, running_provider
from tests.support.provider_script import tool_call_steps
from tests.support.server import running_server, token
from tests.support.stack import running_stack

from turnwire_server.app import App

LOOKUP = {
    "name": "lookup",
    "description": "Looks something up in the page.",
    "parameters": {"type": "object", "properties": {"what": {"type": "string"}}, "required": ["what"]},
}


@pytest.fixture(autouse=True)
def effects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNWIRE_TEST_EFFECTS", str(tmp_path / "effects"))
    shop_tools.GATES.clear()
    shop_tools.REACHED.clear()


@asynccontextmanager
async def _shop(**sections: Any) -> AsyncIterator[tuple[ControlledProvider, App]]:
    tools = {"modules": ["tests.support.shop_tools"]}
    async with running_stack(tools=tools, **sections) as (provider, app):
        yield provider, app


def _calls(provider: ControlledProvider, *calls: tuple[str, dict[str, Any]]) -> None:
    """The model makes these calls in one step, and then says that it is done."""
    steps: list[Any] = []
    for index, (name, arguments) in enumerate(calls):
        steps += tool_call_steps(name, json.dumps(arguments), call_id=f"p{index}", index=index)
    provider.script(Script(steps, finish="tool_calls"), Script.text("Done."))


async def _ask(client: Client, **fields: Any) -> None:
    await client.create("r1", "c1", "please", **fields)


def _told(provider: ControlledProvider) -> list[str]:
    """What the model was told of its calls."""
    return [m["content"] for m in provider.requests[-1].messages if m["role"] == "tool"]


async def _say(client: Client, kind: str, call_id: str, **fields: Any) -> None:
    await client.call({"type": kind, "request_id": "r1", "call_id": call_id, **fields})


async def _refused(client: Client, kind: str, call_id: str, **fields: Any) -> str:
    with pytest.raises(CallError) as refused:
        await _say(client, kind, call_id, **fields)
    return str(refused.value.code)


# --- on the server ---------------------------------------------------------------------------------------


async def test_a_call_shows_every_state_and_its_result_goes_to_the_model() -> None:
    async with _shop() as (provider, app), connected(app.url) as client:
        _calls(provider, ("look", {"item": "lamp"}))
        await _ask(client)
        ending = await client.terminal("r1")
        kinds = [m["type"] for m in client.events(request_id="r1") if m["type"].startswith("tool.")]
        assert kinds[0] == "tool.started"
        assert kinds[-3:] == ["tool.called", "tool.running", "tool.completed"]
        assert ending["message"]["parts"][0]["output"] == {"item": "lamp"}
        assert [json.loads(said) for said in _told(provider)] == [{"item": "lamp"}]


async def test_calls_of_one_step_run_side_by_side() -> None:
    async with _shop() as (provider, app), connected(app.url) as client:
        for item in ("a", "b"):
            shop_tools.GATES[f"look {item}"] = asyncio.Event()
        _calls(provider, ("look", {"item": "a"}), ("look", {"item": "b"}))
        await _ask(client)
        await client.until(lambda: len(client.events("tool.running")) == 2)
        assert (await client.status("r1"))["state"] == "waiting_tool"
        shop_tools.GATES["look b"].set()
        await client.event("tool.completed")
        shop_tools.GATES["look a"].set()
        parts = (await client.terminal("r1"))["message"]["parts"]
        assert [part.get("output") for part in parts[:2]] == [{"item": "a"}, {"item": "b"}]
        assert [json.loads(said) for said in _told(provider)] == [{"item": "a"}, {"item": "b"}]


@pytest.mark.parametrize(
    ("name", "arguments", "outcome", "error"),
    [
        ("look", {"thing": 1}, "never_started", "item"),
        ("hang", {}, "timed_out", "did not finish"),
        ("big", {}, "failed", "bytes"),
        ("leave", {}, "failed", "failed"),
        ("refuse", {"reason": "it is closed"}, "failed", "it is closed"),
        ("no_such_tool", {}, "never_started", "no tool"),
    ],
)
async def test_whatever_a_tool_does_the_model_is_told_and_the_turn_goes_on(
    name: str, arguments: dict[str, Any], outcome: str, error: str
) -> None:
    async with _shop() as (provider, app), connected(app.url) as client:
        _calls(provider, (name, arguments))
        await _ask(client)
        assert (await client.terminal("r1"))["type"] == "message.completed"
        (failed,) = client.events("tool.failed")
        assert failed["outcome"] == outcome
        assert error in failed["error"]
        assert error in _told(provider)[0]


async def test_a_tool_that_may_is_tried_again() -> None:
    async with _shop() as (provider, app), connected(app.url) as client:
        _calls(provider, ("shaky", {}))
        await _ask(client)
        await client.terminal("r1")
        assert _told(provider) == ["at last"]


async def test_a_flood_of_progress_is_thinned_out() -> None:
    async with _shop() as (provider, app), connected(app.url) as client:
        _calls(provider, ("flood", {}))
        await _ask(client)
        await client.terminal("r1", 30)
        assert 1 <= len(client.events("tool.progress")) < 200
        assert _told(provider) == ["done"]


async def test_one_call_is_cancelled_and_the_turn_goes_on() -> None:
    async with _shop() as (provider, app), connected(app.url) as client:
        _calls(provider, ("count", {}), ("look", {"item": "lamp"}))
        await _ask(client)
        call_id = (await client.event("tool.progress"))["call_id"]
        done = (await client.event("tool.completed"))["call_id"]
        assert await _refused(client, "tool.cancel", done) == "already_settled"
        for _ in range(2):
            await _say(client, "tool.cancel", call_id)
        assert (await client.event("tool.failed"))["outcome"] == "cancelled"
        assert (await client.terminal("r1"))["type"] == "message.completed"


async def test_a_tool_that_ignores_its_cancel_is_left_to_itself_and_its_effect_is_unknown() -> None:
    async with _shop(limits={"tool_cancel_grace_s": 0.1}) as (provider, app), connected(app.url) as client:
        _calls(provider, ("ignore_cancel", {}))
        await _ask(client)
        await client.event("tool.running")
        await client.cancel("r1")
        assert (await client.terminal("r1"))["type"] == "message.cancelled"
        assert (await client.event("tool.failed"))["outcome"] == "unknown"


@pytest.mark.parametrize("command", ["request.cancel", "request.interrupt"])
async def test_what_is_not_interruptible_finishes_and_its_result_is_kept(command: str) -> None:
    async with _shop() as (provider, app), connected(app.url) as client:
        shop_tools.GATES["charge"] = asyncio.Event()
        _calls(provider, ("charge", {"amount": 5}))
        await _ask(client)
        await client.event("tool.running")
        await client.call({"type": command, "request_id": "r1"})
        shop_tools.GATES["charge"].set()
        ending = await client.terminal("r1")
        assert ending["type"] in ("message.cancelled", "message.interrupted")
        assert (await client.event("tool.completed"))["output"] == {"charged": 5}
        assert shop_tools.effects() == ["charge 5"]
        await client.create("r2", "c1", "and?")
        await client.terminal("r2")
        assert [json.loads(said) for said in _told(provider)] == [{"charged": 5}]


async def test_the_same_call_again_and_again_ends_the_turn() -> None:
    async with _shop(limits={"steps_per_turn": 50}) as (provider, app), connected(app.url) as client:
        for _ in range(10):
            provider.script(Script.tool_call("look", '{"item": "lamp"}'))
        await _ask(client)
        ending = await client.terminal("r1")
        assert (ending["type"], ending["reason"]) == ("message.incomplete", "steps")
        assert len(provider.requests) == 4


async def test_a_turn_that_has_cost_enough_begins_no_further_step() -> None:
    async with running_provider() as provider:
        deployment = {"name": "test", "model": "m", "base_url": provider.base_url, "output_usd_per_mtok": "10"}
        sections: dict[str, Any] = {
            "deployments": [deployment],
            "routes": [{"name": "default", "deployments": ["test"]}],
            "tools": {"modules": ["tests.support.shop_tools"]},
            "limits": {"turn_cost_usd": "0.000001"},
        }
        async with running_server(**sections) as app, connected(app.url) as client:
            provider.script(Script(tool_call_steps("look", '{"item": "lamp"}'), finish="tool_calls", usage=(9, 9)))
            await _ask(client)
            ending = await client.terminal("r1")
            assert (ending["type"], ending["reason"]) == ("message.incomplete", "budget")
            assert len(provider.requests) == 1


# --- at a client -----------------------------------------------------------------------------------------


async def _client_call(client: Client, provider: ControlledProvider, **fields: Any) -> str:
    """A client's tool has been called; the id of the call."""
    _calls(provider, ("lookup", {"what": "price"}))
    await _ask(client, tools=[{**LOOKUP, **fields}])
    called = await client.event("tool.called")
    assert (called["where"], called["arguments"]) == ("client", {"what": "price"})
    return str(called["call_id"])


async def test_a_client_claims_a_call_runs_it_and_says_the_result() -> None:
    async with _shop() as (provider, app), connected(app.url) as client:
        call_id = await _client_call(client, provider)
        assert await _refused(client, "tool.result", call_id, output=1) == "invalid_state"
        await _say(client, "tool.claim", call_id)
        await client.event("tool.running")
        await _say(client, "tool.claim", call_id)
        for _ in range(2):
            await _say(client, "tool.result", call_id, output={"price": 3})
        assert (await client.event("tool.completed"))["output"] == {"price": 3}
        await client.terminal("r1")
        assert [json.loads(said) for said in _told(provider)] == [{"price": 3}]
        assert await _refused(client, "tool.result", call_id, output=1) == "already_settled"


async def test_of_two_tabs_one_gets_the_call() -> None:
    async with _shop() as (provider, app), connected(app.url) as one, connected(app.url) as two:
        await two.open("c1")
        call_id = await _client_call(one, provider)
        await two.event("tool.called")

        async def claim(tab: Client) -> str:
            try:
                await _say(tab, "tool.claim", call_id)
            except CallError as error:
                return str(error.code)
            return "mine"

        outcomes = await asyncio.gather(claim(one), claim(two))
        assert sorted(outcomes) == ["already_settled", "mine"]
        winner, other = (one, two) if outcomes[0] == "mine" else (two, one)
        assert await _refused(other, "tool.result", call_id, output=1) == "invalid_state"
        await _say(winner, "tool.result", call_id, error="no such price")
        failed = await one.event("tool.failed")
        assert (failed["outcome"], failed["error"]) == ("failed", "no such price")


async def test_a_claim_survives_a_reconnect_of_its_instance() -> None:
    async with _shop(limits={"claim_lapse_s": 30}) as (provider, app):
        who = {"name": "tab", "version": "1", "instance_id": "tab-1"}
        async with connected(app.url, hello=False) as first:
            await first.call({"type": "hello", "client": who})
            call_id = await _client_call(first, provider)
            await _say(first, "tool.claim", call_id)
        async with connected(app.url, hello=False) as again:
            await again.call({"type": "hello", "client": who})
            await again.open("c1")
            await _say(again, "tool.claim", call_id)
            await _say(again, "tool.result", call_id, output="7")
            await again.terminal("r1")
        assert _told(provider) == ["7"]


async def test_a_claim_lapses_with_its_client_and_another_may_have_it() -> None:
    async with _shop(limits={"claim_lapse_s": 0.1}) as (provider, app), connected(app.url) as watching:
        await watching.open("c1")
        async with connected(app.url) as first:
            call_id = await _client_call(first, provider, side_effect=False)
            await _say(first, "tool.claim", call_id)
            assert await _refused(watching, "tool.claim", call_id) == "already_settled"
        async with asyncio.timeout(60):
            while await _may_not(watching, call_id):
                await asyncio.sleep(0.1)
        await _say(watching, "tool.result", call_id, output="found")
        await watching.terminal("r1")
        assert _told(provider) == ["found"]


async def _may_not(client: Client, call_id: str) -> bool:
    try:
        await _say(client, "tool.claim", call_id)
    except CallError as error:
        assert error.code == "already_settled"
        return True
    return False


async def test_what_has_side_effects_is_not_given_to_a_second_client() -> None:
    async with _shop(limits={"claim_lapse_s": 0.1}) as (provider, app), connected(app.url) as watching:
        await watching.open("c1")
        async with connected(app.url) as first:
            call_id = await _client_call(first, provider)
            await _say(first, "tool.claim", call_id)
        failed = await watching.event("tool.failed", wait_s=15)
        assert failed["outcome"] == "unknown"
        assert await _refused(watching, "tool.claim", call_id) == "already_settled"


async def test_nobody_takes_it_up() -> None:
    async with _shop(limits={"client_tool_timeout_s": 0.3}) as (provider, app), connected(app.url) as client:
        await _client_call(client, provider)
        assert (await client.event("tool.failed"))["outcome"] == "timed_out"
        assert (await client.terminal("r1"))["type"] == "message.completed"


# It asked for the time again and again, as fast as the storage answered, until the turn's deadline.
async def test_a_client_that_claims_a_call_and_says_nothing_more_does_not_hold_it_for_ever() -> None:
    async with _shop(limits={"client_tool_timeout_s": 0.5}) as (provider, app), connected(app.url) as client:
        call_id = await _client_call(client, provider)
        await _say(client, "tool.claim", call_id)
        failed = await client.event("tool.failed")
        assert (failed["outcome"], failed["error"]) == ("unknown", "the client did not finish this in time")
        assert await _refused(client, "tool.result", call_id, output=1) == "already_settled"
        assert (await client.terminal("r1"))["type"] == "message.completed"


async def test_only_its_author_s_clients_run_it() -> None:
    async with _shop(jwt=True) as (provider, app):
        async with (
            connected(app.url, token=token("alice")) as alice,
            connected(app.url, token=token("bob")) as bob,
            connected(app.url, token=token("mallory", "other")) as mallory,
        ):
            await alice.open("c1", visibility="tenant")
            await bob.open("c1")
            call_id = await _client_call(alice, provider)
            for client, code in ((bob, "forbidden"), (mallory, "not_found")):
                assert await _refused(client, "tool.claim", call_id) == code
            assert await _refused(alice, "tool.claim", "call_of_nobody") == "not_found"
            await alice.cancel("r1")
            await alice.terminal("r1")
            assert await _refused(alice, "tool.claim", call_id) == "already_settled"


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"name": "look"}, "name of a tool of the server"),
        ({"parameters": {"type": "object", "properties": {"a": {"type": "nonsense"}}}}, "JSON Schema"),
        ({"parameters": {"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1/a"}}}}, "lookup"),
    ],
)
async def test_a_tool_that_cannot_be_offered_is_refused(declared: dict[str, Any], said: str) -> None:
    async with _shop() as (_provider, app), connected(app.url) as client:
        with pytest.raises(CallError, match=said) as refused:
            await _ask(client, tools=[{**LOOKUP, **declared}])
        assert refused.value.code == "bad_command"


# --- with approval ---------------------------------------------------------------------------------------


async def _asked(client: Client, provider: ControlledProvider, name: str = "refund") -> str:
    _calls(provider, (name, {"amount": 9}))
    await _ask(client)
    required = await client.event("tool.approval_required")
    assert required["arguments"] == {"amount": 9}
    assert (await client.status("r1"))["state"] == "waiting_approval"
    return str(required["call_id"])


async def test_an_approved_call_is_run() -> None:
    async with _shop() as (provider, app), connected(app.url) as client:
        call_id = await _asked(client, provider)
        assert shop_tools.effects() == []
        await _say(client, "tool.approve", call_id)
        await client.terminal("r1")
        assert (await client.event("tool.approved"))["by"] == "dev"
        assert shop_tools.effects() == ["refund 9"]


async def test_a_denied_call_is_not_run_and_the_model_is_told_why() -> None:
    async with _shop() as (provider, app), connected(app.url) as client:
        call_id = await _asked(client, provider)
        for _ in range(2):
            await _say(client, "tool.deny", call_id, reason="too much")
        await client.terminal("r1")
        assert (await client.event("tool.failed"))["outcome"] == "denied"
        assert "too much" in _told(provider)[0]
        assert shop_tools.effects() == []


async def test_approved_with_other_arguments_these_are_used_and_checked() -> None:
    async with _shop() as (provider, app), connected(app.url) as client:
        call_id = await _asked(client, provider)
        assert await _refused(client, "tool.approve", call_id, arguments={"amount": "all"}) == "bad_command"
        for _ in range(2):
            await _say(client, "tool.approve", call_id, arguments={"amount": 4})
        assert await _refused(client, "tool.approve", call_id) == "already_settled"
        await client.terminal("r1")
        assert (await client.event("tool.approved"))["arguments"] == {"amount": 4}
        assert shop_tools.effects() == ["refund 4"]


async def test_one_decision_counts() -> None:
    async with _shop() as (provider, app), connected(app.url) as one, connected(app.url) as two:
        await two.open("c1")
        call_id = await _asked(one, provider)
        await two.event("tool.approval_required")

        async def decide(client: Client, kind: str) -> str:
            try:
                await _say(client, kind, call_id)
            except CallError as error:
                return str(error.code)
            return kind

        said = await asyncio.gather(decide(one, "tool.approve"), decide(two, "tool.deny"))
        assert sorted(said)[0] == "already_settled"
        await one.terminal("r1")
        assert shop_tools.effects() == (["refund 9"] if "tool.approve" in said else [])


async def test_nobody_agrees_in_time() -> None:
    async with _shop() as (provider, app), connected(app.url) as client:
        call_id = await _asked(client, provider, "refund_soon")
        assert (await client.event("tool.failed"))["outcome"] == "timed_out"
        assert (await client.terminal("r1"))["type"] == "message.completed"
        assert await _refused(client, "tool.approve", call_id) == "already_settled"
        assert shop_tools.effects() == []


async def test_a_turn_that_waits_is_parked_and_goes_on_when_somebody_agrees() -> None:
    async with _shop(limits={"park_after_s": 0.1}) as (provider, app), connected(app.url) as client:
        call_id = await _asked(client, provider)
        async with asyncio.timeout(60):
            while app.front.hub.running_turns:
                await asyncio.sleep(0.05)
        assert (await client.status("r1"))["state"] == "waiting_approval"
        async with connected(app.url) as late:
            await late.open("c1")
            snapshot = await late.event("conversation.snapshot")
            (part,) = snapshot["active"][0]["message"]["parts"]
            assert (part["state"], part["approval"]["arguments"]) == ("waiting_approval", {"amount": 9})
            await _say(late, "tool.approve", call_id)
        ending = await client.terminal("r1")
        assert ending["type"] == "message.completed"
        assert (await client.status("r1"))["run"] == 1
        assert shop_tools.effects() == ["refund 9"]


async def test_a_parked_turn_can_be_cancelled() -> None:
    async with _shop(limits={"park_after_s": 0.1}) as (provider, app), connected(app.url) as client:
        await _asked(client, provider)
        async with asyncio.timeout(60):
            while app.front.hub.running_turns:
                await asyncio.sleep(0.05)
        await client.cancel("r1")
        ending = await client.terminal("r1")
        assert ending["type"] == "message.cancelled"
        assert ending["message"]["parts"][0]["state"] == "failed"
        assert shop_tools.effects() == []


async def test_a_client_s_tool_may_need_an_approval_too() -> None:
    async with _shop() as (provider, app), connected(app.url) as client:
        _calls(provider, ("lookup", {"what": "price"}))
        await _ask(client, tools=[{**LOOKUP, "approval": "required", "approval_timeout_s": 60}])
        call_id = (await client.event("tool.approval_required"))["call_id"]
        assert await _refused(client, "tool.claim", call_id) == "invalid_state"
        await _say(client, "tool.approve", call_id)
        await client.event("tool.approved")
        await _say(client, "tool.claim", call_id)
        await _say(client, "tool.result", call_id, output="yes")
        await client.terminal("r1")
        assert _told(provider) == ["yes"]


async def test_an_editor_approves_its_own_and_an_owner_everything() -> None:
    async with _shop(jwt=True) as (provider, app):
        async with (
            connected(app.url, token=token("alice")) as alice,
            connected(app.url, token=token("bob")) as bob,
        ):
            await alice.open("c1", visibility="tenant")
            call_id = await _asked(bob, provider)
            await alice.event("tool.approval_required")
            await _say(alice, "tool.deny", call_id)
            await bob.terminal("r1")
        async with (
            connected(app.url, token=token("alice")) as alice,
            connected(app.url, token=token("bob")) as bob,
        ):
            await bob.open("c1")
            _calls(provider, ("refund", {"amount": 1}))
            await alice.create("r2", "c1", "mine")
            call_id = str((await alice.event("tool.approval_required", "r2"))["call_id"])
            command = {"type": "tool.approve", "request_id": "r2", "call_id": call_id}
            with pytest.raises(CallError) as refused:
                await bob.call(command)
            assert refused.value.code == "forbidden"
            await alice.call(command)
            await alice.terminal("r2")


async def test_a_server_that_ends_leaves_what_waits_for_people_to_the_next(tmp_path: Path) -> None:
    async with running_provider() as provider:
        sections: dict[str, Any] = {
            "provider_url": provider.base_url,
            "tools": {"modules": ["tests.support.shop_tools"]},
        }
        async with running_server(tmp_path / "data", **sections) as app, connected(app.url) as client:
            call_id = await _asked(client, provider)
        async with running_server(tmp_path / "data", **sections) as app, connected(app.url, before=client) as again:
            await again.open("c1")
            assert (await again.status("r1"))["state"] == "waiting_approval"
            await _say(again, "tool.approve", call_id)
            assert (await again.terminal("r1"))["type"] == "message.completed"
        assert shop_tools.effects() == ["refund 9"]
