"""`kill -9` while tools run, at clients too, and while somebody is asked; then a restart, or the other node.

A tool with side effects runs at most once and the model is told what is known of it; any other runs again with the same
key; who was asked is asked still; what a client has said, and what it runs, is not forgotten (guarantees 4 and 11).
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
import websockets
from tests.support.client import CallError, Client
from tests.support.shop import WAIT_S, Kind, Shop, calls_of, running_shop, say
from tests.support.stand import at_each

from turnwire_server.conversations.presence import KEPT_S

EVERYWHERE = pytest.mark.parametrize("kind", ["embedded", "cluster"])
LOOKUP: dict[str, Any] = {
    "name": "lookup",
    "description": "Looks something up in the page.",
    "parameters": {"type": "object", "properties": {"what": {"type": "string"}}, "required": ["what"]},
}


async def _ask(client: Client, **fields: Any) -> None:
    await client.create("r1", "c1", "please", **fields)


async def _insist(client: Client, kind: str, call_id: str, **fields: Any) -> str:
    """Say it for as long as the answer is `unavailable`; "ack" or the code of an error."""
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                await say(client, kind, call_id, **fields)
                return "ack"
            except CallError as error:
                if error.code != "unavailable":
                    return str(error.code)
            await asyncio.sleep(0.02)


async def _until_lost(client: Client) -> None:
    try:
        while True:
            await client.read_frame(WAIT_S)
    except websockets.ConnectionClosed:
        return


async def _completed(shop: Shop, client: Client) -> None:
    """The turn has ended as it should, once, and a newcomer is shown the same."""
    assert (await client.terminal("r1", WAIT_S))["type"] == "message.completed"
    assert len([m for m in client.messages if m.get("terminal")]) == 1
    async with shop.client(instance="newcomer") as fresh:
        await fresh.open("c1")
        await fresh.event("conversation.snapshot")
        assert fresh.folds["c1"].view() == client.folds["c1"].view()


# --- on the server ---------------------------------------------------------------------------------------


@EVERYWHERE
async def test_a_tool_with_side_effects_is_not_run_twice_and_the_model_is_told_so(kind: Kind, tmp_path: Path) -> None:
    async with running_shop(kind, tmp_path / "effects") as shop:
        shop.calls(("charge_for_ever", {"amount": 5}))
        async with shop.client() as first:
            await _ask(first)
            await first.event("tool.running")
            async with asyncio.timeout(WAIT_S):
                while not shop.effects():
                    await asyncio.sleep(0.01)
            await shop.die()
        async with shop.client(before=first) as client:
            await _completed(shop, client)
            assert [m["outcome"] for m in client.events("tool.failed")] == ["unknown"]
            assert (await client.status("r1"))["run"] == 2
        assert shop.effects() == ["charge 5"]
        assert len(shop.told()) == 1
        assert "effect is unknown" in shop.told()[0]
        assert len(shop.provider.requests) == 2


@EVERYWHERE
async def test_an_idempotent_tool_is_run_again_with_the_same_key(kind: Kind, tmp_path: Path) -> None:
    async with running_shop(kind, tmp_path / "effects") as shop:
        shop.calls(("save", {"text": "it"}))
        async with shop.client() as first:
            await _ask(first)
            await first.event("tool.running")
            async with asyncio.timeout(WAIT_S):
                while not shop.effects():
                    await asyncio.sleep(0.01)
            await shop.die()
        async with shop.client(before=first) as client:
            await _completed(shop, client)
            assert [m["run"] for m in [*first.events("tool.running"), *client.events("tool.running")]] == [1, 2]
        assert len(shop.effects()) == 2
        assert len(set(shop.effects())) == 1
        assert shop.told() == ["saved"]
        assert len(shop.provider.requests) == 2


async def test_of_several_calls_each_has_its_own_truth(tmp_path: Path) -> None:
    async with running_shop("embedded", tmp_path / "effects") as shop:
        asked = [("charge_for_ever", {"amount": 1}), ("save", {"text": "it"}), ("look", {"item": "lamp"})]
        shop.calls(*asked, ("refund", {"amount": 2}))
        async with shop.client() as first:
            await _ask(first)
            await first.event("tool.completed")
            await first.event("tool.approval_required")
            async with asyncio.timeout(WAIT_S):
                while len(shop.effects()) < 2:
                    await asyncio.sleep(0.01)
            await shop.die()
        async with shop.client(before=first) as client:
            await client.event("tool.completed")
            await say(client, "tool.approve", first.events("tool.approval_required")[0]["call_id"])
            await _completed(shop, client)
        assert sorted(line.split(" ")[0] for line in shop.effects()) == ["charge", "refund", "save", "save"]
        unknown, *rest = shop.told()
        assert "unknown" in unknown
        assert rest == ["saved", '{"item":"lamp"}', '{"refunded":2}']


# --- somebody is asked -----------------------------------------------------------------------------------


async def _asked(shop: Shop, client: Client, name: str = "refund") -> str:
    shop.calls((name, {"amount": 9}))
    await _ask(client)
    return str((await client.event("tool.approval_required"))["call_id"])


@EVERYWHERE
@pytest.mark.parametrize("is_parked", [True, False])
async def test_who_was_asked_is_asked_still(kind: Kind, is_parked: bool, tmp_path: Path) -> None:
    limits = {"park_after_s": 0.05 if is_parked else 60}
    async with running_shop(kind, tmp_path / "effects", limits=limits) as shop:
        async with shop.client() as first:
            call_id = await _asked(shop, first)
            if is_parked:
                await shop.until_parked()
            await shop.die()
        async with shop.client(before=first) as client:
            assert (await client.status("r1"))["state"] == "waiting_approval"
            assert shop.effects() == []
            assert await _insist(client, "tool.approve", call_id, arguments={"amount": 4}) == "ack"
            await _completed(shop, client)
            assert (await client.status("r1"))["run"] == (1 if is_parked else 2)
            assert len(client.events("tool.approved")) == 1
            assert client.events("tool.approval_required") == []
        assert shop.effects() == ["refund 4"]


@pytest.mark.parametrize("is_parked", [True, False])
async def test_an_approval_expires_although_its_node_was_killed(is_parked: bool, tmp_path: Path) -> None:
    limits = {"park_after_s": 0.05 if is_parked else 60}
    async with running_shop("embedded", tmp_path / "effects", limits=limits) as shop:
        async with shop.client() as first:
            call_id = await _asked(shop, first, "refund_soon")
            if is_parked:
                await shop.until_parked()
            await shop.die()
        async with shop.client(before=first) as client:
            await _completed(shop, client)
            assert (await client.event("tool.failed"))["outcome"] == "timed_out"
            assert await _insist(client, "tool.approve", call_id) == "already_settled"
        assert shop.effects() == []


# What the node does between the question and the end of a call that was agreed to. It parks while it waits.
_AROUND_AN_APPROVAL = [
    *(f"{step}:{when}:1" for step in ("post", "archive.park_request", "hand_over") for when in ("before", "after")),
    *(f"append:after:{number}" for number in range(4, 9)),
]


async def test_a_kill_anywhere_around_an_approval_runs_the_call_once_at_most(tmp_path: Path) -> None:
    async def killed_at(point: str) -> None:
        effects = tmp_path / point
        async with running_shop("embedded", effects, crash=point, limits={"park_after_s": 0.05}) as shop:
            shop.calls(("refund", {"amount": 9}))
            async with shop.client() as first:
                try:
                    await _ask(first)
                    call_id = (await first.event("tool.approval_required"))["call_id"]
                    await shop.until_parked()
                    await say(first, "tool.approve", call_id, arguments={"amount": 4})
                    await _until_lost(first)
                except (websockets.ConnectionClosed, OSError):
                    pass
            assert await shop.node.gone() == -9
            await shop.go_on()
            async with shop.client(before=first if "c1" in first.folds else None) as client:
                await _ask(client)
                await client.until(lambda: "c1" in client.folds)
                await _agree(client)
                await _completed(shop, client)
                unknown = [m for m in client.folds["c1"].branch()[-1].parts if getattr(m, "state", "") == "failed"]
            assert shop.effects() in ([["refund 4"], []] if unknown else [["refund 4"]])
            if unknown:
                assert "effect is unknown" in shop.told()[0]
            else:
                assert shop.told() == ['{"refunded":4}']

    await at_each(_AROUND_AN_APPROVAL, killed_at)


async def _agree(client: Client) -> None:
    """Agree to whatever is asked until the turn has ended."""
    fold = client.folds["c1"]
    while (active := fold.active.get("r1")) is not None:
        for part in active.partial.to_parts():
            if getattr(part, "state", "") == "waiting_approval":
                await _insist(client, "tool.approve", part.call_id, arguments={"amount": 4})
        if "r1" in fold.active:
            await client.read_frame(WAIT_S)


# --- at a client -----------------------------------------------------------------------------------------


async def _claimed(shop: Shop, client: Client, **fields: Any) -> str:
    shop.calls(("lookup", {"what": "price"}))
    await _ask(client, tools=[{**LOOKUP, **fields}])
    call_id = str((await client.event("tool.called"))["call_id"])
    await say(client, "tool.claim", call_id)
    return call_id


@EVERYWHERE
async def test_a_client_goes_on_with_what_it_has_claimed(kind: Kind, tmp_path: Path) -> None:
    async with running_shop(kind, tmp_path / "effects") as shop:
        async with shop.client() as first:
            call_id = await _claimed(shop, first)
            await first.event("tool.running")
            await shop.die()
        async with shop.client(before=first) as client, shop.client(instance="tab-2") as stranger:
            assert await _insist(stranger, "tool.claim", call_id) == "already_settled"
            assert await _insist(stranger, "tool.result", call_id, output=1) == "invalid_state"
            assert await _insist(client, "tool.result", call_id, output={"price": 3}) == "ack"
            await _completed(shop, client)
            assert client.events("tool.running") == []
        assert shop.told() == ['{"price":3}']
        assert len(shop.provider.requests) == 2


_AROUND_A_CLAIM = [
    *(f"post:{when}:{number}" for number in (1, 2) for when in ("before", "after")),
    *(f"append:after:{number}" for number in range(3, 7)),
]


async def test_a_claim_that_was_acknowledged_holds_wherever_the_node_dies(tmp_path: Path) -> None:
    """Of a call that a client may have begun the model is not asked again."""

    async def killed_at(point: str) -> None:
        async with running_shop("embedded", tmp_path / point, crash=point) as shop:
            async with shop.client() as first:
                claimed = None
                try:
                    claimed = await _claimed(shop, first)
                    await first.event("tool.running")
                    await say(first, "tool.result", claimed, output="it")
                    await _until_lost(first)
                except websockets.ConnectionClosed:
                    pass
            assert await shop.node.gone() == -9
            await shop.go_on()
            async with shop.client(before=first) as client:
                if "r1" in client.folds["c1"].active:
                    await client.until(lambda: calls_of(first) or calls_of(client))
                    call_id = claimed or [*calls_of(client), *calls_of(first)][0]
                    assert await _insist(client, "tool.claim", call_id) in ("ack", "already_settled")
                    assert await _insist(client, "tool.result", call_id, output="it") in ("ack", "already_settled")
                await client.until(lambda: "r1" not in client.folds["c1"].active)
                call_ids = {part.call_id for part in client.folds["c1"].branch()[-1].parts if part.kind == "tool_call"}
            assert len(call_ids) == 1
            assert claimed is None or call_ids == {claimed}
            assert shop.told() == ["it"]

    await at_each(_AROUND_A_CLAIM, killed_at)


async def test_a_client_that_does_not_come_back_leaves_an_unknown_effect(tmp_path: Path) -> None:
    async with running_shop("embedded", tmp_path / "effects", limits={"claim_lapse_s": 0.2}) as shop:
        async with shop.client() as first:
            await _claimed(shop, first)
            await first.event("tool.running")
            await shop.die()
        async with shop.client(before=first, instance="tab-2") as client:
            await _completed(shop, client)
            assert (await client.event("tool.failed"))["outcome"] == "unknown"
        assert "effect is unknown" in shop.told()[0]


async def test_what_has_no_side_effects_goes_to_another_client_after_the_restart(tmp_path: Path) -> None:
    async with running_shop("embedded", tmp_path / "effects", limits={"claim_lapse_s": 0.2}) as shop:
        async with shop.client() as first:
            call_id = await _claimed(shop, first, side_effect=False)
            await first.event("tool.running")
            await shop.die()
        async with shop.client(before=first, instance="tab-2") as client:
            async with asyncio.timeout(WAIT_S):
                while await _insist(client, "tool.claim", call_id) != "ack":
                    await asyncio.sleep(0.05)
            assert await _insist(client, "tool.result", call_id, output="found") == "ack"
            await _completed(shop, client)
        assert shop.told() == ["found"]


@pytest.mark.parametrize("is_killed", [True, False])
async def test_a_call_that_no_client_takes_up_ends_in_its_time_although_it_was_parked(
    is_killed: bool, tmp_path: Path
) -> None:
    limits = {"park_after_s": 0.05, "client_tool_timeout_s": 1}
    async with running_shop("embedded", tmp_path / "effects", limits=limits) as shop:
        async with shop.client() as first:
            shop.calls(("lookup", {"what": "price"}))
            await _ask(first, tools=[LOOKUP])
            await first.event("tool.called")
            await shop.until_parked()
            if is_killed:
                await shop.die()
        async with shop.client(before=first) as client:
            await _completed(shop, client)
            assert (await client.event("tool.failed"))["outcome"] == "timed_out"


# --- on the other node -----------------------------------------------------------------------------------


# It waited until all that the dead node had said was forgotten, and only then began to wait for the client.
async def test_a_claim_of_a_client_whose_node_died_lapses_before_its_presence_does(tmp_path: Path) -> None:
    tool = [{**LOOKUP, "side_effect": False}]
    async with running_shop("cluster", tmp_path / "effects", limits={"claim_lapse_s": 1}) as shop:
        shop.calls(("lookup", {"what": "price"}))
        assert shop.other is not None
        async with shop.client() as owner, shop.client(node=shop.other, instance="tab-2") as claimer:
            await owner.create("r1", "c1", "please", tools=tool)
            call_id = (await owner.event("tool.called"))["call_id"]
            await claimer.open("c1")
            await say(claimer, "tool.claim", call_id)
            await owner.event("tool.running")
            killed_at = time.monotonic()
            await shop.other.kill()
            while True:
                try:
                    await say(owner, "tool.claim", call_id)
                    break
                except CallError as error:
                    assert error.code == "already_settled"
                    await asyncio.sleep(0.2)
            # It announced its followers a moment before it was killed, and those stand for so long.
            assert time.monotonic() - killed_at < KEPT_S - 4
            await say(owner, "tool.result", call_id, output=1)
            assert (await owner.terminal("r1"))["type"] == "message.completed"


async def test_what_is_said_on_another_node_than_the_owner_s_counts_at_once(tmp_path: Path) -> None:
    async with running_shop("cluster", tmp_path / "effects") as shop:
        asked = [("refund", {"amount": 9}), ("lookup", {"what": "price"}), ("count", {})]
        shop.calls(*asked)
        async with shop.client() as owner, shop.client(node=shop.other) as client:
            await owner.open("c1")
            await client.open("c1")
            await _ask(owner, tools=[LOOKUP])
            refund = str((await client.event("tool.approval_required"))["call_id"])
            count = str((await client.event("tool.progress"))["call_id"])
            lookup = next(m["call_id"] for m in client.events("tool.called") if m["where"] == "client")
            await say(client, "tool.claim", lookup)
            await say(client, "tool.approve", refund)
            await say(client, "tool.cancel", count)
            await say(client, "tool.result", lookup, output="7")
            await _completed(shop, client)
        refunded, found, cancelled = shop.told()
        assert (refunded, found) == ('{"refunded":9}', "7")
        assert "cancelled" in cancelled
        assert shop.effects() == ["refund 9"]
