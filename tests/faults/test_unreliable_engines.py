"""A server whose log and archive answer badly: every other call of each step is lost, missed, refused, or done twice.

Clients repeat what is answered `unavailable`, as the protocol asks; the server repeats by itself. Then everything
must stand as if nothing had happened: one ending each, no turn twice, nothing forgotten.
"""

from __future__ import annotations

import asyncio
import dataclasses
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.client import CallError, Client, connected
from tests.support.provider import Gate, Script, running_provider
from tests.support.server import settings_for
from tests.support.unreliable import (
    ARCHIVE_LOOKS,
    ARCHIVE_STEPS,
    LOG_LOOKS,
    LOG_STEPS,
    Fault,
    unreliable_archive,
    unreliable_log,
)

from turnwire_server.app import App, running
from turnwire_server.engines import Engines, open_embedded
from turnwire_server.settings import Settings

FAULTS = [Fault.NONE, Fault.TWICE, Fault.LOST, Fault.MISSED, Fault.REFUSED]
_PATIENCE = 12


@asynccontextmanager
async def bad_server(
    provider_url: str, log: Fault, archive: Fault, *, looks: bool = False, **limits: Any
) -> AsyncIterator[App]:
    async def open_badly(settings: Settings, stack: AsyncExitStack) -> Engines:
        engines = await open_embedded(settings, stack)
        log_steps, archive_steps, every = LOG_STEPS, ARCHIVE_STEPS, 2
        if looks:  # a chain of looks would fail again and again at the same place if every other one did
            log_steps, archive_steps, every = LOG_STEPS | LOG_LOOKS, ARCHIVE_STEPS | ARCHIVE_LOOKS, 5
        return dataclasses.replace(
            engines,
            log=unreliable_log(engines.log, log, log_steps, every),
            archive=unreliable_archive(engines.archive, archive, archive_steps, every),
        )

    with tempfile.TemporaryDirectory() as folder:
        settings = settings_for(
            Path(folder),
            provider_url=provider_url,
            limits={"commands_per_s": 10_000, "errors_per_minute": 10_000, "command_timeout_s": 2, **limits},
        )
        async with running(settings, {}, open_engines=open_badly) as app:
            yield app


async def insist(client: Client, kind: str, **fields: Any) -> dict[str, Any]:
    """Send a command until it is answered with anything but `unavailable`."""
    for _ in range(_PATIENCE):
        try:
            return await client.call({"type": kind, **fields})
        except CallError as error:
            if error.code != "unavailable":
                raise
    raise AssertionError(f"{kind} was not carried out")


def create(client: Client, request: str, conversation: str, text: str = "hello") -> Any:
    return insist(client, "request.create", request_id=request, conversation_id=conversation, input=text)


async def open_whole(client: Client, conversation: str) -> dict[str, Any]:
    await insist(client, "conversation.open", conversation_id=conversation)
    await client.until(lambda: conversation in client.folds)
    return client.folds[conversation].view()


async def shown(client: Client, request: str, conversation: str) -> None:
    """Wait until some of the answer is seen, as a delta or in a snapshot."""

    def has_text() -> bool:
        fold = client.folds.get(conversation)
        return fold is not None and request in fold.active and fold.active[request].partial.length > 0

    await client.until(has_text)


async def ended(client: Client, conversation: str, turns: int) -> dict[str, Any]:
    """Wait until so many turns have ended and nothing runs; the client's view."""

    def all_ended() -> bool:
        fold = client.folds.get(conversation)
        return fold is not None and not fold.active and len(fold.messages) == 2 * turns

    await client.until(all_ended)
    return client.folds[conversation].view()


def said(view: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [
        (message["role"], message["status"], "".join(part.get("text", "") for part in message["parts"]))
        for message in view["messages"]
    ]


async def state_of(client: Client, request: str) -> str:
    state: str = (await insist(client, "request.status", request_id=request))["state"]
    return state


async def nothing_is_left_open(app: App) -> None:
    """To be called once clients have seen all ends; a step whose answer was lost is still being repeated then."""
    async with asyncio.timeout(60):
        await app.front.hub._until_ended()
    services = app.front.services
    log, archive = services.log._engine, services.archive._engine  # type: ignore[attr-defined]
    rows = await log._db.read(
        lambda db: db.execute("SELECT phase, count(*) FROM log_requests GROUP BY phase").fetchall()
    )
    assert {row[0] for row in rows} <= {"finished"}
    assert list(await archive.open_requests(limit=10)) == []
    terminal = await log._db.read(
        lambda db: db.execute(
            "SELECT json_extract(CAST(body AS TEXT), '$.request_id'), count(*) FROM log_events"
            " WHERE json_extract(CAST(body AS TEXT), '$.terminal') = 1 GROUP BY 1"
        ).fetchall()
    )
    assert all(row[1] == 1 for row in terminal), "one terminal event each"


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_line_of_turns_ends_as_it_should(fault: Fault) -> None:
    gate = Gate()
    async with (
        running_provider() as provider,
        bad_server(provider.base_url, fault, fault) as app,
        connected(app.url) as client,
    ):
        provider.script(Script.text("one ", gate, "two"), Script.text("three"))
        await create(client, "r1", "c1", "first")
        await shown(client, "r1", "c1")
        await create(client, "r2", "c1", "second")
        await create(client, "r3", "c1", "third")
        await insist(client, "request.cancel", request_id="r2")
        gate.open()
        await ended(client, "c1", 3)
        async with connected(app.url) as fresh:
            view = await open_whole(fresh, "c1")
            assert view == client.folds["c1"].view()
            assert said(view) == [
                ("user", "complete", "first"),
                ("assistant", "complete", "one two"),
                ("user", "complete", "second"),
                ("assistant", "cancelled", ""),
                ("user", "complete", "third"),
                ("assistant", "complete", "three"),
            ]
        assert [await state_of(client, r) for r in ("r1", "r2", "r3")] == ["completed", "cancelled", "completed"]
        assert len(provider.requests) == 2
        await ledger_is(app, {"r1": ["completed"], "r2": [], "r3": ["completed"]})
        await nothing_is_left_open(app)


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_cancel_in_mid_stream_is_a_fact(fault: Fault) -> None:
    async with (
        running_provider() as provider,
        bad_server(provider.base_url, fault, fault) as app,
        connected(app.url) as client,
    ):
        provider.script(Script.stalled_after("half "))
        await create(client, "r1", "c1")
        await shown(client, "r1", "c1")
        answer = await insist(client, "request.cancel", request_id="r1")
        assert answer["outcome"] == "cancelling"
        assert said(await ended(client, "c1", 1))[1:] == [("assistant", "cancelled", "half ")]
        await provider.client_gone(0)
        await ledger_is(app, {"r1": ["cancelled"]})
        await nothing_is_left_open(app)


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_cancel_before_the_request_is_a_fact(fault: Fault) -> None:
    async with (
        running_provider() as provider,
        bad_server(provider.base_url, fault, fault) as app,
        connected(app.url) as client,
    ):
        assert (await insist(client, "request.cancel", request_id="r1"))["outcome"] == "recorded"
        await create(client, "r1", "c1")
        assert said(await ended(client, "c1", 1))[1:] == [("assistant", "cancelled", "")]
        assert provider.requests == []
        await nothing_is_left_open(app)


@pytest.mark.parametrize("fault", FAULTS)
async def test_the_archive_has_every_turn_that_anybody_saw(fault: Fault) -> None:
    """Only the archive answers badly: what it never took, or took without saying so, must get there all the same."""
    async with (
        running_provider() as provider,
        bad_server(provider.base_url, Fault.NONE, fault) as app,
        connected(app.url) as client,
    ):
        for number in range(1, 4):
            await create(client, f"r{number}", "c1", f"question {number}")
            await ended(client, "c1", number)
        await app.front.services.log.trim()
        history = await insist(client, "conversation.history", conversation_id="c1")
        texts = [part["text"] for message in history["items"] for part in message["parts"]]
        assert texts == [text for n in (1, 2, 3) for text in (f"question {n}", f"You said: question {n}")]
        assert len(provider.requests) == 3
        assert [len(request.messages) for request in provider.requests] == [1, 3, 5]
        await nothing_is_left_open(app)


@pytest.mark.parametrize("fault", FAULTS)
async def test_sharing_rating_and_deleting_work(fault: Fault) -> None:
    async with (
        running_provider() as provider,
        bad_server(provider.base_url, fault, fault) as app,
        connected(app.url) as client,
    ):
        await create(client, "r1", "c1")
        await ended(client, "c1", 1)
        await insist(client, "conversation.share", conversation_id="c1", user_id="bob", role="viewer")
        await client.event("member.changed")
        await insist(client, "feedback.create", request_id="r1", rating=1)
        epoch = client.folds["c1"].epoch
        provider.script(Script.stalled_after("half "))
        await create(client, "r2", "c1")
        await shown(client, "r2", "c1")
        try:
            await insist(client, "conversation.delete", conversation_id="c1")
        except CallError as error:
            assert error.code == "not_found"  # the answer of the one that did it was lost
        async with connected(app.url) as fresh:
            opened = await insist(fresh, "conversation.open", conversation_id="c1")
            assert opened["epoch"] != epoch
            assert said(await open_whole(fresh, "c1")) == []
        await nothing_is_left_open(app)


@pytest.mark.parametrize("fault", [Fault.MISSED, Fault.LOST])
async def test_looking_may_fail_too(fault: Fault) -> None:
    async with (
        running_provider() as provider,
        bad_server(provider.base_url, fault, fault, looks=True) as app,
        connected(app.url) as client,
    ):
        await create(client, "r1", "c1", "first")
        await ended(client, "c1", 1)
        async with connected(app.url) as fresh:
            assert said(await open_whole(fresh, "c1")) == [
                ("user", "complete", "first"),
                ("assistant", "complete", "You said: first"),
            ]
        assert await state_of(client, "r1") == "completed"
        assert len(provider.requests) == 1


async def ledger_is(app: App, expected: dict[str, list[str]]) -> None:
    archive = app.front.services.archive
    for request, outcomes in expected.items():
        assert [row.outcome for row in await archive.usage(app_tenant(app), request)] == outcomes


def app_tenant(app: App) -> str:
    (tenant,) = {session.principal.tenant_id for session in app.front.sessions}
    return tenant
