"""One connection from hello to close: who may speak, for how long, how much (SPEC sections 2 and 8)."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from tests.support.client import CallError, Client, connected
from tests.support.provider import Gate, Script
from tests.support.server import running_server, token
from tests.support.stack import running_stack
from websockets.exceptions import ConnectionClosed, InvalidStatus


async def _closed(client: Client) -> int:
    """Read until the server closes; the code."""
    with pytest.raises(ConnectionClosed) as closed:
        await client.until(lambda: False)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code


# --- hello -------------------------------------------------------------------------------------------------


async def test_a_command_before_hello_is_unauthenticated_and_ends_the_connection() -> None:
    async with running_server() as app, connected(app.url, hello=False) as client:
        await client.send({"type": "request.status", "id": "x", "request_id": "r1"})
        assert await _closed(client) == 4501
        (error,) = client.events("error")
        assert (error["code"], error["ref"]) == ("unauthenticated", "x")


async def test_a_second_hello_ends_the_connection() -> None:
    async with running_server() as app, connected(app.url) as client:
        await client.send({"type": "hello"})
        assert await _closed(client) == 4500
        assert [error["code"] for error in client.events("error")] == ["bad_command"]


async def test_a_hello_that_cannot_be_read_may_be_said_again() -> None:
    async with running_server() as app, connected(app.url, hello=False) as client:
        await client.send_raw('{"type":"hello"')
        await client.send({"type": "hello", "resume": "nothing"})
        await client.send({"type": "hello", "id": "h"})
        assert (await client.answer("h"))["type"] == "welcome"
        assert [error["code"] for error in client.events("error")] == ["bad_frame", "bad_command"]


async def test_commands_behind_a_hello_need_not_wait_for_the_welcome() -> None:
    async with running_stack() as (_provider, app), connected(app.url, hello=False) as client:
        create = {"type": "request.create", "request_id": "r1", "conversation_id": "c1", "input": "hello", "id": "r"}
        await client.send({"type": "hello", "id": "h"}, create)
        await client.terminal("r1")
        assert [m["type"] for m in client.messages[:2]] == ["welcome", "ack"]


async def test_commands_behind_a_refused_hello_are_dropped() -> None:
    async with running_stack(jwt=True) as (provider, app), connected(app.url, hello=False) as client:
        create = {"type": "request.create", "request_id": "r1", "conversation_id": "c1", "input": "hello"}
        await client.send({"type": "hello", "token": "nonsense"}, create)
        assert await _closed(client) == 4501
        assert len(client.messages) == 1
        assert provider.requests == []


async def test_the_welcome_says_who_one_is_and_what_the_limits_are() -> None:
    tenants = {"acme": {"features": ["beta"]}}
    async with running_server(jwt=True, tenants=tenants) as app:
        async with connected(app.url, token=token("alice", ttl_s=600)) as client:
            welcome = client.welcome
        assert (welcome["tenant_id"], welcome["user_id"], welcome["protocol"]) == ("acme", "alice", 1)
        assert welcome["server"]["name"] == "turnwire"
        assert welcome["features"] == ["beta"]
        assert welcome["limits"]["resume_entries"] == 64
        assert {"frame_bytes", "input_chars", "event_bytes", "commands_per_s"} <= welcome["limits"].keys()
        assert abs(welcome["server_time"] / 1000 - time.time()) < 5
        assert 500_000 < welcome["expires_at"] - welcome["server_time"] < 700_000


@pytest.mark.parametrize(
    ("header", "in_hello", "code"),
    [
        (None, None, 4501),
        (None, "nonsense", 4501),
        (None, "{expired}", 4401),
        ("{good}", "{other}", 4501),
        ("nonsense", None, 4501),
    ],
    ids=["none", "nonsense", "expired", "two-that-differ", "nonsense-in-the-header"],
)
async def test_without_a_good_token_there_is_no_welcome(header: str | None, in_hello: str | None, code: int) -> None:
    tokens = {"{good}": token("alice"), "{other}": token("bob"), "{expired}": token("alice", ttl_s=-3600)}
    async with running_server(jwt=True) as app:
        headers = {} if header is None else {"Authorization": f"Bearer {tokens.get(header, header)}"}
        async with connected(app.url, hello=False, additional_headers=headers) as client:
            hello: dict[str, Any] = {"type": "hello"}
            if in_hello is not None:
                hello["token"] = tokens.get(in_hello, in_hello)
            await client.send(hello)
            assert await _closed(client) == code
            assert [error["code"] for error in client.events("error")] == ["unauthenticated"]


async def test_a_token_in_the_header_counts_and_so_does_the_same_one_twice() -> None:
    async with running_server(jwt=True) as app:
        headers = {"Authorization": f"Bearer {(good := token('alice'))}"}
        async with connected(app.url, additional_headers=headers) as client:
            assert client.welcome["user_id"] == "alice"
        async with connected(app.url, additional_headers=headers, token=good) as client:
            assert client.welcome["user_id"] == "alice"


async def test_a_tenant_that_is_not_served_is_forbidden() -> None:
    async with running_server(jwt=True, tenants={"acme": {}}) as app, connected(app.url, hello=False) as client:
        await client.send({"type": "hello", "token": token("alice", "globex")})
        assert await _closed(client) == 4503
        assert [error["code"] for error in client.events("error")] == ["forbidden"]


async def test_who_does_not_say_hello_in_time_is_closed_4508() -> None:
    async with running_server(limits={"hello_timeout_s": 0.2}) as app, connected(app.url, hello=False) as client:
        assert await _closed(client) == 4508


async def test_sixty_four_resumes_are_answered_each_and_one_more_is_too_many() -> None:
    async with running_server() as app:
        async with connected(app.url) as client:
            for number in range(64):
                await client.open(f"c{number}")
        entries = [{"conversation_id": f"c{number}"} for number in range(64)]
        async with connected(app.url, resume=entries) as client:
            for number in range(64):
                assert (await client.answer(f"resume.{number}"))["verdict"] == "snapshot"
            await client.until(lambda: len(client.events("conversation.snapshot")) == 64)
        async with connected(app.url, hello=False) as client:
            await client.send({"type": "hello", "id": "h", "resume": [*entries, {"request_id": "r1"}]})
            with pytest.raises(CallError) as refused:
                await client.answer("h")
            assert refused.value.code == "too_large"
            assert refused.value.error["details"] == {"size": 65, "limit": 64}


# --- staying -----------------------------------------------------------------------------------------------


async def test_after_expiry_turns_finish_commands_are_refused_and_a_refresh_renews() -> None:
    gate = Gate()
    async with (
        running_stack(jwt=True, auth={"leeway_s": 0}) as (provider, app),
        connected(app.url, token=token("alice", ttl_s=2)) as client,
    ):
        provider.script(Script.text("one ", gate, "two"))
        await client.create("r1", "c1", "hello")
        await client.event("output_text.delta")
        with pytest.raises(CallError) as refused:
            async with asyncio.timeout(60):
                while True:
                    await client.status("r1")
        assert refused.value.code == "unauthenticated"
        assert (await client.call({"type": "ping"}))["type"] == "pong"
        gate.open()
        assert (await client.terminal("r1"))["type"] == "message.completed"
        with pytest.raises(CallError) as refused:
            await client.call({"type": "auth.refresh", "token": token("bob")})
        assert refused.value.code == "forbidden"
        with pytest.raises(CallError) as refused:
            await client.call({"type": "auth.refresh", "token": "nonsense"})
        assert refused.value.code == "unauthenticated"
        assert (await client.call({"type": "auth.refresh", "token": token("alice")}))["type"] == "ack"
        assert (await client.status("r1"))["state"] == "completed"


async def test_after_the_grace_time_an_expired_connection_is_closed_4401() -> None:
    limits = {"auth_grace_s": 0.2}
    async with (
        running_server(jwt=True, auth={"leeway_s": 0}, limits=limits) as app,
        connected(app.url, token=token("alice", ttl_s=1.5)) as client,
    ):
        assert await _closed(client) == 4401


async def test_the_scopes_of_a_new_token_apply_at_once() -> None:
    async with (
        running_server(jwt=True) as app,
        connected(app.url, token=token("alice")) as alice,
        connected(app.url, token=token("eve", scopes=("conversations:read",))) as eve,
    ):
        await alice.open("c1")
        assert (await eve.open("c1"))["role"] == "viewer"
        await eve.call({"type": "auth.refresh", "token": token("eve")})
        assert (await eve.event("notice"))["kind"] == "access_revoked"
        with pytest.raises(CallError) as refused:
            await eve.open("c1", create=False)
        assert refused.value.code == "not_found"
        await eve.call({"type": "auth.refresh", "token": token("eve", scopes=("conversations:operate",))})
        assert (await eve.open("c1"))["role"] == "owner"


async def test_lost_scopes_end_following_where_nobody_else_is_there() -> None:
    """The server looked at the roles it remembered, and remembered none: who came by scope alone went on following."""
    async with running_server(jwt=True) as app:
        async with connected(app.url, token=token("alice")) as alice:
            await alice.open("c1")
        async with connected(app.url, token=token("eve", scopes=("conversations:read",))) as eve:
            await eve.open("c1")
            await eve.call({"type": "auth.refresh", "token": token("eve")})
            assert (await eve.event("notice"))["kind"] == "access_revoked"


async def test_silence_ends_a_connection_and_any_frame_keeps_it() -> None:
    async with (
        running_server(limits={"heartbeat_s": 0.2}) as app,
        connected(app.url) as silent,
        connected(app.url) as pinging,
    ):
        closing = asyncio.create_task(_closed(silent))
        began = asyncio.get_running_loop().time()
        while not closing.done():
            await pinging.call({"type": "ping"})
        assert await closing == 4003
        assert asyncio.get_running_loop().time() - began >= 0.4
        assert (await pinging.call({"type": "ping"}))["type"] == "pong"


# --- how much ----------------------------------------------------------------------------------------------


async def test_too_many_errors_are_answered_and_then_end_the_connection() -> None:
    async with running_server(limits={"errors_per_minute": 3}) as app, connected(app.url) as client:
        for _ in range(6):
            await client.send({"type": "nonsense"})
        assert await _closed(client) == 4509
        assert len(client.events("error")) == 4  # one more than allowed is still answered


async def test_too_many_commands_are_told_when_to_come_again_but_cancel_and_ping_always_work() -> None:
    async with running_stack(limits={"commands_per_s": 5}) as (_provider, app), connected(app.url) as client:
        commands = [{"type": "request.status", "id": f"s{n}", "request_id": "r1"} for n in range(10)]
        others = [{"type": "request.cancel", "id": f"c{n}", "request_id": "r1"} for n in range(50)]
        pings = [{"type": "ping", "id": f"p{n}"} for n in range(50)]
        await client.send(*commands, *others, *pings)
        codes = []
        for n in range(10):
            with pytest.raises(CallError) as refused:
                await client.answer(f"s{n}")
            codes.append(refused.value.code)
            if refused.value.code == "rate_limited":
                assert refused.value.error["retryable"] is True
                assert 0 < refused.value.error["retry_after_ms"] <= 1_000
        assert codes == ["not_found"] * 5 + ["rate_limited"] * 5
        for n in range(50):
            assert (await client.answer(f"c{n}"))["outcome"] == "recorded"
            assert (await client.answer(f"p{n}"))["type"] == "pong"


async def test_connections_of_one_user_are_limited_and_cost_no_other_user_anything() -> None:
    async with running_server(jwt=True, limits={"connections_per_user": 2}) as app:
        async with connected(app.url, token=token("alice")), connected(app.url, token=token("alice")):
            async with connected(app.url, hello=False) as third:
                await third.send({"type": "hello", "token": token("alice")})
                assert await _closed(third) == 4010
                assert [error["code"] for error in third.events("error")] == ["overloaded"]
            async with connected(app.url, token=token("bob")) as bob:
                assert bob.welcome["user_id"] == "bob"
            async with connected(app.url, token=token("alice", "globex")) as namesake:
                assert namesake.welcome["tenant_id"] == "globex"
        async with connected(app.url, token=token("bob")) as bob, asyncio.timeout(60):
            while len(app.front.sessions) > 1:
                await bob.call({"type": "ping"})
        async with connected(app.url, token=token("alice")) as again:
            assert again.welcome["user_id"] == "alice"


async def test_connections_of_the_process_are_limited_before_anything_is_read() -> None:
    async with running_server(limits={"connections": 1}) as app, connected(app.url) as client:
        with pytest.raises(InvalidStatus) as refused:
            async with connected(app.url):
                pass
        assert refused.value.response.status_code == 503
        assert int(refused.value.response.headers["retry-after"]) > 0
        assert (await client.call({"type": "ping"}))["type"] == "pong"


async def test_conversations_followed_by_one_connection_are_limited() -> None:
    async with running_server(limits={"follows_per_connection": 2}) as app, connected(app.url) as client:
        await client.open("c1")
        await client.open("c2")
        with pytest.raises(CallError) as refused:
            await client.open("c3")
        assert refused.value.code == "too_large"
        assert (await client.open("c2"))["verdict"] == "live"
        await client.call({"type": "conversation.leave", "conversation_id": "c1"})
        assert (await client.open("c3"))["verdict"] == "snapshot"


async def test_metadata_and_input_beyond_their_limits_are_too_large_and_say_by_how_much() -> None:
    limits = {"metadata_bytes": 100, "input_chars": 10}
    async with running_stack(limits=limits) as (provider, app), connected(app.url) as client:
        with pytest.raises(CallError) as refused:
            await client.create("r1", "c1", "😀" * 6)
        assert (refused.value.code, refused.value.error["details"]) == ("too_large", {"size": 12, "limit": 10})
        with pytest.raises(CallError) as refused:
            await client.create("r1", "c1", "hello", metadata={"x": "y" * 100})
        assert refused.value.code == "too_large"
        assert provider.requests == []
        await client.create("r1", "c1", "😀" * 5)
        await client.terminal("r1")
