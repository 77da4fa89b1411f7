"""`turnwire jobs`: what it prints of requests in the background, beside a server that runs."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest
from tests.support.client import connected
from tests.support.provider import Script
from tests.support.stack import running_stack
from typer.testing import CliRunner, Result

from turnwire_server.cli import app as commands


def asked(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(commands, ["jobs", *arguments], env={"TURNWIRE_SERVER__DATA_DIR": str(folder)})


async def test_what_failed_for_good_is_found_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data"
    async with running_stack(folder, limits={"job_retries": 0}) as (provider, app), connected(app.url) as client:
        provider.script(Script.cut_after("Half"), Script.text("Whole"), Script.text("Not a job"))
        await client.create("r1", "c1", "hello", background=True)
        await client.terminal("r1")
        await client.create("r2", "c1", "hello", background=True)
        await client.terminal("r2")
        await client.create("r3", "c1", "hello")
        await client.terminal("r3")
        everything = await anyio.to_thread.run_sync(asked, folder, "--format", "json")
    lines = json.loads(everything.stdout)
    assert [(line["request_id"], line["state"], line["reason"], line["answer"]) for line in lines] == [
        ("r1", "failed", "provider_cut", 4),
        ("r2", "completed", None, 5),
    ]
    failed = await anyio.to_thread.run_sync(asked, folder, "--state", "failed", "--state", "open")
    assert failed.exit_code == 0
    assert "r1" in failed.stdout
    assert "provider_cut" in failed.stdout
    assert "r2" not in failed.stdout
    wrong = await anyio.to_thread.run_sync(asked, folder, "--since", "soon")
    assert wrong.exit_code == 2
