"""What a tenant may use: requests and tokens of a minute, money of a day and a month (SPEC section 4).

All numbers are those of the provider's own usage, so each sum is known; a thousand tokens cost a dollar here.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.support.client import CallError, Client, connected
from tests.support.provider import ControlledProvider, Gate, Script, running_provider
from tests.support.server import Nodes, running_server, settings_for, token
from tests.support.storage import storage
from tests.support.webhook import WEBHOOK_SECRET, running_webhook

from turnwire_server.app import App, open_engines_for, running
from turnwire_server.archive.base import ArchiveUnavailable
from turnwire_server.conversations.roles import SCOPE_OPERATE
from turnwire_server.engines import Engines
from turnwire_server.eventlog.redis import RedisQuotas

USD_PER_TOKEN = "1000"
"""Per million: a token costs a thousandth of a dollar."""


def said(tokens: int, *steps: Any) -> Script:
    """An answer that costs so many tokens, prompt and all."""
    return Script.text(*(steps or ("ok",)), usage=(tokens - 1, 1))


@asynccontextmanager
async def limited(
    data_dir: Path | None = None, *, tenant: dict[str, Any], **sections: Any
) -> AsyncIterator[tuple[ControlledProvider, App]]:
    async with running_provider() as provider:
        deployment = {
            "name": "test",
            "model": "m",
            "base_url": provider.base_url,
            "input_usd_per_mtok": USD_PER_TOKEN,
            "output_usd_per_mtok": USD_PER_TOKEN,
        }
        async with running_server(
            data_dir,
            jwt=True,
            deployments=[deployment],
            routes=[{"name": "default", "deployments": ["test"]}],
            tenants={"acme": {"max_output_tokens": 10, **tenant}, "globex": {}},
            **sections,
        ) as app:
            yield provider, app


async def refused(client: Client, request: str, conversation: str, text: str = "hi") -> dict[str, Any]:
    with pytest.raises(CallError) as caught:
        await client.create(request, conversation, text)
    return caught.value.error


def limits_told(client: Client) -> dict[str, Any]:
    return client.events("rate_limits.updated")[-1]["limits"]


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
                assert client.events("notice") == []
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
        return Engines(engines.log, engines.archive, engines.checkpoint, engines.measure, quotas)

    settings = settings_for(tmp_path, limits={"quota_fail": policy}, tenants={"default": {"requests_per_minute": 1}})
    async with running(settings, {}, open_engines=uncounted) as app, connected(app.url) as client:
        if policy == "closed":
            assert (await refused(client, "r1", "c1"))["code"] == "unavailable"
        else:
            for request in ("r1", "r2"):
                await client.create(request, "c1", "hi")
                assert (await client.terminal(request))["type"] == "message.completed"


class Watched:
    """Passes calls on to a store and notes which there were."""

    def __init__(self, store: Any) -> None:
        self.calls: list[str] = []
        self.holds: dict[str, asyncio.Event] = {}
        """Calls of these names wait for an event."""
        self._store = store
        self._answers: Counter[str] = Counter()
        self._news = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **named: Any) -> Any:
            self.calls.append(name)
            if name in self.holds:
                await self.holds[name].wait()
            answer = await getattr(self._store, name)(*args, **named)
            self._answers[name] += 1
            self._news.set()
            self._news = asyncio.Event()
            return answer

        return call

    async def until_answered(self, name: str, times: int) -> None:
        async with asyncio.timeout(20):
            while self._answers[name] < times:
                await self._news.wait()


def each_of(app: App) -> tuple[App, ...]:
    return app.apps if isinstance(app, Nodes) else (app,)


def watch(app: App, part: str) -> list[Watched]:
    """The stores behind limits, of each node: `_store` or `_archive`."""
    watched = []
    for node in each_of(app):
        quotas = node.front.services.quotas
        watched.append(Watched(getattr(quotas, part)))
        setattr(quotas, part, watched[-1])
    return watched


@pytest.mark.parametrize(
    ("tenant", "calls"),
    [
        ({}, []),
        ({"requests_per_minute": 9}, ["release", "reserve", "reserve", "reserve", "settle", "settle"]),
    ],
)
async def test_limits_cost_two_calls_of_who_has_some_and_none_of_others(
    tenant: dict[str, Any], calls: list[str]
) -> None:
    gate = Gate()
    async with limited(tenant=tenant) as (provider, app):
        watched = watch(app, "_store")
        provider.script(Script.text("one ", gate))
        async with connected(app.url, token=token()) as client:
            await client.create("r1", "c1", "hi")
            with pytest.raises(CallError):
                await client.create("busy", "c1", "hi", on_busy="reject")
            await client.create("queued", "c1", "hi")
            await client.create("r1", "c1", "hi")
            await client.cancel("queued")
            await client.terminal("queued")
            gate.open()
            await client.terminal("r1")
            if calls:
                await client.until(lambda: len(client.events("rate_limits.updated")) == 4)
        assert sorted(call for each in watched for call in each.calls) == calls


async def test_a_ledger_that_takes_long_is_read_once_for_all_who_wait(tmp_path: Path) -> None:
    async with limited(tmp_path, tenant={"budget_usd_per_day": "1"}) as (_, app):
        gate = asyncio.Event()
        stores, ledgers = watch(app, "_store"), watch(app, "_archive")
        for ledger in ledgers:
            ledger.holds["spent"] = gate
        async with AsyncExitStack() as stack:
            # One after the other: each goes to the next node.
            clients = [await stack.enter_async_context(connected(app.url, token=token())) for _ in range(6)]
            async with asyncio.TaskGroup() as group:
                for number, client in enumerate(clients):
                    group.create_task(client.create(f"r{number}", f"c{number}", "hi"))
                for store in stores:
                    await store.until_answered("reserve", len(clients) // len(stores))
                gate.set()
        assert [ledger.calls for ledger in ledgers] == [["spent", "spent"] for _ in ledgers]


async def test_a_ledger_that_is_away_keeps_all_who_wait_for_it_waiting_once(tmp_path: Path) -> None:
    async with limited(tmp_path, tenant={"budget_usd_per_day": "1"}, limits={"quota_fail": "closed"}) as (_, app):
        gate = asyncio.Event()
        stores, ledgers = watch(app, "_store"), watch(app, "_archive")
        for ledger in ledgers:
            ledger.holds["spent"] = gate
            ledger._store = Away()
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(connected(app.url, token=token())) for _ in range(6)]
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(refused(client, f"r{n}", f"c{n}")) for n, client in enumerate(clients)]
                for store in stores:
                    await store.until_answered("reserve", len(clients) // len(stores))
                gate.set()
        assert {task.result()["code"] for task in asked} == {"unavailable"}
        assert [ledger.calls for ledger in ledgers] == [["spent"] for _ in ledgers]


class Away:
    """An archive that does not answer."""

    async def spent(self, tenant_id: str, since_ms: int) -> Decimal:
        raise ArchiveUnavailable("away")


async def test_what_the_ledger_does_not_have_yet_is_held_until_it_has(tmp_path: Path) -> None:
    """The archive is away when an answer of 40 tokens ends, and counts anew come before its rows do."""
    tenant = {"budget_usd_per_day": "0.100"}
    sections = {"limits": {"quota_recount_s": 0.001}, "storage": {"archive_wait_s": 0.1}}
    async with limited(tmp_path, tenant=tenant, **sections) as (provider, app):
        provider.script(said(40), said(20))
        archives = [node.front.services.archive for node in each_of(app)]
        ends = [archive.end_request for archive in archives]

        async def away(*args: Any, **named: Any) -> Any:
            raise ArchiveUnavailable("away")

        for archive in archives:
            archive.end_request = away  # type: ignore[method-assign]
        async with connected(app.url, token=token("admin", "acme", scopes=(SCOPE_OPERATE,))) as client:
            await client.create("r1", "c1", "hi")
            await client.terminal("r1")
            assert not await app.front.services.archive.usage("acme", "r1")
            await client.create("r2", "c1", "hi")
            await client.until(lambda: len(client.events("rate_limits.updated")) == 2)
            held = Decimal("0.1") - Decimal(limits_told(client)["budget_usd_per_day"]["remaining"])
            assert held > Decimal("0.020"), "both are expected to take some 13"
            for archive, end in zip(archives, ends, strict=True):
                archive.end_request = end  # type: ignore[method-assign]
            await client.terminal("r2")
            await client.until(lambda: limits_told(client)["budget_usd_per_day"]["remaining"] == "0.04")


class NoNeighbours(dict[Any, Any]):
    """What a node knows of creates that other nodes carry out: nothing."""

    def get(self, key: Any, default: Any = None) -> Any:
        return default

    def __delitem__(self, key: Any) -> None:
        self.pop(key, None)


@pytest.mark.parametrize("limit", [1, 5])
async def test_a_repeat_that_was_overtaken_by_the_whole_turn_is_neither_refused_nor_counted(
    tmp_path: Path, limit: int
) -> None:
    """Two nodes carry out the same create; one asks for the limits when the other's turn has ended."""
    gate = asyncio.Event()
    async with limited(tmp_path, tenant={"requests_per_minute": limit, "budget_usd_per_day": "1"}) as (provider, app):
        provider.script(said(12))
        for node in each_of(app):
            node.front.requests._creating = NoNeighbours()
        admin = token("admin", "acme", scopes=(SCOPE_OPERATE,))
        async with connected(app.url, token=admin) as slow, connected(app.url, token=admin) as client:
            stores = watch(app, "_store")
            for store in stores:
                store.holds["reserve"] = gate
            late = asyncio.create_task(slow.create("r1", "c1", "hi"))
            async with asyncio.timeout(20):
                while not any(store.calls for store in stores):
                    await asyncio.sleep(0.01)
            for store in stores:
                store.holds.clear()
            await client.create("r1", "c1", "hi")
            await client.terminal("r1")
            await client.until(lambda: len(client.events("rate_limits.updated")) == 2)
            gate.set()
            assert (await late)["duplicate"]
            if limit > 1:
                await client.create("r2", "c2", "hi")
                await client.until(lambda: len(client.events("rate_limits.updated")) >= 3)
                told = client.events("rate_limits.updated")[2]["limits"]
                assert told["requests_per_minute"]["remaining"] == limit - 2
                assert Decimal(told["budget_usd_per_day"]["remaining"]) > Decimal("0.970"), "12 spent, 13 held"
