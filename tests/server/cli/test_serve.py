"""`turnwire serve` as a process: what it says, what keeps it from starting, how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest
from tests.server.cli.commands import TURNWIRE, serving, turnwire
from tests.support.client import connected
from tests.support.provider import Gate, Script, running_provider

from turnwire_server.local_model import is_installed

SECRET = "a secret of the tests, long enough for HS256"
WITHOUT_LOCAL_MODEL = (
    sys.executable,
    "-c",
    "import turnwire_server.local_model as m; m.is_installed = lambda: False\n"
    "import turnwire_server.cli as c; c.main()",
)


async def test_the_start_says_where_who_and_what(tmp_path: Path) -> None:
    async with serving(tmp_path, command=TURNWIRE) as server:
        assert f"ws://127.0.0.1:{server.port}/v1" in server.said
        assert f"http://127.0.0.1:{server.port}/" in server.said
        assert str(tmp_path / "data") in server.said
        assert "demonstration model, which is no real one" in server.said
        assert "OPENAI_API_KEY" in server.said
        assert "user 'dev' of tenant 'default'" in server.said


async def test_a_real_provider_is_named_without_its_key(tmp_path: Path) -> None:
    variables = {"OPENAI_API_KEY": "sk-very-secret", "OPENAI_BASE_URL": "http://models.example/v1"}
    async with serving(tmp_path, **variables) as server:
        assert "gpt-4o-mini at models.example (openai)" in server.said
        assert "sk-very-secret" not in server.said
        assert "real one" not in server.said


async def test_an_open_address_is_shown_by_a_name_that_is_answered(tmp_path: Path) -> None:
    jwt = {"TURNWIRE_AUTH__MODE": "jwt", "TURNWIRE_AUTH__JWT_SECRET": SECRET}
    async with serving(tmp_path, "--host", "0.0.0.0", **jwt) as server:
        assert f"ws://localhost:{server.port}/v1" in server.said
        assert "signed tokens (JWT), checked with a shared secret" in server.said
        assert SECRET not in server.said


async def test_a_wrong_configuration_stops_the_start_and_names_every_fault(tmp_path: Path) -> None:
    (tmp_path / "turnwire.toml").write_text('[server]\nport = "eighty"\n[limits]\nheartbeets_s = 3\n')
    result = await turnwire(tmp_path, "serve")
    assert result.code == 2
    assert "server.port" in result.err
    assert "limits.heartbeets_s" in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--workers", "2"), "Redis"),
        (("--host", "0.0.0.0"), "loopback"),
        (("--config", "absent.toml"), "cannot be read"),
    ],
)
async def test_what_cannot_be_is_refused_before_the_start(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    result = await turnwire(tmp_path, "serve", *arguments)
    assert (result.code, result.out) == (2, "")
    assert said in result.err


async def test_a_taken_port_and_taken_data_are_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    async with serving(tmp_path) as server:
        taken = await turnwire(tmp_path / "other", "serve", "--port", server.port)
        assert taken.code == 1
        assert f"cannot listen on 127.0.0.1:{server.port}: Address already in use" in taken.err
        assert "Traceback" not in taken.err
        same = await turnwire(tmp_path, "serve", "--port", "0")
        assert same.code == 1
        assert "in use by another turnwire" in same.err
        assert "Traceback" not in same.err


async def test_damaged_data_is_told_in_one_line(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "dev-secret").write_text("short")
    damaged = await turnwire(tmp_path, "serve", "--port", "0")
    assert (damaged.code, damaged.err.count("\n")) == (1, 1)
    assert "delete it, and a new secret is made" in damaged.err
    (data / "dev-secret").unlink()
    (data / "turnwire.db").write_bytes(os.urandom(4096))
    broken = await turnwire(tmp_path, "serve", "--port", "0")
    assert (broken.code, broken.err.count("\n")) == (1, 1)
    assert "not a database" in broken.err


async def test_a_host_that_no_address_has_is_told_in_one_line(tmp_path: Path) -> None:
    jwt = {"TURNWIRE_AUTH__MODE": "jwt", "TURNWIRE_AUTH__JWT_SECRET": SECRET}
    result = await turnwire(tmp_path, "serve", "--host", "no.such.host.invalid", **jwt)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "no address of this machine" in result.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_first_signal_lets_running_turns_finish(tmp_path: Path, number: signal.Signals) -> None:
    async with (
        running_provider() as provider,
        serving(tmp_path, OPENAI_BASE_URL=provider.base_url) as server,
        connected(server.url) as client,
    ):
        provider.script(Script.text("Hello", gate := Gate(), " there"))
        await client.create("r1", "c1", "hello")
        await client.until(lambda: client.text("r1") == "Hello")
        server.signal(number)
        assert "1 running" in await server.line()
        await client.event("goaway")
        gate.open()
        ending = await client.terminal("r1")
        assert ending["type"] == "message.completed"
        assert await server.gone() == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
async def test_the_second_signal_ends_at_once(tmp_path: Path, number: signal.Signals, code: int) -> None:
    async with (
        running_provider() as provider,
        serving(tmp_path, OPENAI_BASE_URL=provider.base_url) as server,
        connected(server.url) as client,
    ):
        provider.script(Script.text("Hello", Gate(), " there"))
        await client.create("r1", "c1", "hello")
        await client.until(lambda: client.text("r1") == "Hello")
        server.signal(number)
        await client.event("goaway")
        server.signal(number)
        assert await server.gone() == code


async def test_without_the_packages_of_the_local_model_the_demonstration_model_answers(tmp_path: Path) -> None:
    async with serving(tmp_path, "--local-model", command=WITHOUT_LOCAL_MODEL) as server:
        assert "local model is not installed here" in server.said
        assert "demonstration model, which is no real one" in server.said


async def test_the_local_model_never_takes_the_place_of_a_configured_one(tmp_path: Path) -> None:
    (tmp_path / "turnwire.toml").write_text('[[deployments]]\nname = "mine"\nkind = "demo"\n')
    async with serving(tmp_path, "--local-model") as server:
        assert "demonstration model" in server.said
        assert psutil.Process(server.process.pid).children() == []


@pytest.mark.skipif(not is_installed(), reason="the local model is not installed")
async def test_the_local_model_answers_and_outlives_a_ctrl_c_until_the_answer_is_whole(tmp_path: Path) -> None:
    async with serving(tmp_path, "--local-model") as server:
        assert "(local)" in server.said
        (child,) = psutil.Process(server.process.pid).children()
        async with connected(server.url) as client:
            await client.create("r1", "c1", "Say hello.")
            await client.event("output_text.delta", "r1")
            server.interrupt()
            ending = await client.terminal("r1", 60)
            assert ending["type"] == "message.completed"
        assert await server.gone() == 0
        await asyncio.to_thread(child.wait, 10)


@pytest.mark.skipif(not is_installed(), reason="the local model is not installed")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGKILL, -signal.SIGKILL)])
async def test_the_local_model_never_outlives_the_server(tmp_path: Path, number: signal.Signals, code: int) -> None:
    async with serving(tmp_path, "--local-model") as server:
        (child,) = psutil.Process(server.process.pid).children()
        server.signal(number)
        assert await server.gone() == code
        await asyncio.to_thread(child.wait, 10)


async def test_python_m_and_the_command_are_the_same(tmp_path: Path) -> None:
    by_module = await turnwire(tmp_path, "--version", command=TURNWIRE)
    by_name = await turnwire(tmp_path, "--version", command=(str(Path(TURNWIRE[0]).with_name("turnwire")),))
    assert by_module == by_name
    assert by_name.out.startswith("turnwire 0.")
