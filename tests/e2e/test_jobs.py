"""Requests in the background: what fails is tried again, later, and whoever comes then sees why it waits."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.support import shop_tools
from tests.support.client import connected
from tests.support.provider import Script
from tests.support.stack import running_stack
from tests.support.webhook import WEBHOOK_SECRET, running_webhook

SOON = {"job_backoff_s": 0.02, "job_backoff_most_s": 0.02}
LATE = {"job_backoff_s": 3600, "job_backoff_most_s": 3600}
WAIT_S = 20.0


def _text(ending: dict[str, Any]) -> str:
    return "".join(part.get("text", "") for part in ending["message"]["parts"])


async def test_what_fails_twice_is_tried_a_third_time_and_every_try_is_on_the_bill() -> None:
    async with running_stack(limits=SOON) as (provider, app), connected(app.url) as client:
        provider.script(Script.http_error(503), Script.cut_after("Once"), Script.text("At last."))
        await client.create("r1", "c1", "hello", background=True)
        ending = await client.terminal("r1", WAIT_S)
        assert (ending["type"], _text(ending)) == ("message.completed", "At last.")
        delayed = client.events("request.delayed")
        assert [event["retry"] for event in delayed] == [1, 2]
        assert [event["reason"] for event in delayed] == ["provider_error", "provider_cut"]
        assert len(client.events("message.started")) == 1
        assert len([message for message in client.messages if message.get("terminal")]) == 1
        usage = await client.event("usage.completed", "r1")
        assert [(row["attempt"], row["outcome"]) for row in usage["attempts"]] == [
            (1, "failed"),
            (2, "failed"),
            (3, "completed"),
        ]
        status = await client.status("r1")
        assert (status["state"], status["run"]) == ("completed", 1)


async def test_one_that_always_fails_ends_failed_with_what_its_last_try_wrote() -> None:
    async with running_stack(limits={**SOON, "job_retries": 2}) as (provider, app), connected(app.url) as client:
        provider.script(*(Script.cut_after(f"Try {number}") for number in range(3)))
        await client.create("r1", "c1", "hello", background=True)
        ending = await client.terminal("r1", WAIT_S)
        assert (ending["type"], ending["error"]["code"]) == ("message.failed", "provider_cut")
        assert _text(ending) == "Try 2"
        assert len(provider.requests) == 3
        assert len(client.events("request.delayed")) == 2


async def test_what_cannot_get_better_is_not_tried_again_nor_is_what_somebody_waits_for() -> None:
    async with running_stack(limits=SOON) as (provider, app), connected(app.url) as client:
        provider.script(Script.http_error(401), Script.http_error(503))
        await client.create("r1", "c1", "hello", background=True)
        assert (await client.terminal("r1"))["error"]["retryable"] is False
        await client.create("r2", "c2", "hello")
        assert (await client.terminal("r2"))["type"] == "message.failed"
        assert client.events("request.delayed") == []


async def test_one_that_waits_says_so_and_can_be_cancelled() -> None:
    async with running_stack(limits=LATE) as (provider, app), connected(app.url) as client:
        provider.script(Script.cut_after("Begun"))
        await client.create("r1", "c1", "hello", background=True)
        await client.event("request.delayed")
        assert (await client.status("r1"))["state"] == "queued"
        async with connected(app.url) as late:
            await late.open("c1")
            snapshot = await late.event("conversation.snapshot")
            assert snapshot["active"][0]["state"] == "queued"
            assert late.folds["c1"].view() == client.folds["c1"].view()
        await client.cancel("r1")
        ending = await client.terminal("r1", WAIT_S)
        assert (ending["type"], _text(ending)) == ("message.cancelled", "")
        assert len(provider.requests) == 1


async def test_one_that_waits_can_be_interrupted() -> None:
    async with running_stack(limits=LATE) as (provider, app), connected(app.url) as client:
        provider.script(Script.http_error(503))
        await client.create("r1", "c1", "hello", background=True)
        await client.event("request.delayed")
        await client.call({"type": "request.interrupt", "request_id": "r1"})
        assert (await client.terminal("r1", WAIT_S))["type"] == "message.interrupted"
        assert len(provider.requests) == 1


async def test_a_restart_in_between_costs_no_try(tmp_path: Path) -> None:
    async with running_stack(tmp_path, limits={"job_backoff_s": 4, "job_backoff_most_s": 4}) as (provider, app):
        async with connected(app.url) as client:
            provider.script(Script.http_error(503))
            await client.create("r1", "c1", "hello", background=True)
            await client.event("request.delayed")
            async with asyncio.timeout(WAIT_S):
                while app.front.hub.running_turns:
                    await asyncio.sleep(0.01)
    async with running_stack(tmp_path) as (provider, app), connected(app.url) as client:
        await client.open("c1")
        provider.script(Script.text("Later."))
        ending = await client.terminal("r1", WAIT_S)
        assert _text(ending) == "Later."
        usage = await client.event("usage.completed", "r1")
        assert [row["outcome"] for row in usage["attempts"]] == ["failed", "completed"]


async def test_a_tool_that_has_run_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNWIRE_TEST_EFFECTS", str(tmp_path / "effects"))
    sections: dict[str, Any] = {"tools": {"modules": ["tests.support.shop_tools"]}, "limits": SOON}
    async with running_stack(**sections) as (provider, app), connected(app.url) as client:
        provider.script(
            Script.tool_call("charge", '{"amount": 7}'), Script.http_error(503), Script.text("It is charged.")
        )
        await client.create("r1", "c1", "hello", background=True)
        ending = await client.terminal("r1", WAIT_S)
        assert ending["type"] == "message.completed"
        assert ending["message"]["parts"][-1]["text"] == "It is charged."
        assert shop_tools.effects() == ["charge 7"]
        assert [event["retry"] for event in client.events("request.delayed")] == [1]


def _hook(url: str, **fields: Any) -> dict[str, Any]:
    jobs = {"webhook_url": url, "webhook_secret_env": "JOBS_SECRET", "webhook_pause_s": 0.01, "webhook_timeout_s": 0.2}
    return {"jobs": {**jobs, **fields}, "environ": {"JOBS_SECRET": WEBHOOK_SECRET}}


async def test_the_end_is_told_until_it_is_taken_and_then_no_more() -> None:
    async with running_webhook() as (hook, url), running_stack(**_hook(url)) as (provider, app):
        hook.refusals, hook.redirects = 2, 1
        async with connected(app.url) as client:
            provider.script(Script.text("Done."), Script.text("Unheard."), Script.http_error(401))
            await client.create("r1", "c1", "hello", background=True)
            ending = await client.terminal("r1")
            told = await asyncio.wait_for(hook.taken.get(), WAIT_S)
            assert {key: told[key] for key in ("type", "request_id", "conversation_id", "state")} == {
                "type": "request.ended",
                "request_id": "r1",
                "conversation_id": "c1",
                "state": "completed",
            }
            assert told["message"]["parts"] == ending["message"]["parts"]
            assert told["usage"]["attempts"] == (await client.event("usage.completed", "r1"))["attempts"]
            await client.create("r2", "c1", "hello")
            await client.terminal("r2")
            await client.create("r3", "c1", "hello", background=True)
            await client.terminal("r3")
            told = await asyncio.wait_for(hook.taken.get(), WAIT_S)
            assert (told["request_id"], told["state"], told["error"]["code"]) == ("r3", "failed", "provider_auth")
            assert hook.taken.empty()
            assert hook.begun.qsize() == 5


async def test_what_was_not_taken_is_told_by_the_next_start(tmp_path: Path) -> None:
    async with running_webhook() as (hook, url):
        hook.refusals = 1_000_000
        async with (
            running_stack(data_dir=tmp_path, **_hook(url)) as (_, app),
            connected(app.url) as client,
        ):
            await client.create("r1", "c1", "hello", background=True)
            await client.terminal("r1")
            await asyncio.wait_for(hook.begun.get(), WAIT_S)
        hook.refusals = 0
        async with running_stack(data_dir=tmp_path, **_hook(url)):
            assert (await asyncio.wait_for(hook.taken.get(), WAIT_S))["request_id"] == "r1"


async def test_after_enough_tries_nobody_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        running_webhook() as (hook, url),
        running_stack(**_hook(url, webhook_tries=2)) as (_, app),
        connected(app.url) as client,
    ):
        hook.refusals = 1_000_000
        await client.create("r1", "c1", "hello", background=True)
        await client.terminal("r1")
        for _ in range(2):
            await asyncio.wait_for(hook.begun.get(), WAIT_S)
        registry = app.front.services.metrics.registry
        async with asyncio.timeout(WAIT_S):
            while registry.get_sample_value("turnwire_job_reports_total", {"outcome": "given_up"}) != 1:
                await asyncio.sleep(0.01)
        assert hook.begun.empty()
        assert "did not take the end of request r1: it answered 503" in caplog.text
