"""Tenants that are set while servers run: live for the next command, on every node."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import time
import uuid
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import websockets
from tests.server.cli.commands import turnwire
from tests.support.client import CallError, Client, connected
from tests.support.provider import ControlledProvider, Gate, Script, running_provider
from tests.support.server import Nodes, running_server, token
from tests.support.stack import running_stack

from turnwire_server.app import App
from turnwire_server.archive.base import ArchiveUnavailable, RequestRecord
from turnwire_server.archive.tenants import AuditEntry

QUICK = {"tenant_refresh_s": 0.05}
# Others than `acme` and `globex` are refused: there is no default.
FILED = {"filed": {}}


async def put(app: App, tenant: str, settings: dict[str, Any] | None) -> int:
    """Set a tenant as the command line does, and wait until every node knows; the version."""
    archive = app.front.services.archive
    stands = await archive.tenant(tenant)
    replaces = 0 if stands is None else stands.version
    entry = AuditEntry(uuid.uuid4().hex, int(time.time() * 1000), "root", "tenant.set", tenant)
    record, done = await archive.put_tenant(tenant, settings, replaces=replaces, entry=entry)
    assert done
    assert record is not None
    await until_known(app, tenant, record.version)
    return record.version


async def until_known(app: App, tenant: str, version: int) -> None:
    """Wait until every node that has to do with the tenant knows this version."""
    async with asyncio.timeout(10):
        for node in app.apps if isinstance(app, Nodes) else (app,):
            known = node.front.services.tenants._known
            while tenant in known and known[tenant].version < version:
                await asyncio.sleep(0.01)


async def refused(app: App, tenant: str) -> tuple[str, int]:
    """The error and close code that a hello of this tenant gets."""
    async with connected(app.url, hello=False) as client:
        with pytest.raises(CallError) as caught:
            await client.call({"type": "hello", "token": token("alice", tenant)})
        return caught.value.code, await closed(client)


def over(*providers: ControlledProvider, route: dict[str, Any] | None = None) -> dict[str, Any]:
    """Settings with a route over one deployment at each provider."""
    deployments = [
        {"name": f"d{number}", "model": "m", "base_url": provider.base_url} for number, provider in enumerate(providers)
    ]
    names = [deployment["name"] for deployment in deployments]
    return {"deployments": deployments, "routes": [{"name": "default", "deployments": names, **(route or {})}]}


async def closed(client: Client) -> int:
    """Read until the server closes; its code."""
    with pytest.raises(websockets.ConnectionClosed):
        while True:
            await client.read_frame()
    code = client.socket.close_code
    assert code is not None
    return code


async def test_a_tenant_is_served_from_when_it_is_added_and_its_changes_count_for_the_next_command() -> None:
    async with running_stack(jwt=True, tenants=FILED, limits=QUICK) as (provider, app):
        assert await refused(app, "acme") == ("forbidden", 4503)
        await put(app, "acme", {"system_prompt": "first", "features": ["a"]})
        async with connected(app.url, token=token()) as one, connected(app.url, token=token()) as two:
            assert one.welcome["features"] == ["a"]
            await one.create("r1", "c1", "hello")
            await one.terminal("r1")
            await put(app, "acme", {"system_prompt": "second"})
            for number, client in enumerate((one, two)):
                await client.create(f"again-{number}", f"c{number}", "hello")
                await client.terminal(f"again-{number}")
        prompts = [request.messages[0]["content"] for request in provider.requests]
        assert prompts == ["first", "second", "second"]
        async with connected(app.url, token=token("alice", "filed")) as filed:
            await filed.create("r1", "c1", "hello")
            await filed.terminal("r1")
        assert provider.requests[-1].messages[0]["role"] == "user"


async def test_a_turn_keeps_the_settings_that_it_began_with() -> None:
    gate = Gate()
    async with running_stack(jwt=True, tenants=FILED, limits=QUICK) as (provider, app):
        await put(app, "acme", {"system_prompt": "first"})
        async with connected(app.url, token=token()) as alice:
            provider.script(Script.text("one", gate))
            await alice.create("r1", "c1", "hello")
            await alice.event("output_text.delta", "r1")
            await alice.create("r2", "c1", "and then", on_busy="queue")
            await put(app, "acme", {"system_prompt": "second"})
            gate.open()
            await alice.terminal("r2")
        assert [request.messages[0]["content"] for request in provider.requests] == ["first", "first"]


@pytest.mark.parametrize("after", [None, {"suspended": True}])
async def test_who_is_suspended_or_removed_is_closed_and_refused_and_nobody_else(after: dict[str, Any] | None) -> None:
    async with running_stack(jwt=True, tenants=FILED, limits=QUICK) as (_provider, app):
        await put(app, "acme", {})
        async with (
            connected(app.url, token=token()) as one,
            connected(app.url, token=token()) as two,
            connected(app.url, token=token("alice", "filed")) as other,
        ):
            await one.create("r1", "c1", "hello")
            await one.terminal("r1")
            await put(app, "acme", after)
            for client in (one, two):
                assert await closed(client) == 4503
                assert client.messages[-1]["code"] == "forbidden"
            assert await refused(app, "acme") == ("forbidden", 4503)
            url = f"http://127.0.0.1:{app.port}/v1/requests/r1"
            async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token()}"}) as http:
                async with http.get(url) as response:
                    assert response.status == 403
            await other.call({"type": "ping"})
            await put(app, "acme", {})
            async with connected(app.url, token=token()) as back:
                assert (await back.status("r1"))["state"] == "completed"


async def test_a_turn_of_a_suspended_tenant_ends_before_its_next_call() -> None:
    gate = Gate()
    async with running_provider() as first, running_provider() as second:
        settings = over(first, second)
        async with running_server(jwt=True, tenants=FILED, limits=QUICK, **settings) as app:
            await put(app, "acme", {})
            first.script(Script.cut_after("one ", gate))
            async with connected(app.url, token=token()) as alice:
                await alice.create("r1", "c1", "hello")
                await alice.event("output_text.delta", "r1")
                await put(app, "acme", {"suspended": True})
                assert await closed(alice) == 4503
            gate.open()
            record = await ended(app, "r1")
            assert record.ending is not None
            assert record.ending["outcome"] == "failed"
            error = record.ending["fields"]["error"]
            assert (error["code"], error["retryable"]) == ("unavailable", False)
            assert [row["outcome"] for row in record.ending["rows"]] == ["failed"]
            assert second.requests == []


async def test_a_slow_call_of_a_suspended_tenant_is_not_raced() -> None:
    gate = Gate()
    async with running_provider() as first, running_provider() as second:
        settings = over(first, second, route={"hedge_after_ms": 500})
        async with running_server(jwt=True, tenants=FILED, limits=QUICK, **settings) as app:
            await put(app, "acme", {})
            first.script(Script.text(gate, "late"))
            async with connected(app.url, token=token()) as alice:
                await alice.create("r1", "c1", "hello")
                await first.request_received()
                await put(app, "acme", {"suspended": True})
                directory, asked_again = app.front.services.tenants, asyncio.Event()
                refusal = directory.refusal

                async def listening(tenant_id: str) -> str | None:
                    why = await refusal(tenant_id)
                    asked_again.set()
                    return why

                directory.refusal = listening  # type: ignore[method-assign]
                assert await closed(alice) == 4503
            async with asyncio.timeout(10):
                await asked_again.wait()
            gate.open()
            assert (await ended(app, "r1")).state == "completed"
            assert second.requests == []


async def test_what_waits_in_the_queue_of_a_suspended_tenant_asks_nobody() -> None:
    gate = Gate()
    async with running_stack(jwt=True, tenants=FILED, limits=QUICK) as (provider, app):
        await put(app, "acme", {})
        provider.script(Script.text("one ", gate))
        async with connected(app.url, token=token()) as alice:
            await alice.create("r1", "c1", "hello")
            await alice.event("output_text.delta", "r1")
            await alice.create("r2", "c1", "and then")
            await put(app, "acme", {"suspended": True})
        gate.open()
        assert (await ended(app, "r1")).state == "completed"
        assert (await ended(app, "r2")).state == "failed"
        assert len(provider.requests) == 1


async def ended(app: App, request: str) -> RequestRecord:
    """What the archive has of a request of acme, once it has ended."""
    async with asyncio.timeout(10):
        while (record := await app.front.services.archive.request("acme", request)) is None or record.state == "open":
            await asyncio.sleep(0.02)
    return record


# --- the command line ------------------------------------------------------------------------------------


async def test_a_change_at_the_command_line_is_live_within_seconds_beside_running_servers(tmp_path: Path) -> None:
    async with running_stack(tmp_path, jwt=True, tenants=FILED) as (provider, app):
        (tmp_path / "turnwire.toml").write_text(
            '[tenants.filed]\n[[routes]]\nname = "default"\ndeployments = ["demo"]\n'
        )

        async def tenant(*arguments: str) -> None:
            done = await turnwire(tmp_path, "tenant", *arguments, **where(app))
            assert done.code == 0, done.err

        await tenant("add", "acme", "features=a", "system_prompt=first")
        async with connected(app.url, token=token()) as one, connected(app.url, token=token()) as two:
            assert one.welcome["features"] == two.welcome["features"] == ["a"]
            await tenant("set", "acme", "system_prompt=second")
            for number, client in enumerate((one, two)):
                async with asyncio.timeout(10):
                    for again in itertools.count():
                        await client.create(f"r{number}-{again}", f"c{number}", "hello")
                        await client.terminal(f"r{number}-{again}")
                        if provider.requests[-1].messages[0]["content"] == "second":
                            break
            changed = time.monotonic()
            await tenant("set", "acme", "suspended=true")
            assert [await closed(client) for client in (one, two)] == [4503, 4503]
            assert time.monotonic() - changed < 15, "most of it is the start of the command"
        listed = await turnwire(tmp_path, "audit", "--format", "json", **where(app))
        assert [entry["act"] for entry in json.loads(listed.out)] == ["tenant.add", "tenant.set", "tenant.set"]


def where(app: App) -> dict[str, str]:
    """What tells a command the archive of this server."""
    settings = app.front.settings
    variables = {"TURNWIRE_SERVER__DATA_DIR": str(settings.server.data_dir)}
    if settings.storage.redis_url is not None and settings.storage.mongo_url is not None:
        variables["TURNWIRE_STORAGE__REDIS_URL"] = settings.storage.redis_url.get_secret_value()
        variables["TURNWIRE_STORAGE__MONGO_URL"] = settings.storage.mongo_url.get_secret_value()
        variables["TURNWIRE_STORAGE__MONGO_DATABASE"] = settings.storage.mongo_database
    return variables


# --- what is away or wrong -------------------------------------------------------------------------------


class Away:
    """An archive that does not answer about tenants."""

    async def fail(self, *_: Any, **__: Any) -> Any:
        raise ArchiveUnavailable("by the test")

    tenant = tenants = tenant_versions = fail


async def test_while_the_archive_is_away_tenants_stay_as_they_were_known(caplog: pytest.LogCaptureFixture) -> None:
    async with running_stack(jwt=True, tenants=FILED, limits=QUICK) as (_provider, app):
        await put(app, "acme", {"features": ["a"]})
        async with connected(app.url, token=token()) as alice:
            directory = app.front.services.tenants
            archive, directory._archive = directory._archive, Away()  # type: ignore[assignment]
            await directory.refresh()
            await directory.refresh()
            assert caplog.text.count("tenants stay as they were known: by the test") == 1
            await alice.create("r1", "c1", "hello")
            await alice.terminal("r1")
            async with connected(app.url, token=token("bob")) as bob:
                assert bob.welcome["features"] == ["a"]
            assert await refused(app, "globex") == ("unavailable", 4010)
            async with connected(app.url, token=token("alice", "filed")):
                pass
            directory._archive = archive
            await put(app, "globex", {})
            async with connected(app.url, token=token("alice", "globex")):
                pass


async def test_settings_that_make_no_sense_here_stop_nothing_and_are_told(caplog: pytest.LogCaptureFixture) -> None:
    async with running_stack(jwt=True, tenants=FILED, limits=QUICK) as (provider, app):
        await put(app, "acme", {"system_prompt": "good"})
        async with connected(app.url, token=token()) as alice:
            await put(app, "acme", {"route": "gone"})
            wrong = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
            assert wrong == [
                "version 2 of tenant acme cannot be used here, the settings before it stay: "
                'tenants.acme.route: "gone": no such route; there are: default'
            ]
            await alice.create("r1", "c1", "hello")
            await alice.terminal("r1")
            assert provider.requests[0].messages[0]["content"] == "good"
            await put(app, "acme", {"routes": ["default", "gone"], "system_prompt": "better"})
            assert "tenant acme: routes that are not configured are left out: gone" in caplog.text
            await alice.create("r2", "c1", "hello", route="default")
            await alice.terminal("r2")
            assert provider.requests[1].messages[0]["content"] == "better"
        await put(app, "globex", {"route": "gone"})
        assert await refused(app, "globex") == ("unavailable", 4010)
        assert (
            'the tenant is not served: tenants.globex.route: "gone": no such route; there are: default' in caplog.text
        )


async def test_connections_are_limited_by_tenant_and_by_user() -> None:
    async with running_stack(jwt=True, tenants=FILED, limits=QUICK) as (_provider, app):
        await put(app, "acme", {"connections": 3, "connections_per_user": 2})
        async with connected(app.url, token=token()), connected(app.url, token=token()):
            assert await refused(app, "acme") == ("overloaded", 4010)
            async with connected(app.url, token=token("bob")):
                async with connected(app.url, hello=False) as third:
                    with pytest.raises(CallError) as caught:
                        await third.call({"type": "hello", "token": token("carol")})
                    assert caught.value.code == "overloaded"
                    assert await closed(third) == 4010
                async with connected(app.url, token=token("alice", "filed")):
                    pass
                await put(app, "acme", {"connections": 4, "connections_per_user": 2})
                async with connected(app.url, token=token("carol")):
                    pass


# --- the audit log ---------------------------------------------------------------------------------------


async def test_what_an_operator_does_with_what_belongs_to_others_is_told() -> None:
    async with running_stack(jwt=True) as (provider, app):
        operator = token("op", scopes=("conversations:operate",))
        async with connected(app.url, token=token()) as alice, connected(app.url, token=operator) as op:
            provider.script(Script.stalled_after("one "))
            await alice.create("r1", "c1", "a secret question")
            await alice.event("output_text.delta", "r1")
            await alice.call({"type": "conversation.share", "conversation_id": "c1", "user_id": "bob", "role": "owner"})
            await op.open("c1")
            await op.create("r0", "c-own", "hello")
            await op.terminal("r0")
            await op.cancel("r0")
            await op.call({"type": "conversation.delete", "conversation_id": "c-own"})
            assert (await app.front.services.archive.audit(limit=10)).items == []
            await op.call({"type": "conversation.share", "conversation_id": "c1", "user_id": "eve", "role": "viewer"})
            await op.cancel("r1", reason="a secret reason")
            await alice.terminal("r1")
            await op.call({"type": "request.interrupt", "request_id": "r1"})
            await op.call({"type": "conversation.delete", "conversation_id": "c1"})
            entries = list((await app.front.services.archive.audit("acme", limit=10)).items)[::-1]
            assert [(entry.actor, entry.act, entry.tenant_id) for entry in entries] == [
                ("op", "conversation.share", "acme"),
                ("op", "request.cancel", "acme"),
                ("op", "request.interrupt", "acme"),
                ("op", "conversation.delete", "acme"),
            ]
            told = [{**entry.details, "token_id": bool(entry.details["token_id"])} for entry in entries]
            assert told[0] == {"conversation_id": "c1", "user_id": "eve", "role": "viewer", "token_id": True}
            assert told[1] == {"conversation_id": "c1", "request_id": "r1", "token_id": True}
            assert "secret" not in json.dumps([dict(entry.details) for entry in entries])


@pytest.mark.parametrize("on_busy", ["interrupt", "steer"])
async def test_who_ends_or_steers_another_s_turn_by_a_request_is_told_as_well(on_busy: str) -> None:
    async with running_stack(jwt=True) as (provider, app):
        operator = token("op", scopes=("conversations:operate",))
        async with connected(app.url, token=token()) as alice, connected(app.url, token=operator) as op:
            provider.script(Script.stalled_after("one "))
            await alice.create("r1", "c1", "hello")
            await alice.event("output_text.delta")
            await op.open("c1")
            await op.event("conversation.snapshot")
            await op.create("r2", "c1", "instead", on_busy=on_busy)
            await op.create("r3", "c1", "behind my own", on_busy="queue")
            await alice.terminal("r3")
            (entry,) = (await app.front.services.archive.audit(limit=10)).items
            assert (entry.actor, entry.act) == ("op", f"request.{on_busy}")
            assert entry.details["request_id"] == "r1"


async def test_an_operator_does_nothing_that_cannot_be_told() -> None:
    async with running_stack(jwt=True) as (_provider, app):
        operator = token("op", scopes=("conversations:operate",))
        async with connected(app.url, token=token()) as alice, connected(app.url, token=operator) as op:
            await alice.create("r1", "c1", "hello")
            await alice.terminal("r1")
            archive = app.front.services.archive
            keep = archive.add_audit
            archive.add_audit = Away().fail  # type: ignore[method-assign]
            command = {"type": "conversation.delete", "conversation_id": "c1"}
            with pytest.raises(CallError) as refusal:
                await op.call(command)
            assert refusal.value.code == "unavailable"
            assert (await alice.status("r1"))["state"] == "completed"
            archive.add_audit = keep  # type: ignore[method-assign]
            await op.call(command)
            assert [entry.act for entry in (await archive.audit(limit=10)).items] == ["conversation.delete"]
