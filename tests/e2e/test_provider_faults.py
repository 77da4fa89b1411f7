"""What a provider can do wrong, and how each ends: the right terminal event with a message a user can act on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.client import connected
from tests.support.provider import (
    Delta,
    Do,
    Event,
    Gate,
    Script,
    refused_base_url,
    running_provider,
    tool_call_steps,
)
from tests.support.server import running_server
from tests.support.stack import running_stack

from turnwire_server.app import running
from turnwire_server.settings import build_settings

QUICK = {"first_token_timeout_s": 0.3, "idle_timeout_s": 0.3, "total_timeout_s": 5, "connect_timeout_s": 1}


def _deployments(url: str) -> list[dict[str, Any]]:
    return [{"name": "test", "model": "m", "base_url": url, "input_usd_per_mtok": "2", **QUICK}]


@pytest.mark.parametrize(
    ("script", "code", "retryable"),
    [
        (Script.http_error(401, "bad key"), "provider_auth", False),
        (Script.http_error(429, "slow down", headers={"retry-after": "7"}), "provider_rate_limited", True),
        (Script.http_error(500, "oops"), "provider_error", True),
        (Script.never_answers(), "provider_timeout", True),
        (Script.stalled_after("some text "), "provider_timeout", True),
        (Script.cut_after("some text "), "provider_cut", True),
        (Script.malformed_after("some text "), "provider_error", None),
        (Script.empty(), "provider_cut", True),
    ],
    ids=["401", "429", "500", "silent", "stalled", "cut", "malformed", "empty"],
)
async def test_a_fault_ends_the_turn_failed_with_its_code(script: Script, code: str, retryable: bool | None) -> None:
    async with running_provider() as provider:
        provider.script(script)
        routes = [{"name": "default", "deployments": ["test"], "max_attempts": 1}]
        async with (
            running_server(deployments=_deployments(provider.base_url), routes=routes) as app,
            connected(app.url) as client,
        ):
            await client.create("r1", "c1", "hello")
            ending = await client.terminal("r1")
            assert ending["type"] == "message.failed"
            assert ending["error"]["code"] == code
            assert len(ending["error"]["message"]) > 20
            if retryable is not None:
                assert ending["error"]["retryable"] is retryable
            assert ending["message"]["parts"] in ([], [{"kind": "text", "text": "some text "}])
            assert ending["message"]["status"] == "failed"
            usage = await client.event("usage.completed", "r1")
            assert [(a["step"], a["attempt"], a["outcome"]) for a in usage["attempts"]] == [(1, 1, "failed")]
            assert (await client.event("step.failed", "r1"))["reason"] == code
            status = await client.status("r1")
            assert status["state"] == "failed"
            await client.create("r2", "c1", "and now")
            assert (await client.terminal("r2"))["type"] == "message.completed"


async def test_a_refused_connection_ends_failed() -> None:
    with refused_base_url() as url:
        routes = [{"name": "default", "deployments": ["test"], "max_attempts": 1}]
        async with running_server(deployments=_deployments(url), routes=routes) as app, connected(app.url) as client:
            await client.create("r1", "c1", "hello")
            ending = await client.terminal("r1")
            assert ending["error"]["code"] == "provider_error"
            assert ending["error"]["retryable"] is True


@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_a_cut_answer_ends_incomplete_and_says_why(reason: str) -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        provider.script(Script.text("as far as ", "it went", finish=reason))
        await client.create("r1", "c1", "hello")
        ending = await client.terminal("r1")
        assert (ending["type"], ending["reason"]) == ("message.incomplete", reason)
        assert ending["message"]["parts"] == [{"kind": "text", "text": "as far as it went"}]


def _two(first: str, second: str, midstream: str = "restart") -> dict[str, Any]:
    return {
        "deployments": [
            {"name": "first", "model": "m1", "base_url": first, **QUICK},
            {"name": "second", "model": "m2", "base_url": second, **QUICK},
        ],
        "routes": [{"name": "default", "deployments": ["first", "second"], "max_attempts": 2, "midstream": midstream}],
    }


async def test_a_fallback_before_the_first_token_shows_as_step_failed_alone() -> None:
    async with running_provider() as broken, running_provider() as good:
        broken.script(Script.http_error(503, "down"))
        good.script(Script.text("from the second"))
        async with running_server(**_two(broken.base_url, good.base_url)) as app, connected(app.url) as client:
            await client.create("r1", "c1", "hello")
            ending = await client.terminal("r1")
            assert ending["type"] == "message.completed"
            failed = await client.event("step.failed", "r1")
            assert (failed["deployment"], failed["next"]) == ("first", "second")
            assert client.events("part.reset") == []
            usage = await client.event("usage.completed", "r1")
            assert [(a["deployment"], a["outcome"]) for a in usage["attempts"]] == [
                ("first", "failed"),
                ("second", "completed"),
            ]


async def test_a_fallback_after_the_first_token_takes_the_text_back() -> None:
    async with running_provider() as broken, running_provider() as good:
        broken.script(Script.text("half a ", "sent", Do.CUT))
        good.script(Script.text("the whole sentence"))
        async with running_server(**_two(broken.base_url, good.base_url)) as app, connected(app.url) as client:
            await client.create("r1", "c1", "hello")
            ending = await client.terminal("r1")
            assert ending["message"]["parts"] == [{"kind": "text", "text": "the whole sentence"}]
            reset = await client.event("part.reset", "r1")
            assert (reset["part"], reset["offset"]) == (0, 0)
            assert "half a sent" in client.text("r1")
            assert client.folds["c1"].view()["messages"][1]["parts"] == ending["message"]["parts"]


async def test_with_midstream_fail_the_text_stays_and_nobody_else_is_asked() -> None:
    async with running_provider() as broken, running_provider() as good:
        broken.script(Script.text("half a ", "sent", Do.CUT))
        async with running_server(**_two(broken.base_url, good.base_url, "fail")) as app, connected(app.url) as client:
            await client.create("r1", "c1", "hello")
            ending = await client.terminal("r1")
            assert ending["error"]["code"] == "provider_cut"
            assert ending["message"]["parts"] == [{"kind": "text", "text": "half a sent"}]
            assert good.requests == []


async def test_usage_zero_from_the_provider_is_zero_and_without_any_it_is_estimated() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        provider.script(
            Script.text("words", usage=(0, 0)),
            Script.text("some words here", usage=None),
        )
        await client.create("r1", "c1", "hello")
        usage = (await client.terminal("r1")) and await client.event("usage.completed", "r1")
        assert (usage["input_tokens"], usage["output_tokens"], usage["source"]) == (0, 0, "provider")
        await client.create("r2", "c1", "hello")
        usage = (await client.terminal("r2")) and await client.event("usage.completed", "r2")
        assert usage["source"] == "estimated"
        assert usage["output_tokens"] > 0


async def test_a_turn_that_outlives_its_deadline_ends_incomplete() -> None:
    async with running_stack(limits={"turn_deadline_s": 0.3}) as (provider, app), connected(app.url) as client:
        provider.script(Script.text("some ", Gate()))
        await client.create("r1", "c1", "hello")
        ending = await client.terminal("r1")
        assert (ending["type"], ending["reason"]) == ("message.incomplete", "deadline")
        await provider.client_gone(0)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (Script.http_error(401, "Incorrect API key provided: {key}"), "TEST_KEY"),
        (Script.http_error(500, "upstream said: Bearer {key} is bad"), "again"),
        (Script.text("some "), "again"),
    ],
    ids=["401", "500", "in-the-stream"],
)
async def test_a_message_says_what_to_do_and_never_holds_the_key(script: Script, said: str, tmp_path: Path) -> None:
    key = "sk-proj-0123456789abcdefghij"
    if script.body is not None:
        script.body = script.body.replace(b"{key}", key.encode())
    else:
        script.steps = [Event({"error": {"message": f"key {key} is over its limit", "code": 429}}), Do.END]
    async with running_provider() as provider:
        provider.script(script)
        deployments = [{**_deployments(provider.base_url)[0], "api_key_env": "TEST_KEY"}]
        routes = [{"name": "default", "deployments": ["test"], "max_attempts": 1}]
        server = {"port": 0, "data_dir": str(tmp_path)}
        environ = {"TEST_KEY": key}
        settings = build_settings({"server": server, "deployments": deployments, "routes": routes}, environ)
        async with running(settings, environ) as app, connected(app.url) as client:
            await client.create("r1", "c1", "hello")
            ending = await client.terminal("r1")
            await client.status("r1")
            assert provider.requests[0].headers["authorization"] == f"Bearer {key}"
            assert said in ending["error"]["message"]
            assert "0123456789" not in json.dumps(client.messages)


async def test_how_long_to_wait_is_told_as_the_provider_said_it() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        provider.script(Script.http_error(429, "slow down", headers={"retry-after": "7"}))
        await client.create("r1", "c1", "hello")
        ending = await client.terminal("r1")
        assert "7 s" in ending["error"]["message"]
        assert ending["error"]["retryable"] is True


async def test_a_stream_that_ends_without_a_finish_reason_is_never_completed() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        provider.script(Script.text("all of it", finish=None), Script.text("all of it", finish=None, done=False))
        for request in ("r1", "r2"):
            await client.create(request, "c1", "hello")
            ending = await client.terminal(request)
            assert (ending["type"], ending["error"]["code"]) == ("message.failed", "provider_cut")


async def test_a_fallback_takes_back_reasoning_and_unfinished_tool_calls_too() -> None:
    async with running_provider() as broken, running_provider() as good:
        half_call = [Delta({"reasoning_content": "hm "}), "I ask ", *tool_call_steps("demo_clock", '{"zo'), Do.CUT]
        broken.script(Script.text(*half_call))
        good.script(Script.text("the whole sentence"))
        async with running_server(**_two(broken.base_url, good.base_url)) as app, connected(app.url) as client:
            await client.create("r1", "c1", "hello")
            ending = await client.terminal("r1")
            assert ending["message"]["parts"] == [{"kind": "text", "text": "the whole sentence"}]
            assert [m["part"] for m in client.events("part.reset")] == [0]
            assert client.events("tool.called") == []
            assert good.requests[0].messages == [{"role": "user", "content": "hello"}]
            assert client.folds["c1"].view()["messages"][1]["parts"] == ending["message"]["parts"]


async def test_a_step_that_breaks_after_a_tool_has_run_goes_on_from_its_result() -> None:
    async with running_provider() as broken, running_provider() as good:
        broken.script(Script.tool_call("look", '{"item": "clock"}'), Script.cut_after("half "))
        good.script(Script.text("it is late"))
        tools = {"modules": ["tests.support.shop_tools"]}
        both = _two(broken.base_url, good.base_url)
        async with running_server(**both, tools=tools) as app, connected(app.url) as client:
            await client.create("r1", "c1", "what time is it")
            ending = await client.terminal("r1")
            call, text = ending["message"]["parts"]
            assert (call["name"], call["state"], text["text"]) == ("look", "completed", "it is late")
            assert [message["role"] for message in good.requests[0].messages] == ["user", "assistant", "tool"]
            assert len(client.events("tool.running")) == 1
            assert [(m["part"], m["offset"]) for m in client.events("part.reset")] == [(1, 0)]
            assert client.folds["c1"].view()["messages"][1]["parts"] == ending["message"]["parts"]
