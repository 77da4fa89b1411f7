"""Tenants never meet, and within one nobody learns of what is not theirs (DESIGN, guarantee 9; SPEC, roles)."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest
from tests.support.client import CallError, Client, connected
from tests.support.provider import Gate, Script
from tests.support.server import token
from tests.support.stack import running_stack


def _probes(conversation: str, request: str) -> list[dict[str, Any]]:
    return [
        {"type": "conversation.open", "conversation_id": conversation, "create": False},
        {"type": "conversation.leave", "conversation_id": conversation},
        {"type": "conversation.history", "conversation_id": conversation},
        {"type": "conversation.share", "conversation_id": conversation, "user_id": "mallory", "role": "owner"},
        {"type": "conversation.delete", "conversation_id": conversation},
        {"type": "request.resume", "request_id": request},
        {"type": "request.status", "request_id": request},
        {"type": "request.cancel", "request_id": request},
        {"type": "feedback.create", "request_id": request, "rating": 1},
    ]


async def _answers(client: Client, conversation: str, request: str) -> list[str]:
    """What each probe is answered with, with the ids taken out."""
    out = []
    for probe in _probes(conversation, request):
        try:
            answer = await client.call(probe)
        except CallError as error:
            answer = error.error
        answer.pop("ref", None)
        out.append(json.dumps(answer, sort_keys=True).replace(conversation, "C").replace(request, "R"))
    return out


@pytest.mark.parametrize(("user", "tenant"), [("mallory", "acme"), ("alice", "globex")])
async def test_a_stranger_cannot_tell_a_real_id_from_an_unknown_one(user: str, tenant: str) -> None:
    gate = Gate()
    async with running_stack(jwt=True) as (provider, app):
        async with connected(app.url, token=token("alice", "acme")) as alice:
            await alice.create("r-done", "c-real", "secret")
            await alice.terminal("r-done")
            provider.script(Script.text("one ", gate))
            await alice.create("r-live", "c-real", "secret")
            await alice.event("output_text.delta", "r-live")
            async with connected(app.url, token=token(user, tenant)) as stranger:
                unknown = await _answers(stranger, "c-none", "r-none")
                assert await _answers(stranger, "c-real", "r-live") == unknown
                assert await _answers(stranger, "c-real", "r-done") == unknown
                assert "secret" not in json.dumps(stranger.messages)
                assert (await stranger.call({"type": "conversation.list"}))["items"] == []
                base = f"http://127.0.0.1:{app.port}/v1/requests/"
                headers = {"Authorization": f"Bearer {token(user, tenant)}"}
                async with aiohttp.ClientSession(headers=headers) as http:
                    bodies = []
                    for request in ("r-done", "r-live", "r-none"):
                        async with http.get(base + request) as response:
                            bodies.append((response.status, (await response.text()).replace(request, "R")))
                    assert bodies[0] == bodies[1] == bodies[2]
                    assert bodies[0][0] == 404
            gate.open()
            assert (await alice.terminal("r-live"))["type"] == "message.completed"


async def test_the_same_ids_in_two_tenants_are_different_things() -> None:
    async with running_stack(jwt=True) as (provider, app):
        async with (
            connected(app.url, token=token("alice", "acme")) as acme,
            connected(app.url, token=token("alice", "globex")) as globex,
        ):
            await acme.create("r1", "c1", "from acme")
            await globex.create("r1", "c1", "from globex")
            await acme.terminal("r1")
            await globex.terminal("r1")
            assert len(provider.requests) == 2
            assert "globex" not in json.dumps(acme.messages[1:])
            assert "from acme" not in json.dumps(globex.messages)


async def test_a_taken_conversation_id_is_forbidden_and_nothing_is_made() -> None:
    async with running_stack(jwt=True) as (provider, app):
        async with connected(app.url, token=token("alice")) as alice, connected(app.url, token=token("bob")) as bob:
            await alice.open("c1")
            with pytest.raises(CallError) as refused:
                await bob.open("c1")
            assert refused.value.code == "forbidden"
            with pytest.raises(CallError):
                await bob.create("r1", "c1", "hello")
            assert provider.requests == []
            await bob.create("r1", "c-bob", "the id was left free")
            await bob.terminal("r1")


@pytest.mark.parametrize(
    ("role", "allowed"),
    [
        (None, set()),
        ("viewer", {"open", "history", "status"}),
        ("editor", {"open", "history", "status", "create"}),
        ("owner", {"open", "history", "status", "create", "share"}),
    ],
)
async def test_what_each_role_may_do(role: str | None, allowed: set[str]) -> None:
    async with running_stack(jwt=True) as (_provider, app):
        async with connected(app.url, token=token("alice")) as alice, connected(app.url, token=token("bob")) as bob:
            await alice.create("r1", "c1", "hello")
            await alice.terminal("r1")
            if role is not None:
                await alice.call(
                    {"type": "conversation.share", "conversation_id": "c1", "user_id": "bob", "role": role}
                )
            tries = {
                "open": {"type": "conversation.open", "conversation_id": "c1", "create": False},
                "history": {"type": "conversation.history", "conversation_id": "c1"},
                "status": {"type": "request.status", "request_id": "r1"},
                "create": {"type": "request.create", "request_id": "rb", "conversation_id": "c1", "input": "hi"},
                "share": {
                    "type": "conversation.share",
                    "conversation_id": "c1",
                    "user_id": "carol",
                    "role": "viewer",
                },
            }
            could = set()
            for name, command in tries.items():
                try:
                    await bob.call(command)
                    could.add(name)
                except CallError as error:
                    assert error.code in ("not_found", "forbidden")
            assert could == allowed


async def test_a_role_that_is_taken_back_ends_following() -> None:
    async with running_stack(jwt=True) as (_provider, app):
        async with connected(app.url, token=token("alice")) as alice, connected(app.url, token=token("bob")) as bob:
            await alice.open("c1")
            share = {"type": "conversation.share", "conversation_id": "c1", "user_id": "bob"}
            await alice.call({**share, "role": "viewer"})
            await bob.open("c1")
            await alice.call({**share, "role": None})
            notice = await bob.event("notice")
            assert (notice["kind"], notice["conversation_id"]) == ("access_revoked", "c1")
            mark = len(bob.messages)
            await alice.create("r1", "c1", "among ourselves")
            await alice.terminal("r1")
            await bob.call({"type": "ping"})
            assert [m["type"] for m in bob.messages[mark:]] == ["pong"]
            changed = alice.events("member.changed")
            assert [(m["user_id"], m.get("role")) for m in changed] == [("bob", "viewer"), ("bob", None)]


async def test_a_tenant_wide_conversation_and_tenant_wide_scopes() -> None:
    async with running_stack(jwt=True) as (_provider, app):
        async with connected(app.url, token=token("alice")) as alice:
            await alice.open("c-all", visibility="tenant")
            await alice.open("c-own")
        async with connected(app.url, token=token("bob")) as bob:
            assert (await bob.open("c-all"))["role"] == "editor"
            items = (await bob.call({"type": "conversation.list"}))["items"]
            assert [item["conversation_id"] for item in items] == ["c-all"]
        async with connected(app.url, token=token("eve", scopes=("conversations:read",))) as eve:
            assert (await eve.open("c-own"))["role"] == "viewer"
            with pytest.raises(CallError):
                await eve.create("r1", "c-own", "may not")
        async with connected(app.url, token=token("op", scopes=("conversations:operate",))) as operator:
            assert (await operator.open("c-own"))["role"] == "owner"
        async with connected(app.url, token=token("bob", "globex")) as other:
            with pytest.raises(CallError):
                await other.open("c-all", create=False)


async def test_deleting_cancels_what_runs_tells_followers_and_keeps_the_ledger() -> None:
    async with running_stack(jwt=True) as (provider, app):
        async with connected(app.url, token=token("alice")) as alice, connected(app.url, token=token("alice")) as tab:
            provider.script(Script.stalled_after("one "))
            await tab.open("c1")
            await alice.create("r1", "c1", "hello")
            await alice.event("output_text.delta")
            epoch = alice.folds["c1"].epoch
            await alice.call({"type": "conversation.delete", "conversation_id": "c1"})
            assert (await tab.terminal("r1"))["type"] == "message.cancelled"
            await tab.event("conversation.deleted")
            await provider.client_gone(0)
            with pytest.raises(CallError) as gone:
                await alice.status("r1")
            assert gone.value.code == "not_found"
            rows = await app.front.services.archive.usage("acme", "r1")
            assert [row.outcome for row in rows] == ["cancelled"]
            opened = await alice.open("c1")
            assert opened["created"] is True
            assert opened["epoch"] != epoch


@pytest.mark.parametrize(
    ("role", "answers"),
    [
        (None, ["not_found", "recorded", "not_found", "not_found", "not_found"]),
        ("viewer", ["snapshot", "forbidden", "ack", "forbidden", "forbidden"]),
        ("editor", ["snapshot", "forbidden", "ack", "forbidden", "forbidden"]),
        ("owner", ["snapshot", "cancelling", "ack", "ack", "ack"]),
    ],
)
async def test_what_each_role_may_do_with_a_request_of_somebody_else(role: str | None, answers: list[str]) -> None:
    async with (
        running_stack(jwt=True) as (provider, app),
        connected(app.url, token=token("alice")) as alice,
        connected(app.url, token=token("bob")) as bob,
    ):
        provider.script(Script.stalled_after("one "))
        await alice.create("r1", "c1", "hello")
        await alice.event("output_text.delta")
        share = {"type": "conversation.share", "conversation_id": "c1", "user_id": "bob"}
        if role is not None:
            await alice.call({**share, "role": role})
        commands: list[dict[str, Any]] = [
            {"type": "request.resume", "request_id": "r1"},
            {"type": "request.cancel", "request_id": "r1"},
            {"type": "feedback.create", "request_id": "r1", "rating": 1},
            {**share, "user_id": "carol", "role": "viewer"},
            {"type": "conversation.delete", "conversation_id": "c1"},
        ]
        got = []
        for command in commands:
            try:
                answer = await bob.call(command)
                got.append(answer.get("outcome") or answer.get("verdict") or answer["type"])
            except CallError as error:
                got.append(error.code)
        assert got == answers


async def test_the_id_of_somebody_elses_request_is_taken_and_that_is_all_one_learns() -> None:
    async with (
        running_stack(jwt=True) as (provider, app),
        connected(app.url, token=token("alice")) as alice,
        connected(app.url, token=token("eve")) as eve,
    ):
        await alice.create("r1", "c-alice", "a secret")
        await alice.terminal("r1")
        for text in ("a guess", "a secret"):
            with pytest.raises(CallError) as refused:
                await eve.create("r1", "c-eve", text)
            assert refused.value.code == "idempotency_conflict"
            assert "c-alice" not in json.dumps(refused.value.error)
        assert (await eve.call({"type": "conversation.list"}))["items"] == []
        assert len(provider.requests) == 1


async def test_a_message_of_another_conversation_is_no_parent_and_no_leaf() -> None:
    async with (
        running_stack(jwt=True) as (provider, app),
        connected(app.url, token=token("alice")) as alice,
        connected(app.url, token=token("eve")) as eve,
    ):
        await alice.create("r1", "c1", "a secret")
        secret = (await alice.terminal("r1"))["message"]["message_id"]
        await eve.open("c-eve")
        history = {"type": "conversation.history", "conversation_id": "c-eve"}
        for command in ({**history, "leaf": secret}, {**history, "before": secret}):
            with pytest.raises(CallError) as refused:
                await eve.call(command)
            assert refused.value.code == "not_found"
        with pytest.raises(CallError) as refused:
            await eve.create("r2", "c-eve", "hello", parent_id=secret)
        assert refused.value.code == "not_found"
        assert len(provider.requests) == 1
