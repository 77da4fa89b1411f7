"""The storage fails under a running turn (a full disk): nothing untrue is shown, and it goes on when there is room."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest
from tests.support.client import CallError, connected
from tests.support.provider import Gate, Script
from tests.support.stack import running_stack


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of this size; needs the right to mount, which containers' tests have as root."""
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(disk)], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


async def test_a_full_disk_holds_the_turn_and_says_so_and_lets_it_go_on(tmp_path: Path) -> None:
    with small_disk(tmp_path, 8) as disk:
        gate = Gate()
        async with running_stack(disk) as (provider, app), connected(app.url) as client:
            provider.script(Script.text("before ", gate, "after"))
            await client.create("r1", "c1", "hello")
            await client.event("output_text.delta")
            filler = disk / "filler"
            _fill(filler)
            gate.open()
            notice = await client.event("notice")
            assert notice["kind"] == "log_unavailable"
            with pytest.raises(CallError) as refused:
                await client.create("r2", "c2", "no room")
            assert refused.value.code == "unavailable"
            async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{app.port}/readyz") as response:
                assert response.status == 503
            assert client.text("r1") == "before "
            filler.unlink()
            ending = await client.terminal("r1")
            assert ending["type"] == "message.completed"
            assert ending["message"]["parts"] == [{"kind": "text", "text": "before after"}]
            await client.create("r2", "c2", "room again")
            assert (await client.terminal("r2"))["type"] == "message.completed"


def _fill(filler: Path) -> None:
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 65536)
        except OSError:
            pass
        try:
            while True:
                file.write(b"x" * 512)
        except OSError:
            pass
