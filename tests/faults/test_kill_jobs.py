"""`kill -9` while a request in the background waits to be tried again; then a restart, or the other node."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.provider import Script
from tests.support.shop import WAIT_S, Kind, running_shop


@pytest.mark.parametrize("kind", ["embedded", "cluster"])
async def test_a_request_that_waits_outlives_its_node(kind: Kind, tmp_path: Path) -> None:
    limits = {"job_backoff_s": 4, "job_backoff_most_s": 4}
    async with running_shop(kind, tmp_path / "effects", limits=limits) as shop:
        shop.provider.script(Script.cut_after("Once"))
        async with shop.client() as first:
            await first.create("r1", "c1", "please", background=True)
            await first.event("request.delayed")
            await shop.until_parked()
            await shop.die()
        async with shop.client(before=first) as client:
            assert (await client.status("r1"))["state"] == "queued"
            ending = await client.terminal("r1", WAIT_S)
            assert ending["type"] == "message.completed"
            assert "Once" not in str(ending["message"]["parts"])
            usage = await client.event("usage.completed", "r1")
            assert [(row["attempt"], row["outcome"]) for row in usage["attempts"]] == [(1, "failed"), (2, "completed")]
            assert (await client.status("r1"))["run"] == 1  # nobody died with it
        assert len(shop.provider.requests) == 2
