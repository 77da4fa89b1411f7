"""Who may connect at all, and what plain HTTP answers on the same port (SPEC sections 1 and 9)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import websockets
from tests.support.client import connected
from tests.support.provider import Gate, Script
from tests.support.server import running_server, token
from tests.support.stack import running_stack
from websockets.exceptions import InvalidStatus

from turnwire_protocol import SUBPROTOCOLS
from turnwire_server.app import App
from turnwire_server.eventlog.base import LogUnavailable


@asynccontextmanager
async def http(app: App, **headers: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{app.port}", headers=headers) as session:
        yield session


async def _refused(app: App, **options: Any) -> int:
    """The HTTP status that a WebSocket handshake is refused with."""
    url = options.pop("url", app.url)
    with pytest.raises(InvalidStatus) as refused:
        async with websockets.connect(url, **options):
            pass
    return refused.value.response.status_code


# --- other pages, other names ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://127.0.0.1",  # another port
        "https://127.0.0.1:{port}",  # another scheme
        "http://127.0.0.1:{port}.evil.example",
        "http://localhost.evil.example:{port}",
        "file://",
    ],
)
async def test_a_page_of_another_origin_cannot_connect_or_ask(origin: str) -> None:
    async with running_server() as app:
        origin = origin.replace("{port}", str(app.port))
        assert await _refused(app, origin=origin) == 403
        async with http(app, Origin=origin) as session:
            for path in ("/readyz", "/metrics", "/v1/requests/r1", "/"):
                async with session.get(path) as response:
                    assert response.status == 403
                    assert "access-control-allow-origin" not in response.headers
        assert not app.front.sessions


async def test_the_servers_own_page_and_programs_without_an_origin_may_connect() -> None:
    async with running_server() as app:
        for name in ("127.0.0.1", "localhost"):
            origin = f"http://{name}:{app.port}"
            async with connected(app.url, origin=origin) as client:
                assert client.welcome["user_id"] == "dev"
        async with connected(app.url) as client:
            assert client.welcome["user_id"] == "dev"


async def test_a_configured_origin_may_connect_and_the_servers_own_then_may_not() -> None:
    server = {"allowed_origins": ["https://app.example.org"]}
    async with running_server(server=server) as app:
        async with connected(app.url, origin="https://app.example.org") as client:
            assert client.welcome["user_id"] == "dev"
        assert await _refused(app, origin=f"http://127.0.0.1:{app.port}") == 403


async def test_a_name_that_is_not_the_servers_is_misdirected() -> None:
    """A page may give its own name this machine's address (DNS rebinding); the `Host` header tells."""
    async with running_server() as app:
        url = f"ws://evil.example:{app.port}/v1"
        assert await _refused(app, url=url, host="127.0.0.1", port=app.port) == 421
        async with http(app, Host=f"evil.example:{app.port}") as session:
            for path in ("/readyz", "/metrics", "/v1/requests/r1", "/"):
                async with session.get(path) as response:
                    assert response.status == 421
            async with session.get("/healthz") as response:  # asked by machines under any name
                assert response.status == 200
        assert not app.front.sessions


# --- subprotocols ------------------------------------------------------------------------------------------


async def test_subprotocols_are_chosen_by_the_client_and_none_is_json() -> None:
    async with running_server() as app:
        for offered, chosen in (
            (None, None),
            ([SUBPROTOCOLS[0]], SUBPROTOCOLS[0]),
            ([SUBPROTOCOLS[1], SUBPROTOCOLS[0]], SUBPROTOCOLS[1]),
            (["turnwire.v9.json", SUBPROTOCOLS[1]], SUBPROTOCOLS[1]),
        ):
            subprotocols: Any = offered
            async with websockets.connect(app.url, subprotocols=subprotocols) as socket:
                assert socket.subprotocol == chosen
        async with connected(app.url, codec=None) as client:
            assert client.welcome["protocol"] == 1
        assert await _refused(app, subprotocols=["turnwire.v9.json", "graphql-ws"]) == 400


@pytest.mark.parametrize("codec", SUBPROTOCOLS)
async def test_a_turn_in_either_encoding(codec: str) -> None:
    async with running_stack() as (_provider, app), connected(app.url, codec=codec) as client:
        await client.create("r1", "c1", "hello 😀")
        ending = await client.terminal("r1")
        assert ending["message"]["parts"] == [{"kind": "text", "text": "You said: hello 😀"}]


# --- plain HTTP --------------------------------------------------------------------------------------------


async def test_health_readiness_and_figures() -> None:
    async with running_stack() as (_provider, app), http(app) as session:
        async with connected(app.url) as client:
            await client.create("r-secret", "c-secret", "hello")
            await client.terminal("r-secret")
            async with session.get("/healthz") as response:
                assert (response.status, response.headers["cache-control"]) == (200, "no-store")
            async with session.get("/readyz") as response:
                assert response.status == 200
                assert (await response.json())["ready"] is True
            async with session.get("/metrics") as response:
                figures = await response.text()
            assert response.headers["content-type"].startswith("text/plain")
        assert "turnwire_connections_open 1.0" in figures
        assert 'turnwire_turns_total{outcome="completed"} 1.0' in figures
        assert "r-secret" not in figures, "figures name nobody"
        assert "c-secret" not in figures


async def test_readiness_says_what_does_not_answer() -> None:
    async with running_server() as app, http(app) as session:
        log: Any = app.front.services.log

        async def ping() -> None:
            raise LogUnavailable("the disk is full")

        log.ping = ping
        async with session.get("/readyz") as response:
            assert response.status == 503
            body = await response.json()
        assert body["ready"] is False
        assert "disk is full" in json.dumps(body)
        async with session.get("/healthz") as response:
            assert response.status == 200


async def test_a_draining_server_is_not_ready_and_takes_no_new_connection() -> None:
    gate = Gate()
    async with running_stack(server={"drain_s": 5}) as (provider, app), connected(app.url) as client:
        provider.script(Script.text("one ", gate, "two"))
        await client.create("r1", "c1", "hello")
        await client.event("output_text.delta")
        draining = asyncio.create_task(app.drain())
        assert (await client.event("goaway"))["retry_after_ms"] >= 0
        async with http(app) as session, session.get("/readyz") as response:
            assert response.status == 503
        assert await _refused(app) == 503
        await client.send(
            {"type": "request.create", "id": "x", "request_id": "r2", "conversation_id": "c2", "input": "hi"}
        )
        error = await client.event("error")
        assert (error["code"], error["ref"], error["retryable"]) == ("unavailable", "x", True)
        gate.open()
        assert (await client.terminal("r1"))["type"] == "message.completed"
        async with asyncio.timeout(60):
            await draining
            await client.socket.wait_closed()
        assert client.socket.close_code == 4000


async def test_a_request_over_http_is_its_state_and_in_the_end_its_message() -> None:
    gate = Gate()
    async with running_stack(jwt=True) as (provider, app), connected(app.url, token=token("alice")) as alice:
        provider.script(Script.text("one ", gate, "two"))
        await alice.create("r1", "c1", "hello")
        await alice.event("output_text.delta")
        async with http(app, Authorization=f"Bearer {token('alice')}") as session:
            async with session.get("/v1/requests/r1") as response:
                assert (response.status, response.headers["cache-control"]) == (200, "no-store")
                running = await response.json()
            assert (running["request_id"], running["conversation_id"], running["state"]) == ("r1", "c1", "streaming")
            assert "message" not in running
            gate.open()
            ending = await alice.terminal("r1")
            async with session.get("/v1/requests/r1") as response:
                ended = await response.json()
            assert ended["state"] == "completed"
            assert ended["last_seq"] == ending["seq"]
            assert ended["message"] == ending["message"]
            for unknown in ("r-unknown", "%20", "x" * 100, "a%2Fb", ""):
                async with session.get(f"/v1/requests/{unknown}") as response:
                    assert response.status == 404


@pytest.mark.parametrize(
    "header", [None, "Bearer nonsense", "Basic YTpi", "Bearer ", "Bearer {expired}"], ids=lambda h: str(h)[:12]
)
async def test_a_request_over_http_needs_a_good_token(header: str | None) -> None:
    async with running_stack(jwt=True) as (_provider, app), connected(app.url, token=token("alice")) as alice:
        await alice.create("r1", "c1", "a secret")
        await alice.terminal("r1")
        expired = token("alice", ttl_s=-3600)
        headers = {} if header is None else {"Authorization": header.replace("{expired}", expired)}
        async with http(app, **headers) as session, session.get("/v1/requests/r1") as response:
            assert response.status == 401
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.headers["cache-control"] == "no-store"
            assert "secret" not in await response.text()


async def test_a_token_in_the_address_is_not_looked_at() -> None:
    async with (
        running_stack(jwt=True) as (_provider, app),
        http(app) as session,
        session.get(f"/v1/requests/r1?token={token('alice')}&access_token={token('alice')}") as response,
    ):
        assert response.status == 401


async def test_other_addresses_and_the_endpoint_without_websocket() -> None:
    async with running_server() as app, http(app) as session:
        async with session.get("/v1") as response:
            assert response.status == 426
        for path in ("/nothing", "/v1/", "/v2", "/v1/requests", "/../etc/passwd"):
            async with session.get(path) as response:
                assert response.status == 404
    async with (
        running_server(server={"playground": False}) as app,
        http(app) as session,
        session.get("/") as response,
    ):
        assert response.status == 404
