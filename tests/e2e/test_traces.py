"""What became of a request can be read afterwards, in the archive and at a collector, and nothing secret with it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.support import shop_tools
from tests.support.client import CallError, connected
from tests.support.collector import attributes_of, running_collector
from tests.support.provider import Gate, Script, running_provider
from tests.support.provider_script import tool_call_steps
from tests.support.server import running_server, token
from tests.support.stack import running_stack

from turnwire_server.app import App
from turnwire_server.telemetry.tracing.record import merged
from turnwire_server.telemetry.tracing.spans import trace_id_of

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TENANT = "default"


async def traced(app: App, request_id: str, tenant: str = TENANT) -> dict[str, Any]:
    """The trace of a request that has ended, once it is kept."""
    with anyio.fail_after(30):
        while True:
            found = merged(list(await app.front.services.archive.traces(tenant, request_id)))
            if found is not None:
                return found
            await asyncio.sleep(0.01)


def named(found: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [span for span in found["spans"] if span["name"].startswith(name)]


async def test_a_turn_with_a_tool_is_a_trace_of_its_run_its_attempts_and_its_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURNWIRE_TEST_EFFECTS", str(tmp_path / "effects"))
    shop_tools.GATES.clear()
    async with running_stack(tools={"modules": ["tests.support.shop_tools"]}) as (provider, app):
        steps = tool_call_steps("look", json.dumps({"item": "tea"}), call_id="p0", index=0)
        provider.script(Script(steps, finish="tool_calls"), Script.text("Do", "ne."))
        async with connected(app.url) as client:
            await client.create("r1", "c1", "please", metadata={"feature": "shop"})
            usage = (await client.terminal("r1")) and client.events("usage.completed", "r1")[0]
        found = await traced(app, "r1")
    (run,), (first, second), (call,) = named(found, "invoke"), named(found, "chat"), named(found, "execute_tool look")
    assert found["trace_id"] == trace_id_of(TENANT, "r1", None)
    assert (run["parent_id"], {first["parent_id"], second["parent_id"], call["parent_id"]}) == (None, {run["span_id"]})
    said = run["attributes"]
    assert (said["turnwire.outcome"], said["turnwire.feature"], said["turnwire.run"]) == ("completed", "shop", 1)
    assert said["gen_ai.usage.input_tokens"] == usage["input_tokens"]
    assert said["turnwire.cost_usd"] == float(usage["cost_usd"])
    for span, row in zip((first, second), usage["attempts"], strict=True):
        of = span["attributes"]
        assert of["turnwire.outcome"] == row["outcome"]
        assert (of["turnwire.step"], of["turnwire.attempt"]) == (row["step"], row["attempt"])
        assert of["gen_ai.usage.output_tokens"] == row["output_tokens"]
        assert 0 <= of["turnwire.time_to_first_token_ms"] <= span["duration_ms"]
    assert call["attributes"]["turnwire.outcome"] == "completed"
    assert [event["name"] for event in call["events"]] == ["tool.running"]
    assert not [word for word in ("tea", "please") if word in json.dumps(found)]


async def test_cancelled_failed_and_refused_attempts_say_so() -> None:
    async with running_stack() as (provider, app), connected(app.url) as client:
        provider.script(Script.text("Hel", Gate(), "lo"))
        await client.create("r1", "c1", "please")
        await client.until(lambda: client.text("r1") == "Hel")
        await client.cancel("r1")
        await client.terminal("r1")
        provider.default = lambda _: Script.http_error(400, "please")
        await client.create("r2", "c1", "please")
        await client.terminal("r2")
        cancelled, failed = await traced(app, "r1"), await traced(app, "r2")
    (run,), (chat,) = named(cancelled, "invoke"), named(cancelled, "chat")
    assert run["attributes"]["turnwire.outcome"] == chat["attributes"]["turnwire.outcome"] == "cancelled"
    assert "error" not in run
    (run,), chats = named(failed, "invoke"), named(failed, "chat")
    assert run["attributes"]["turnwire.outcome"] == "failed"
    assert {chat["attributes"]["turnwire.outcome"] for chat in chats} == {"failed"}
    assert run["error"] == chats[-1]["error"] == run["attributes"]["error.type"]
    assert "please" not in json.dumps(failed)


async def test_a_request_is_in_the_trace_of_its_client() -> None:
    async with running_stack() as (_, app), connected(app.url) as client:
        await client.create("r1", "c1", "please", traceparent=PARENT)
        await client.terminal("r1")
        found = await traced(app, "r1")
        for wrong in (
            "",
            PARENT.upper(),
            PARENT.replace("00f067aa0ba902b7", "0" * 16),
            f"{PARENT}-x",
            "ff" + PARENT[2:],
        ):
            with pytest.raises(CallError) as refused:
                await client.create("r2", "c1", "please", traceparent=wrong)
            assert refused.value.code == "bad_command"
    assert found["trace_id"] == PARENT[3:35]
    assert named(found, "invoke")[0]["parent_id"] == PARENT[36:52]


async def test_that_of_hello_counts_for_requests_without_one_and_for_regenerations() -> None:
    other = PARENT.replace("4bf9", "5bf9")
    async with running_stack() as (_, app), connected(app.url, hello=False) as client:
        await client.call({"type": "hello", "traceparent": PARENT})
        await client.create("r1", "c1", "please")
        message = (await client.terminal("r1"))["message"]
        await client.create("r2", "c1", "please", traceparent=other)
        await client.terminal("r2")
        await client.call({"type": "request.regenerate", "request_id": "r3", "message_id": message["message_id"]})
        await client.terminal("r3")
        ids = [(await traced(app, name))["trace_id"] for name in ("r1", "r2", "r3")]
    assert ids == [PARENT[3:35], other[3:35], PARENT[3:35]]


async def test_a_collector_gets_what_the_archive_has_and_what_it_refuses_is_counted() -> None:
    async with running_collector() as (collector, url):
        collector.refusals = 1
        telemetry = {"otlp_endpoint": url, "otlp_headers_env": "OTLP_HEADERS"}
        async with running_provider() as provider:
            async with running_server(
                provider_url=provider.base_url, telemetry=telemetry, environ={"OTLP_HEADERS": "x-team=tea, x-more=1"}
            ) as app:
                metrics = app.front.services.metrics
                async with connected(app.url) as client:
                    await client.create("r1", "c1", "please")
                    await client.terminal("r1")
                    with anyio.fail_after(30):
                        while not metrics.trace_spans_dropped_total.labels("refused")._value.get():
                            await asyncio.sleep(0.01)
                    await client.create("r2", "c1", "please", traceparent=PARENT)
                    await client.terminal("r2")
                found = await traced(app, "r2")
                spans = await collector.until(lambda spans: len(spans) == 2)
        assert {span.trace_id.hex() for span in spans} == {found["trace_id"]} == {PARENT[3:35]}
        assert {span.span_id.hex() for span in spans} == {span["span_id"] for span in found["spans"]}
        run = next(span for span in spans if span.name.startswith("invoke"))
        assert run.parent_span_id.hex() == PARENT[36:52]
        assert attributes_of(run)["turnwire.outcome"] == "completed"
        assert (collector.headers[-1]["x-team"], collector.headers[-1]["x-more"]) == ("tea", "1")


async def test_what_a_model_may_write_and_json_may_not_hold_costs_neither_turn_nor_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURNWIRE_TEST_EFFECTS", str(tmp_path / "effects"))
    shop_tools.GATES.clear()
    sections = {"tools": {"modules": ["tests.support.shop_tools"]}, "telemetry": {"capture_content": True}}
    async with running_stack(**sections) as (provider, app), connected(app.url) as client:
        steps = tool_call_steps("look", f'{{"item": "\\ud800", "more": {2**70}}}', call_id="p0", index=0)
        provider.script(Script(steps, finish="tool_calls"), Script.text("Done."))
        await client.create("r1", "c1", "please")
        ended = await client.terminal("r1")
        found = await traced(app, "r1")
    assert named(found, "invoke")[0]["attributes"]["turnwire.outcome"] == ended["type"].removeprefix("message.")
    assert named(found, "execute_tool")


async def test_a_collector_that_is_away_costs_no_turn_and_no_record() -> None:
    telemetry = {"otlp_endpoint": "http://127.0.0.1:9"}
    async with running_stack(telemetry=telemetry) as (_, app), connected(app.url) as client:
        await client.create("r1", "c1", "please")
        assert (await client.terminal("r1"))["type"] == "message.completed"
        assert named(await traced(app, "r1"), "invoke")


async def test_without_a_record_and_with_no_share_nothing_is_kept_or_sent(tmp_path: Path) -> None:
    async with running_collector() as (collector, url):
        telemetry = {"otlp_endpoint": url, "trace_record": False, "sample": 0}
        async with running_stack(tmp_path, telemetry=telemetry) as (_, app), connected(app.url) as client:
            await client.create("r1", "c1", "please")
            await client.terminal("r1")
        # A server that has ended has kept and sent what it had.
        async with running_stack(tmp_path) as (_, app), connected(app.url) as client:
            await client.create("r2", "c1", "please")
            await client.terminal("r2")
            assert await traced(app, "r2")
            assert await app.front.services.archive.traces(TENANT, "r1") == []
        assert collector.spans == []


# --- nothing secret --------------------------------------------------------------------------------------

KEY = "aubergine-main-4711"
LOOKS_LIKE_A_KEY = "sk-abcdefghijklmnop1234"
PLANTED = {
    "the provider's key": KEY,
    "a key in the prompt": LOOKS_LIKE_A_KEY,
    "an address": "ann.smith@example.org",
    "a card": "4111 1111 1111 1111",
    "a phone": "+49 30 1234567",
    "what the tenant's own expression finds": "PATIENT-0042",
}
TEXT = "the harmless heron"
"""Is content as well, and no secret: to be found where content is captured, and nowhere else."""


@pytest.mark.parametrize("captures", [False, True])
async def test_no_canary_is_in_a_span_a_record_an_exported_byte_or_a_log_line(
    captures: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TURNWIRE_TEST_EFFECTS", str(tmp_path / "effects"))
    shop_tools.GATES.clear()
    planted = f"{TEXT}, {', '.join(PLANTED.values())}"
    async with running_collector() as (collector, url), running_provider() as provider:
        deployment = {"name": "a", "model": "m", "base_url": provider.base_url, "api_key_env": "MAIN_KEY"}
        async with running_server(
            environ={"MAIN_KEY": KEY},
            jwt=True,
            deployments=[deployment],
            routes=[{"name": "r", "deployments": ["a"], "max_attempts": 2, "backoff_s": 0.01}],
            tenants={"default": {"redact": ["email", "card", "phone", r"re:PATIENT-\d+"]}},
            telemetry={"otlp_endpoint": url, "capture_content": captures},
            tools={"modules": ["tests.support.shop_tools"]},
        ) as app:
            who = token()
            steps = tool_call_steps("look", json.dumps({"item": planted}), call_id="p0", index=0)
            strange = tool_call_steps(planted, "{}", call_id="p1", index=1)
            provider.script(
                Script.http_error(500, f"what is {planted} of {who}?"),
                Script([*steps, *strange], finish="tool_calls"),
                Script.text(planted),
            )
            async with connected(app.url, token=who) as client:
                await client.create("r1", "c1", f"{planted} {who}", metadata={"note": planted})
                assert (await client.terminal("r1"))["type"] == "message.completed"
            found = await traced(app, "r1", "acme")
            await collector.until(lambda spans: len(spans) >= len(found["spans"]))
    exported = collector.raw.decode(errors="replace")
    for sink, said in (("record", json.dumps(found)), ("export", exported), ("log", caplog.text)):
        for what, secret in {**PLANTED, "the token": who, "its signature": who.rpartition(".")[2]}.items():
            assert secret not in said, f"{what} is in the {sink}"
        assert (TEXT in said) is (captures and sink != "log"), f"the {sink} {'lacks' if captures else 'has'} content"


async def test_every_stage_of_a_turn_is_in_its_trace_without_what_was_said() -> None:
    schema = {"type": "object", "required": ["hour"]}
    routes = [
        {"name": "plain", "deployments": ["plain"], "purpose": "small talk"},
        {
            "name": "docs",
            "deployments": ["docs"],
            "purpose": "questions about the museum",
            "retrieval": "required",
            "output_schema": schema,
        },
        {"name": "judge", "deployments": ["judge"]},
    ]
    tenants = {"default": {"route": "plain", "classify": ["docs", "plain"], "classifier": "judge"}}
    async with running_provider() as provider:
        names = ("plain", "docs", "judge")
        deployments = [{"name": name, "model": name, "base_url": provider.base_url} for name in names]
        provider.script(Script.text("docs"), Script.text("At canary o'clock"), Script.text('{"hour": 9}'))
        async with (
            running_server(deployments=deployments, routes=routes, tenants=tenants) as app,
            connected(app.url) as client,
        ):
            await app.front.services.retrieval.add(
                client.welcome["tenant_id"], "museum.md", "The museum opens at nine."
            )
            await client.create("r1", "c1", "When does the museum open?")
            assert (await client.terminal("r1"))["type"] == "message.completed"
            found = await traced(app, "r1", client.welcome["tenant_id"])
    (run,), chats, (search,) = named(found, "invoke"), named(found, "chat"), named(found, "retrieval")
    assert [(span["attributes"]["turnwire.step"], span["name"]) for span in chats] == [
        (0, "chat judge"),
        (1, "chat docs"),
        (2, "chat docs"),
    ]
    assert search["attributes"]["turnwire.document_ids"] == ["museum.md"]
    assert run["attributes"]["turnwire.route"] == "docs"
    events = {event["name"]: event["attributes"] for event in run["events"]}
    assert events["route.chosen"] == {"turnwire.route": "docs", "turnwire.by": "model"}
    assert events["validation.failed"] == {"turnwire.step": 1, "turnwire.on": "output", "turnwire.action": "repair"}
    assert not [word for word in ("canary", "nine", "museum open") if word in json.dumps(found)]
