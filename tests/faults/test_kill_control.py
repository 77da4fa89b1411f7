"""`kill -9` while somebody interrupts or steers a turn, and a restart on the same data.

What was said is neither lost nor done twice: a request that steers is either in the answer or a turn of its own, an
interrupt that was acknowledged ends the turn, a hold is over.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import websockets
from tests.support.client import Client, connected
from tests.support.process import server_process
from tests.support.provider import Script, running_provider


async def _until_it_dies(client: Client, *commands: dict[str, Any]) -> None:
    try:
        for command in commands:
            await client.send(command)
        while True:
            await client.read_frame(10)
    except websockets.ConnectionClosed:
        return


def _create(request: str, text: str, **fields: Any) -> dict[str, Any]:
    command = {"type": "request.create", "request_id": request, "conversation_id": "c1", "input": text, "id": request}
    return {**command, **fields}


@pytest.mark.parametrize(
    "point",
    [
        "claim:after:2",
        "append:after:4",  # r2 is shown as queued
        "post:before:1",  # to r1: take r2 in
        "post:after:1",
        "post:before:2",  # to r2: merged
        "post:after:2",
        "append:before:6",
        "archive.end_request:before:1",
        "archive.end_request:after:1",
        "finish:before:1",
        "finish:after:1",
    ],
)
async def test_a_request_that_steers_is_in_one_place_whatever_dies(point: str, tmp_path: Path) -> None:
    async with running_provider() as provider:
        provider.default = lambda body: Script.text("one ", "two")
        provider.script(Script.stalled_after("half "))
        steers = _create("r2", "in Spanish", on_busy="steer")
        async with server_process(tmp_path, provider.base_url, crash=point) as server, connected(server.url) as client:
            with suppress(websockets.ConnectionClosed):  # a busy machine may need more appends before
                await client.create("r1", "c1", "first")
                await client.until(lambda: client.text("r1") == "half ")
                await _until_it_dies(client, steers)
            assert await server.gone() == -9
        async with server_process(tmp_path, provider.base_url) as server:
            async with connected(server.url, before=client) as again:
                await again.open("c1", since=client.cursor("c1"))
                # The repeat attaches to the request, whatever became of it.
                await again.call(steers)
                for request in ("r1", "r2"):
                    await again.until(lambda request=request: request not in again.folds["c1"].active)
                assert (await again.status("r1"))["state"] == "completed"
                state = (await again.status("r2"))["state"]
                assert state in ("merged", "completed")
                await again.create("r3", "c1", "last")
                await again.terminal("r3")
                asked = [m["content"] for m in provider.requests[-1].messages if m["role"] == "user"]
                assert "\n\n".join(asked).count("in Spanish") == 1
                assert "\n\n".join(asked).count("first") == 1
                async with connected(server.url) as fresh:
                    await fresh.open("c1")
                    await fresh.event("conversation.snapshot")
                    assert again.folds["c1"].view() == fresh.folds["c1"].view()
            assert await server.terminate() == 0


async def test_an_acknowledged_interrupt_survives_a_kill_and_keeps_what_was_presented(tmp_path: Path) -> None:
    async with running_provider() as provider:
        provider.script(Script.stalled_after("one two "))
        async with server_process(tmp_path, provider.base_url, crash="seal:before:1") as server:
            async with connected(server.url) as client:
                await client.create("r1", "c1", "hello")
                await client.until(lambda: client.text("r1") == "one two ")
                await client.send({"type": "request.presented", "request_id": "r1", "part": 0, "offset": 3})
                await _until_it_dies(client, {"type": "request.interrupt", "request_id": "r1", "id": "stop"})
                assert [m["outcome"] for m in client.messages if m.get("ref") == "stop"] == ["interrupting"]
        async with server_process(tmp_path, provider.base_url) as server:
            async with connected(server.url, before=client) as again:
                await again.open("c1", since=client.cursor("c1"))
                ending = await again.terminal("r1")
                assert (ending["type"], ending["presented"], ending["basis"]) == ("message.interrupted", 3, "reported")
                assert ending["message"]["parts"] == [{"kind": "text", "text": "one"}]
            assert await server.terminate() == 0
        assert len(provider.requests) == 1


async def test_an_answer_that_is_held_back_goes_on_after_a_take_over(tmp_path: Path) -> None:
    async with running_provider() as provider:
        provider.script(Script.stalled_after("half "), Script.text("the whole answer"))
        async with server_process(tmp_path, provider.base_url) as server, connected(server.url) as client:
            await client.create("r1", "c1", "hello")
            await client.until(lambda: client.text("r1") == "half ")
            hold = {"type": "request.interrupt", "request_id": "r1", "phase": "tentative"}
            assert (await client.call(hold))["outcome"] == "held"
            await server.kill()
        async with server_process(tmp_path, provider.base_url) as server:
            async with connected(server.url, before=client) as again:
                await again.open("c1", since=client.cursor("c1"))
                ending = await again.terminal("r1")
                assert ending["message"]["parts"] == [{"kind": "text", "text": "the whole answer"}]
            assert await server.terminate() == 0
