"""Who is in a conversation, and what the others are told of it (SPEC section 7)."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.client import CallError, Client, connected
from tests.support.server import Nodes, running_server, token

from turnwire_server.conversations import presence
from turnwire_server.eventlog.base import ConversationRef, LogUnavailable


def present(opened: dict[str, Any]) -> dict[str, Any]:
    return {one["user_id"]: one.get("state") for one in opened["present"]}


async def until_told(client: Client, **lists: dict[str, Any]) -> None:
    """Read on until a `presence.changed` has said this; nothing else may have been said of it."""

    def said() -> dict[str, dict[str, Any]]:
        out: dict[str, dict[str, Any]] = {}
        for message in client.events("presence.changed"):
            for name in ("joined", "left", "changed"):
                for one in message[name]:
                    out.setdefault(name, {})[one["user_id"]] = one.get("state")
        return out

    await client.until(lambda: said() == lists)


async def shared(client: Client, conversation_id: str = "c1") -> None:
    await client.open(conversation_id, visibility="tenant")


async def state(client: Client, said: Any, conversation_id: str = "c1") -> dict[str, Any]:
    return await client.call({"type": "presence.set", "conversation_id": conversation_id, "state": said})


async def test_followers_are_told_who_comes_what_they_say_and_who_goes() -> None:
    async with running_server(jwt=True) as app, connected(app.url, token=token("ann")) as ann:
        await shared(ann)
        async with connected(app.url, token=token("bob")) as bob:
            assert present(await bob.open("c1")) == {"ann": None, "bob": None}
            await until_told(ann, joined={"bob": None})
            answer = await state(bob, {"typing": True, "at": None})
            assert (answer["type"], answer["conversation_id"]) == ("ack", "c1")
            await until_told(ann, joined={"bob": None}, changed={"bob": {"typing": True, "at": None}})
            async with connected(app.url, token=token("eve")) as eve:
                assert present(await eve.open("c1")) == {"ann": None, "bob": {"typing": True, "at": None}, "eve": None}
                assert eve.events("presence.changed") == []
                await state(bob, None)
                await until_told(eve, changed={"bob": None})
                await ann.until(lambda: "eve" in str(ann.events("presence.changed")))
        await ann.until(
            lambda: {u["user_id"] for m in ann.events("presence.changed") for u in m["left"]} == {"bob", "eve"}
        )
        assert present(await ann.open("c1")) == {"ann": None}


async def test_leaving_a_conversation_takes_the_state_along() -> None:
    async with (
        running_server(jwt=True) as app,
        connected(app.url, token=token("ann")) as ann,
        connected(app.url, token=token("bob")) as bob,
    ):
        await shared(ann)
        await bob.open("c1")
        await state(bob, "here")
        await until_told(ann, joined={"bob": "here"})
        await bob.call({"type": "conversation.leave", "conversation_id": "c1"})
        await until_told(ann, joined={"bob": "here"}, left={"bob": None})
        assert present(await bob.open("c1")) == {"ann": None, "bob": None}


async def test_a_user_with_two_connections_is_present_once_and_with_the_newest_state() -> None:
    async with running_server(jwt=True) as app, connected(app.url, token=token("ann")) as ann:
        await shared(ann)
        async with connected(app.url, token=token("bob")) as first:
            await first.open("c1")
            await state(first, "first")
            await until_told(ann, joined={"bob": "first"})
            ann.messages.clear()
            async with connected(app.url, token=token("bob")) as second:
                assert present(await second.open("c1"))["bob"] == "first"
                await state(second, "second")
                await until_told(ann, changed={"bob": "second"})
                ann.messages.clear()
            # The newest that is left.
            await until_told(ann, changed={"bob": "first"})
        ann.messages.clear()
        await until_told(ann, left={"bob": None})


async def test_a_viewer_may_and_who_cannot_read_learns_nothing() -> None:
    async with (
        running_server(jwt=True) as app,
        connected(app.url, token=token("ann")) as ann,
        connected(app.url, token=token("bob")) as bob,
        connected(app.url, token=token("eve")) as eve,
    ):
        await ann.open("c1")
        await ann.call({"type": "conversation.share", "conversation_id": "c1", "user_id": "bob", "role": "viewer"})
        await bob.open("c1")
        await state(bob, 1)
        await until_told(ann, joined={"bob": 1})
        with pytest.raises(CallError, match="not_found"):
            await state(eve, 1)
        with pytest.raises(CallError, match="not_found"):
            await eve.open("c1", create=False)
        await ann.call({"type": "conversation.share", "conversation_id": "c1", "user_id": "bob", "role": None})
        await bob.event("notice")
        bob.messages.clear()
        await state(ann, 2)
        await until_told(ann, joined={"bob": 1}, left={"bob": None}, changed={"ann": 2})
        await bob.call({"type": "ping"})
        assert bob.events("presence.changed") == []


async def test_who_does_not_follow_is_not_present() -> None:
    async with running_server(jwt=True) as app, connected(app.url, token=token("ann")) as ann:
        await shared(ann)
        await ann.call({"type": "conversation.leave", "conversation_id": "c1"})
        with pytest.raises(CallError, match="invalid_state"):
            await state(ann, 1)


async def test_a_state_has_a_size() -> None:
    async with running_server(jwt=True) as app, connected(app.url, token=token("ann")) as ann:
        await shared(ann)
        with pytest.raises(CallError, match="too_large"):
            await state(ann, "x" * 4095)
        await state(ann, "x" * 4094)


async def test_a_follower_by_a_request_is_present_too() -> None:
    async with running_server(jwt=True) as app, connected(app.url, token=token("ann")) as ann:
        await shared(ann)
        async with connected(app.url, token=token("bob")) as bob:
            await bob.create("r1", "c1", "hello")
            await until_told(ann, joined={"bob": None})


async def test_a_storm_is_told_in_a_few_messages() -> None:
    """Forty come and say something: what each follower is sent does not grow with the square of them."""
    async with running_server(jwt=True) as app, connected(app.url, token=token("ann")) as ann:
        await shared(ann)
        sockets = [connected(app.url, token=token(f"u{number}")) for number in range(40)]
        clients = [await socket.__aenter__() for socket in sockets]
        try:
            for number, client in enumerate(clients):
                await client.open("c1")
                await state(client, number)

            def known() -> set[str]:
                messages = ann.events("presence.changed")
                return {one["user_id"] for message in messages for one in message["joined"] + message["changed"]}

            await ann.until(lambda: len(known()) == 40)
            assert len(ann.events("presence.changed")) <= 20
        finally:
            for socket in sockets:
                await socket.__aexit__(None, None, None)
        assert len(present(await ann.open("c1"))) in range(1, 42)


async def test_the_users_of_a_node_that_died_go_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead node says nothing any more, not even good-bye; its connection stands in for those it took along."""
    monkeypatch.setattr(presence, "KEPT_S", 0.6)
    monkeypatch.setattr(presence, "_RENEWED_S", 0.2)
    async with running_server(jwt=True) as app:
        assert isinstance(app, Nodes), "only run on two nodes"
        here, there = app.apps
        async with connected(here.url, token=token("ann")) as ann, connected(there.url, token=token("bob")) as bob:
            await shared(ann)
            await bob.open("c1")
            await until_told(ann, joined={"bob": None})
            assert await here.front.hub.attendances.is_present(ConversationRef("acme", "c1"), "bob")

            async def dead(*args: Any) -> Any:
                raise LogUnavailable("by the test")

            monkeypatch.setattr(there.front.services.log, "announce", dead)
            await until_told(ann, joined={"bob": None}, left={"bob": None})
            assert not await here.front.hub.attendances.is_present(ConversationRef("acme", "c1"), "bob")
            monkeypatch.undo()


async def test_a_lost_announcement_is_made_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "_RENEWED_S", 0.2)
    async with running_server(jwt=True) as app:
        assert isinstance(app, Nodes), "only run on two nodes"
        here, there = app.apps
        async with connected(here.url, token=token("ann")) as ann, connected(there.url, token=token("bob")) as bob:
            await shared(ann)
            await bob.open("c1")
            await until_told(ann, joined={"bob": None})
            with monkeypatch.context() as deaf:
                deaf.setattr(here.front.hub.attendances, "heard", lambda *args: None)
                await state(bob, "typing")
                await until_told(ann, joined={"bob": None}, changed={"bob": "typing"})


@pytest.mark.parametrize("instance", ["tab-1", None])
async def test_a_client_instance_is_found_wherever_it_is_connected(instance: str | None) -> None:
    async with running_server(jwt=True) as app, connected(app.url, token=token("ann"), hello=False) as ann:
        await ann.call(
            {"type": "hello", "token": token("ann"), "client": {} if instance is None else {"instance_id": instance}}
        )
        await shared(ann)
        async with connected(app.url, token=token("bob")) as bob:
            await bob.open("c1")
        for node in app.apps if isinstance(app, Nodes) else (app,):
            found, ref = node.front.hub.attendances, ConversationRef("acme", "c1")
            assert await found.is_present(ref, "ann")
            assert await found.is_present(ref, "ann", "tab-1") == (instance is not None)
            assert not await found.is_present(ref, "eve")
