"""What a tenant may use: requests and tokens of a minute, money of a day and a month (SPEC section 4).

All numbers are those of the provider's own usage, so each sum is known; a thousand tokens cost a dollar here.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.support.client import CallError, Client, connected
from tests.support.limits import limited, limits_told, refused, said
from tests.support.provider import Gate, Script
from tests.support.server import settings_for, token
from tests.support.storage import storage
from tests.support.webhook import WEBHOOK_SECRET, running_webhook

from turnwire_server.app import App, open_engines_for, running
from turnwire_server.conversations.roles import SCOPE_OPERATE
from turnwire_server.engines import Engines
from turnwire_server.eventlog.redis import RedisQuotas


async def test_a_minute_has_no_more_requests_than_the_limit() -> None:
    async with limited(tenant={"requests_per_minute": 12}) as (_, app), AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(connected(app.url, token=token(f"u{number}", "acme")))
            for number in range(6)
        ]
        errors: Counter[str] = Counter()

        async def use(number: int, client: Client) -> None:
            for turn in range(4):
                try:
                    await client.create(f"r-{number}-{turn}", f"c-{number}", "hi")
                except CallError as error:
                    errors[error.code] += 1
                    assert error.error["retryable"]
                    assert 0 < error.error["retry_after_ms"] <= 61_000
                    assert error.error["details"]["limit"] == "requests_per_minute"

        async with asyncio.TaskGroup() as group:
            for number, client in enumerate(clients):
                group.create_task(use(number, client))
        assert errors == {"rate_limited": 12}
        async with connected(app.url, token=token("u", "globex")) as other:
            await other.create("r", "c", "another tenant is not concerned")


async def test_a_repeat_costs_nothing_and_a_refused_id_is_free() -> None:
    async with limited(tenant={"requests_per_minute": 2}) as (_, app):
        async with connected(app.url, token=token()) as client, connected(app.url, token=token()) as second:
            await client.create("r1", "c1", "hi")
            for repeat in (client, second):
                assert (await repeat.create("r1", "c1", "hi"))["duplicate"]
            await client.create("r2", "c2", "hi")
            await refused(client, "r3", "c3")
            assert (await second.create("r1", "c1", "hi"))["duplicate"], "over the limit too"
            with pytest.raises(CallError) as caught:
                await client.status("r3")
            assert caught.value.code == "not_found"


async def test_what_is_refused_for_another_reason_never_counted() -> None:
    gate = Gate()
    async with limited(tenant={"requests_per_minute": 2, "budget_usd_per_day": "1"}) as (provider, app):
        provider.script(said(11, "one ", gate))
        async with connected(app.url, token=token()) as client:
            await client.create("r1", "c1", "hi")
            for number in range(5):
                with pytest.raises(CallError) as caught:
                    await client.create(f"busy-{number}", "c1", "hi", on_busy="reject")
                assert caught.value.code == "busy"
            gate.open()
            await client.terminal("r1")
            await client.create("r2", "c1", "hi")


async def test_tokens_are_reserved_and_settled_as_the_provider_counted_them() -> None:
    async with limited(tenant={"tokens_per_minute": 1000}) as (provider, app):
        provider.script(said(900), said(80))
        async with connected(app.url, token=token()) as client:
            await client.create("r1", "c1", "hi")
            told = (await client.event("rate_limits.updated"))["limits"]["tokens_per_minute"]
            assert told["limit"] == 1000
            assert 1000 > told["remaining"] >= 980, "the estimate is small"
            assert 0 < told["reset_ms"] <= 61_000
            await client.terminal("r1")
            await client.until(lambda: limits_told(client)["tokens_per_minute"]["remaining"] == 100)
            await client.create("r2", "c2", "hi")
            await client.terminal("r2")
            await client.until(lambda: limits_told(client)["tokens_per_minute"]["remaining"] == 20)
            error = await refused(client, "r3", "c3", "words " * 100)
            assert (error["code"], error["details"]["limit"]) == ("rate_limited", "tokens_per_minute")


async def test_what_every_request_is_told_first_is_reserved_with_it() -> None:
    async with limited(tenant={"tokens_per_minute": 1000, "system_prompt": "word " * 300}) as (_, app):
        async with connected(app.url, token=token()) as client:
            await client.create("r1", "c1", "hi")
            told = (await client.event("rate_limits.updated"))["limits"]["tokens_per_minute"]
            assert told["remaining"] < 800


async def test_what_is_left_is_told_to_the_user_who_asked_and_to_nobody_else() -> None:
    gate = Gate()
    async with limited(tenant={"tokens_per_minute": 1000}) as (provider, app):
        provider.script(said(900, "one ", gate))
        async with (
            connected(app.url, token=token()) as client,
            connected(app.url, token=token()) as second,
            connected(app.url, token=token("bob")) as other,
        ):
            await client.create("r1", "c1", "hi")
            share = {"type": "conversation.share", "conversation_id": "c1", "user_id": "bob", "role": "editor"}
            await client.call(share)
            for each in (second, other):
                await each.open("c1")
            gate.open()
            for each in (client, second) if storage().nodes == 1 else (client,):
                await each.until(lambda each=each: each.events("rate_limits.updated"))  # type: ignore[misc]
                await each.until(lambda each=each: limits_told(each)["tokens_per_minute"]["remaining"] == 100)  # type: ignore[misc]
            await other.terminal("r1")
            await other.call({"type": "ping"})
            assert other.events("rate_limits.updated") == []


async def test_a_cancelled_and_a_failed_request_settle_too() -> None:
    async with limited(tenant={"tokens_per_minute": 1000}) as (provider, app):
        gate = Gate()
        provider.script(Script.text("one two three ", gate), Script.http_error(400, "no"))
        async with connected(app.url, token=token()) as client:
            await client.create("r1", "c1", "hi")
            await client.event("output_text.delta", "r1")
            before = len(client.events("rate_limits.updated"))
            await client.create("queued", "c1", "hi")
            await client.cancel("queued")
            await client.cancel("r1")
            usage = await client.event("usage.completed", "r1")
            used = usage["input_tokens"] + usage["output_tokens"]
            await client.until(lambda: limits_told(client)["tokens_per_minute"]["remaining"] == 1000 - used)
            await client.create("r2", "c2", "hi")
            usage = await client.event("usage.completed", "r2")
            used += usage["input_tokens"] + usage["output_tokens"]
            await client.until(lambda: limits_told(client)["tokens_per_minute"]["remaining"] == 1000 - used)
            assert len(client.events("rate_limits.updated")) > before + 3


async def test_a_budget_is_held_by_what_runs_and_cannot_be_spent_twice() -> None:
    """0.030 USD: 30 tokens. Each request is expected to take some 13 and takes 12."""
    gate = Gate()
    async with limited(tenant={"budget_usd_per_day": "0.030"}) as (provider, app):
        provider.script(said(12, "a", gate), said(12, "b", gate), said(12))
        async with connected(app.url, token=token()) as client, AsyncExitStack() as stack:
            await client.create("r1", "c1", "hi")
            await client.create("r2", "c2", "hi")
            error = await refused(client, "r3", "c3")
            assert (error["code"], error["details"]["limit"]) == ("quota_exceeded", "budget_usd_per_day")
            assert "budget_usd_per_day" not in error["details"]["limits"], "money is the operators' business"
            assert error["retry_after_ms"] <= 86_400_000
            gate.open()
            await client.terminal("r1")
            await client.terminal("r2")
            operator = await stack.enter_async_context(
                connected(app.url, token=token("admin", "acme", scopes=(SCOPE_OPERATE,)))
            )
            error = await refused(operator, "r4", "c4", "these words are too many for what is left")
            assert error["code"] == "quota_exceeded"


async def test_money_is_spent_once_and_for_good(tmp_path: Path) -> None:
    """What was spent is in the ledger: a start anew, or a Redis without its data, changes nothing."""
    tenant = {"budget_usd_per_day": "0.1", "budget_usd_per_month": "5"}
    admin = token("admin", "acme", scopes=(SCOPE_OPERATE,))
    async with limited(tmp_path, tenant=tenant) as (provider, app):
        provider.script(said(40), said(30))
        async with connected(app.url, token=admin) as client:
            for request in ("r1", "r2"):
                await client.create(request, "c1", "hi")
                await client.terminal(request)
            await client.until(lambda: limits_told(client)["budget_usd_per_day"]["remaining"] == "0.03")
    async with limited(tmp_path, tenant=tenant) as (provider, app):
        if storage().kind != "embedded":
            await _forget_quotas(app)
        provider.script(said(12))
        async with connected(app.url, token=admin) as client:
            await client.create("r3", "c1", "hi")
            await client.terminal("r3")
            await client.until(lambda: limits_told(client)["budget_usd_per_day"]["remaining"] == "0.018")
            assert limits_told(client)["budget_usd_per_month"]["remaining"] == "4.918"
            error = await refused(client, "r4", "c1", "hello there, what else is new today? " * 3)
            assert error["details"]["limit"] == "budget_usd_per_day"


async def _forget_quotas(app: App) -> None:
    store = app.front.services.quotas._store
    assert isinstance(store, RedisQuotas)
    keys = [f"{{{store._prefix}:quota:acme}}:{name}" for name in ("window", "holds", "expiry", "money")]
    assert await store._server.run(keys[0], lambda client: client.delete(*keys)) > 0


async def test_80_and_100_percent_of_a_budget_are_told_once_each(caplog: pytest.LogCaptureFixture) -> None:
    environ = {"HOOK_SECRET": WEBHOOK_SECRET}
    async with running_webhook() as (hook, url):
        alerts = {"webhook_url": url, "webhook_secret_env": "HOOK_SECRET"}
        async with limited(tenant={"budget_usd_per_day": "0.1"}, alerts=alerts, environ=environ) as (provider, app):
            provider.script(said(50), said(33), said(30))
            admin = token("admin", "acme", scopes=(SCOPE_OPERATE,))
            async with (
                connected(app.url, token=admin) as operator,
                connected(app.url, token=admin) as second,
                connected(app.url, token=token("admin", "globex", scopes=(SCOPE_OPERATE,))) as foreigner,
                connected(app.url, token=token()) as client,
            ):
                for request in ("r1", "r2"):
                    await client.create(request, "c1", "hi")
                    await client.terminal(request)
                first = await hook.taken.get()
                assert (first["type"], first["tenant_id"], first["period"]) == ("budget.alert", "acme", "day")
                assert (first["percent"], first["spent_usd"], first["budget_usd"]) == (80, "0.083", "0.1")
                await client.create("r3", "c1", "hi")
                await client.terminal("r3")
                assert (await hook.taken.get())["percent"] == 100
                await refused(client, "r4", "c1")
                entries = (await app.front.services.archive.audit("acme", limit=10)).items
                assert [(entry.act, entry.details["percent"]) for entry in entries] == [
                    ("budget.alert", 100),
                    ("budget.alert", 80),
                ]
                if storage().nodes == 1:
                    for each in (operator, second):
                        await each.until(lambda each=each: len(each.events("notice")) == 2)  # type: ignore[misc]
                        assert [m["details"]["percent"] for m in each.events("notice")] == [80, 100]
                for each in (client, foreigner):
                    await each.call({"type": "ping"})
                    assert each.events("notice") == []
        assert hook.taken.empty()
    warnings = [record.getMessage() for record in caplog.records if "of the budget of this day" in record.getMessage()]
    assert len(warnings) == 2


@pytest.mark.parametrize("policy", ["open", "closed"])
async def test_what_cannot_be_counted_is_let_in_or_refused_as_it_was_set(tmp_path: Path, policy: str) -> None:
    async def uncounted(settings: Any, stack: AsyncExitStack) -> Engines:
        engines = await open_engines_for(settings, stack)
        quotas = RedisQuotas("redis://127.0.0.1:1/0", timeout_s=1)
        quotas.open()
        stack.push_async_callback(quotas.aclose)
        return Engines(engines.log, engines.archive, engines.checkpoint, engines.measure, quotas, engines.documents)

    settings = settings_for(tmp_path, limits={"quota_fail": policy}, tenants={"default": {"requests_per_minute": 1}})
    async with running(settings, {}, open_engines=uncounted) as app, connected(app.url) as client:
        if policy == "closed":
            assert (await refused(client, "r1", "c1"))["code"] == "unavailable"
        else:
            for request in ("r1", "r2"):
                await client.create(request, "c1", "hi")
                assert (await client.terminal(request))["type"] == "message.completed"
