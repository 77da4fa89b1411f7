"""Two tenants with the same ids everywhere: each learns of the other's what it learns of ids that do not exist, and
nothing that one says ever reaches the other (DESIGN, guarantee 9)."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, get_args

import aiohttp
import pytest
from tests.support.client import CallError, Client, connected
from tests.support.provider import ControlledProvider, Script, running_provider
from tests.support.server import running_server, token

from turnwire_protocol import AnyCommand
from turnwire_server.app import App

# In every text that one of them says; nothing else holds these words.
MARKS = {"acme": "AARDVARK", "globex": "GIRAFFE"}
OTHER = {"acme": "globex", "globex": "acme"}
LOOKUP = {
    "name": "lookup",
    "description": "Looks something up.",
    "parameters": {"type": "object", "properties": {"what": {"type": "string"}}},
}
ASKING = {**LOOKUP, "approval": "required", "approval_timeout_s": 60}
LIMITS = {"client_tool_timeout_s": 1, "interrupt_hold_s": 0.2}


def answer(body: dict[str, Any]) -> Script:
    """What the model says: to `call …` with tools a call of the first, else what it was asked, marks and all."""
    asked = str(next(m["content"] for m in reversed(body["messages"]) if m["role"] == "user"))
    mark = next((mark for mark in MARKS.values() if mark in asked), "")
    is_answered = body["messages"][-1]["role"] == "tool"
    if asked.startswith("call") and body.get("tools") and not is_answered:
        name = body["tools"][0]["function"]["name"]
        return Script.tool_call(name, json.dumps({"what": f"{mark} {asked}"[:60]}), call_id="call_1")
    return Script.text(f"{mark} ", "was ", "said: ", asked[-30:])


@asynccontextmanager
async def two_tenants(**sections: Any) -> AsyncIterator[tuple[ControlledProvider, App]]:
    tenants = {name: {"system_prompt": f"You serve {mark}."} for name, mark in MARKS.items()}
    async with running_provider() as provider:
        provider.default = answer
        sections["limits"] = {**LIMITS, **sections.get("limits", {})}
        async with running_server(provider_url=provider.base_url, jwt=True, tenants=tenants, **sections) as app:
            yield provider, app


@asynccontextmanager
async def present(app: App, tenant: str, user: str = "alice", kind: type[Client] = Client) -> AsyncIterator[Client]:
    """A connection whose instance has the same id in both tenants."""
    async with connected(app.url, hello=False, kind=kind) as client:
        who = {"name": "test", "version": "1", "instance_id": f"instance-of-{user}"}
        await client.call({"type": "hello", "id": "hello", "token": token(user, tenant), "client": who})
        yield client


# --- what one learns of the other's ----------------------------------------------------------------------


def probes(ids: dict[str, str], number: int) -> list[dict[str, Any]]:
    """Every command that names anything, with these ids. Those that make something come last."""
    conversation, request = {"conversation_id": ids["conversation"]}, {"request_id": ids["request"]}
    call = {**request, "call_id": ids["call"]}
    new = {"conversation_id": "c-mine", "input": "x"}
    return [
        {"type": "conversation.open", **conversation, "create": False},
        {"type": "conversation.open", **conversation, "create": False, "since": {"epoch": ids["epoch"], "seq": 1}},
        {"type": "conversation.leave", **conversation},
        {"type": "conversation.list", "limit": 1},
        {"type": "conversation.history", **conversation},
        {"type": "conversation.history", "conversation_id": "c-mine", "leaf": ids["message"]},
        {"type": "conversation.history", "conversation_id": "c-mine", "before": ids["message"]},
        {"type": "conversation.share", **conversation, "user_id": "mallory", "role": "owner"},
        {"type": "presence.set", **conversation, "state": {"is": "there"}},
        {"type": "context.set", **conversation, "key": "doc", "version": 9, "value": 1},
        {"type": "request.resume", **request},
        {"type": "request.status", **request},
        {"type": "request.cancel", **request},
        *(
            {"type": "request.interrupt", **request, "phase": phase}
            for phase in ("confirmed", "tentative", "retracted")
        ),
        {"type": "request.interrupt", **request, "presented": {"text": "x"}},
        {"type": "request.presented", **request, "part": 0, "offset": 1},
        {"type": "request.regenerate", "request_id": f"n{number}-1", "message_id": ids["message"]},
        {"type": "feedback.create", **request, "rating": 1},
        {"type": "tool.claim", **call},
        {"type": "tool.result", **call, "output": 1},
        {"type": "tool.approve", **call},
        {"type": "tool.deny", **call},
        {"type": "tool.cancel", **call},
        {"type": "request.create", "request_id": f"n{number}-2", **new, "parent_id": ids["message"]},
        {"type": "request.create", "request_id": f"n{number}-3", **new, "on_busy": "steer", "target": ids["request"]},
        {"type": "conversation.delete", **conversation},
        {"type": "request.create", "request_id": ids["unused"], "conversation_id": ids["conversation"], "input": "x"},
        {"type": "conversation.open", **conversation},
        {"type": "conversation.delete", **conversation},
    ]


# Of a conversation or a turn that the stranger makes itself these are new each time.
_OWN = ("epoch", "ref", "expires_at")


async def answers(client: Client, ids: dict[str, str], number: int) -> list[str]:
    """What each probe is answered with, with the ids taken out."""
    out = []
    for probe in probes(ids, number):
        if probe["type"] == "request.presented":  # is only answered when it is wrong
            mark = f"presented-{number}"
            await client.send({**probe, "id": mark}, {"type": "ping", "id": f"{mark}-ping"})
            await client.answer(f"{mark}-ping")
            got = next((message for message in client.messages if message.get("ref") == mark), {})
        else:
            try:
                got = await client.call(probe)
            except CallError as error:
                got = error.error
        if probe["type"] == "request.create" and got["type"] == "ack":
            await client.terminal(probe["request_id"])
        text = json.dumps({name: value for name, value in got.items() if name not in _OWN}, sort_keys=True)
        for name, value in (*ids.items(), ("new", f"n{number}")):
            text = text.replace(value, name.upper())
        out.append(f"{probe['type']}: {text}")
    return out


def test_no_command_is_left_out() -> None:
    """Whoever adds a command adds a probe."""
    ids = dict.fromkeys(("conversation", "request", "call", "message", "epoch", "unused"), "x")
    kinds = {command.model_fields["type"].default for command in get_args(AnyCommand)}
    assert kinds - {probe["type"] for probe in probes(ids, 0)} == {"hello", "auth.refresh", "ping"}


@pytest.mark.parametrize("state", ["claimed", "asking", "completed"])
@pytest.mark.parametrize("scopes", [(), ("conversations:operate",)])
async def test_every_command_with_ids_of_another_tenant_is_answered_as_with_unknown_ones(
    state: str, scopes: tuple[str, ...]
) -> None:
    async with two_tenants(limits={"client_tool_timeout_s": 60}) as (_provider, app), present(app, "acme") as acme:
        tool = ASKING if state == "asking" else LOOKUP
        await acme.create("r-real", "c-real", f"call {MARKS['acme']}", tools=[tool])
        called = await acme.event("tool.approval_required" if state == "asking" else "tool.called", "r-real")
        call = {"request_id": "r-real", "call_id": called["call_id"]}
        if state != "asking":
            await acme.call({"type": "tool.claim", **call})
        if state == "completed":
            await acme.call({"type": "tool.result", **call, "output": MARKS["acme"]})
            await acme.terminal("r-real")
        await acme.call({"type": "context.set", "conversation_id": "c-real", "key": "doc", "version": 1, "value": 1})
        real = {
            "conversation": "c-real",
            "request": "r-real",
            "call": called["call_id"],
            "message": acme.events("message.created")[0]["message"]["message_id"],
            "epoch": acme.folds["c-real"].epoch,
            "unused": "real-unused",
        }
        unknown = {name: f"{name}-none" for name in real}
        async with connected(app.url, token=token("alice", "globex", scopes=scopes)) as stranger:
            await stranger.open("c-mine")
            assert await answers(stranger, real, 1) == await answers(stranger, unknown, 2)
            assert MARKS["acme"] not in json.dumps(stranger.messages)
        for ids in (real, unknown):
            resume = [{"conversation_id": ids["conversation"]}, {"request_id": ids["request"]}]
            async with connected(app.url, token=token("alice", "globex"), resume=resume) as stranger:
                got = [(await failure(stranger, f"resume.{index}")) for index in range(2)]
                assert got == ["not_found", "not_found"]
        assert (await acme.call({"type": "request.status", "request_id": "r-real"}))["state"] == {
            "claimed": "waiting_tool",
            "asking": "waiting_approval",
            "completed": "completed",
        }[state]
        shown = acme.folds["c-real"].view()
        await acme.open("c-real", since=acme.cursor("c-real"))
        assert acme.folds["c-real"].view() == shown, "nothing that the stranger did is to be seen"


async def failure(client: Client, mark: str) -> str:
    with pytest.raises(CallError) as caught:
        await client.answer(mark)
    return caught.value.code


async def test_a_token_of_another_tenant_does_not_take_over_a_connection() -> None:
    async with two_tenants() as (_provider, app), present(app, "acme") as acme:
        with pytest.raises(CallError) as caught:
            await acme.call({"type": "auth.refresh", "token": token("alice", "globex")})
        assert caught.value.code == "forbidden"


# --- the same life twice ---------------------------------------------------------------------------------


async def live(app: App, tenant: str) -> list[str]:
    """A life with everything in it, under ids that are the same for both; what the other must not be shown."""
    mark = MARKS[tenant]
    async with present(app, tenant) as alice, present(app, tenant, "bob") as bob:
        await alice.open("c1", title=f"{mark} title", visibility="tenant", metadata={"m": mark})
        await bob.open("c1", segments={"unit": "sentence"})
        await alice.call({"type": "presence.set", "conversation_id": "c1", "state": {"says": mark}})
        await alice.call({"type": "context.set", "conversation_id": "c1", "key": "doc", "version": 1, "value": mark})
        await alice.create("r1", "c1", f"call {mark} one", tools=[LOOKUP], context={"page": mark})
        call_id = (await alice.event("tool.called", "r1"))["call_id"]
        await alice.call({"type": "tool.claim", "request_id": "r1", "call_id": call_id})
        result = {"type": "tool.result", "request_id": "r1", "call_id": call_id, "output": {"found": mark}}
        await alice.call(result)
        first = await alice.terminal("r1")
        await alice.call({"type": "feedback.create", "request_id": "r1", "rating": 1, "comment": mark})
        await bob.create("r2", "c1", f"call {mark} two", tools=[ASKING])
        asked = await bob.event("tool.approval_required", "r2")
        denial = {"type": "tool.deny", "request_id": "r2", "call_id": asked["call_id"], "reason": f"{mark} no"}
        await bob.call(denial)
        await bob.terminal("r2")
        await alice.call(
            {"type": "request.regenerate", "request_id": "r3", "message_id": first["message"]["message_id"]}
        )
        await alice.terminal("r3")
        await alice.cancel("r4", reason=mark)
        await alice.create("r4", "c1", f"{mark} four")
        assert (await alice.terminal("r4"))["type"] == "message.cancelled"
        page = await alice.call({"type": "conversation.list"})
        assert [(item["conversation_id"], item["title"]) for item in page["items"]] == [("c1", f"{mark} title")]
        history = await bob.call({"type": "conversation.history", "conversation_id": "c1"})
        assert mark in json.dumps(history)
        return [json.dumps(message) for client in (alice, bob) for message in client.messages]


async def test_two_tenants_live_the_same_life_under_the_same_ids_at_the_same_time() -> None:
    async with two_tenants(limits={"client_tool_timeout_s": 60}) as (provider, app):
        async with asyncio.TaskGroup() as group:
            lives = {tenant: group.create_task(live(app, tenant)) for tenant in MARKS}
        check(provider, {tenant: task.result() for tenant, task in lives.items()})
        for tenant in MARKS:
            rows = await app.front.services.archive.usage(tenant, "r1")
            assert [(row.step, row.attempt) for row in rows] == [(1, 1), (2, 1)]


# --- whatever they do ------------------------------------------------------------------------------------


class Ears(Client):
    """Takes everything in and makes no sense of it: its cursors are of anybody's making."""

    def _fold(self, frame: list[dict[str, Any]]) -> None:
        """See the class."""


class Player:
    """A tenant's clients, which do anything with any ids that either tenant has."""

    def __init__(self, tenant: str, seed: int, seen: dict[str, list[str]]) -> None:
        self.tenant = tenant
        self.mark = MARKS[tenant]
        self.rng = random.Random(f"{tenant} {seed}")
        self.seen = seen
        """Ids that the server has made, whoever was shown them."""
        self.own: set[str] = set()
        self.strange = 0
        """How often an id that was made for the other was used."""
        self.frames: list[str] = []

    async def play(self, app: App, rounds: int) -> None:
        async with (
            present(app, self.tenant, kind=Ears) as alice,
            present(app, self.tenant, "bob", kind=Ears) as bob,
        ):
            clients = [alice, bob]
            for _ in range(rounds):
                client = self.rng.choice(clients)
                command = self.command()
                said = json.dumps(command)
                self.strange += any(f'"{made}"' in said for made in self.made_for_the_other())
                with suppress(CallError):
                    await client.call(command)
                for each in clients:
                    self.learn(each)
            for client in clients:
                await client.call({"type": "ping"})
            self.frames = [json.dumps(message) for client in clients for message in client.messages]

    def made_for_the_other(self) -> set[str]:
        return {made for ids in self.seen.values() for made in ids} - self.own

    def pick(self, kind: str) -> str:
        """An id that the server has made, rather one for the other than one of one's own."""
        made = self.seen[kind]
        strange = [value for value in made if value not in self.own]
        return self.rng.choice((strange if self.rng.random() < 0.7 else made) or made or ["none"])

    def learn(self, client: Client) -> None:
        for message in client.messages[-20:]:
            found = {"call": message.get("call_id"), "epoch": message.get("epoch")}
            if isinstance(message.get("message"), dict):
                found["message"] = message["message"].get("message_id")
            for kind, value in found.items():
                if value is not None and message["type"] != "error":
                    self.own.add(value)
                    if value not in self.seen[kind]:
                        self.seen[kind].append(value)

    def command(self) -> dict[str, Any]:
        rng, mark = self.rng, self.mark
        text = f"{rng.choice(['call', 'say', 'say'])} {mark} {rng.randrange(1000)}"
        conversation = {"conversation_id": f"c{rng.randrange(3)}"}
        request = {"request_id": f"r{rng.randrange(12)}"}
        message = self.pick("message")
        call = {**request, "call_id": self.pick("call")}
        tool = {"tools": [rng.choice([LOOKUP, ASKING])]} if rng.random() < 0.5 else {}
        since = {"since": {"epoch": self.pick("epoch"), "seq": rng.randrange(20)}}
        create = {"type": "request.create", **request, **conversation, "input": text, **tool, "metadata": {"m": mark}}
        return rng.choice(
            [
                create,
                create,
                create,
                {**create, "on_busy": rng.choice(["reject", "interrupt", "steer"])},
                {**create, "parent_id": message, "on_busy": "parallel"},
                {"type": "request.regenerate", **request, "message_id": message},
                {"type": "request.cancel", **request, "reason": mark},
                {"type": "request.interrupt", **request, "phase": rng.choice(["confirmed", "tentative", "retracted"])},
                {"type": "request.resume", **request, **since},
                {"type": "request.status", **request},
                {"type": "conversation.open", **conversation, **since, "title": mark, "visibility": "tenant"},
                {"type": "conversation.open", **conversation, "segments": {"unit": "clause"}},
                {"type": "conversation.leave", **conversation},
                {"type": "conversation.list"},
                {"type": "conversation.history", **conversation},
                {"type": "conversation.history", **conversation, "leaf": message},
                {"type": "conversation.share", **conversation, "user_id": "bob", "role": rng.choice(["editor", None])},
                {"type": "conversation.delete", **conversation} if rng.random() < 0.3 else {"type": "ping"},
                {"type": "presence.set", **conversation, "state": {"says": mark}},
                {"type": "context.set", **conversation, "key": "k", "version": rng.randrange(99), "value": mark},
                {"type": "tool.claim", **call},
                {"type": "tool.result", **call, "output": mark},
                {"type": "tool.approve", **call, "arguments": {"what": mark}},
                {"type": "tool.deny", **call, "reason": mark},
                {"type": "tool.cancel", **call},
                {"type": "feedback.create", **request, "rating": 1, "comment": mark},
            ]
        )


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_two_tenants_do_nothing_crosses(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    async with two_tenants(limits={"snapshot_messages": 5}) as (provider, app):
        seen: dict[str, list[str]] = {"message": [], "call": [], "epoch": []}
        players = [Player(tenant, seed, seen) for tenant in MARKS]
        async with asyncio.TaskGroup() as group:
            for player in players:
                group.create_task(player.play(app, 150))
        check(provider, {player.tenant: player.frames for player in players})
        assert all(player.strange > 10 for player in players), [player.strange for player in players]
        for player in players:
            made = player.own - {value for other in players if other is not player for value in other.own}
            assert len(made) > 5
        apart = players[0].own & players[1].own
        # Of ids that the server makes none was shown to both, whoever asked for it.
        assert not apart, apart
        async with aiohttp.ClientSession() as http:
            async with http.get(f"http://127.0.0.1:{app.port}/metrics") as response:
                figures = await response.text()
        for word in (*MARKS, *MARKS.values(), "alice", "instance-of"):
            assert word not in figures, "metrics know no tenant, no user and no text"
        assert not any(mark in caplog.text for mark in MARKS.values()), "logs hold no text of a user"


def check(provider: ControlledProvider, frames: dict[str, list[str]]) -> None:
    """Nobody was shown anything of the other, and no prompt has something of both."""
    for tenant, shown in frames.items():
        assert sum(MARKS[tenant] in frame for frame in shown) > 10, "else there was nothing to cross"
        crossed = [frame for frame in shown if MARKS[OTHER[tenant]] in frame]
        assert crossed == []
    for request in provider.requests:
        prompt = json.dumps(request.body)
        assert sum(mark in prompt for mark in MARKS.values()) == 1, prompt
