"""Where keys come from, how they are renewed, and that nobody is shown one."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.server.gateway.asking import ask, deployment, failure_of
from tests.support.provider import Script, running_provider

from turnwire_server.gateway import credentials
from turnwire_server.gateway.credentials import Credential
from turnwire_server.gateway.errors import ProviderError
from turnwire_server.gateway.errors import ProviderErrorKind as Kind
from turnwire_server.gateway.providers import provider_for
from turnwire_server.telemetry.redact import redactor


def credential(**fields: Any) -> Credential:
    return Credential.of(deployment("http://127.0.0.1:9/v1", **fields), {"MY_KEY": " key-env-1\n", "EMPTY": ""})


def put(path: Path, text: str, at: int) -> None:
    path.write_text(text)
    os.utime(path, (at, at))


def printing(path: Path) -> list[str]:
    return [sys.executable, "-c", f"print(open({str(path)!r}).read())"]


async def test_a_key_comes_from_the_environment() -> None:
    assert await credential(api_key_env="MY_KEY").get() == "key-env-1"
    assert await credential(api_key_env="EMPTY").get() is None
    assert await credential().get() is None
    assert not await credential(api_key_env="MY_KEY").is_renewed("key-env-1")


async def test_a_file_is_read_again_when_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "LOOK_S", 0.0)
    path = tmp_path / "key"
    put(path, "key-file-1\n", 1)
    one = credential(api_key_file=path)
    assert await one.get() == "key-file-1"
    put(path, "key-file-2\n", 2)
    assert await one.get() == "key-file-2"
    path.unlink()
    assert await one.get() == "key-file-2", "the one there is may still be good"


async def test_a_command_is_run_again_when_it_is_due_or_the_key_was_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("key-command-1")
    one = credential(api_key_command=printing(path))
    assert await one.get() == "key-command-1"
    path.write_text("key-command-2")
    assert await one.get() == "key-command-1"
    assert await one.is_renewed("key-command-1")
    assert await one.get() == "key-command-2"
    assert not await one.is_renewed("key-command-2")
    due = credential(api_key_command=printing(path), api_key_refresh_s=1e-9)
    assert await due.get() == "key-command-2"
    path.write_text("key-command-3")
    assert await due.get() == "key-command-3"


async def test_many_who_need_a_key_run_the_command_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = f"import time; open({str(log)!r}, 'a').write('x'); time.sleep(0.2); print('key-once-1')"
    one = credential(api_key_command=[sys.executable, "-c", script])
    assert set(await asyncio.gather(*(one.get() for _ in range(20)))) == {"key-once-1"}
    assert log.read_text() == "x"


@pytest.mark.parametrize(
    "command",
    [
        ["/nowhere/to/be/found"],
        [sys.executable, "-c", "raise SystemExit(3)"],
        [sys.executable, "-c", "print()"],
        [sys.executable, "-c", "print('two\\nlines')"],
        [sys.executable, "-c", "import time; time.sleep(60)"],
    ],
)
async def test_a_command_that_says_no_key_is_an_error_to_act_on(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "COMMAND_S", 1.0)
    with pytest.raises(ProviderError) as failed:
        await credential(api_key_command=command).get()
    assert (failed.value.kind, failed.value.retryable) == (Kind.AUTH, False)
    assert command[0] in failed.value.message


async def test_a_missing_file_is_an_error_to_act_on(tmp_path: Path) -> None:
    with pytest.raises(ProviderError) as failed:
        await credential(api_key_file=tmp_path / "none").get()
    assert str(tmp_path / "none") in failed.value.message


def test_only_one_source_may_be_named() -> None:
    with pytest.raises(ValueError, match="at most one of api_key_env, api_key_file and api_key_command"):
        credential(api_key_env="MY_KEY", api_key_file="/x")


async def test_nobody_is_shown_a_key(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="turnwire_server")
    path = tmp_path / "key"
    path.write_text("plain words of a key")
    one = credential(api_key_file=path)
    await one.get()
    path.write_text("other words of a key")
    assert await one.is_renewed("plain words of a key")
    assert one.hide("plain words of a key, other words of a key") == "***, ***"
    hidden = redactor()("it said: plain words of a key, other words of a key")
    assert "words of a key" not in hidden
    path.unlink()
    await one.is_renewed("other words of a key")
    assert "words of a key" not in repr(one) + caplog.text


async def test_a_key_that_was_changed_is_used_after_the_provider_has_refused_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("first key of all")
    async with running_provider() as server:
        server.script(Script.text("a"), Script.http_error(401, "bad key: first key of all"), Script.text("b"))
        made = provider_for(deployment(server.base_url, api_key_command=printing(path)), {})
        try:
            assert (await ask(made)).text == "a"
            path.write_text("second key of all")
            error = await failure_of(made)
            assert (error.kind, error.retryable) == (Kind.AUTH, True)
            assert "first key of all" not in error.message
            assert (await ask(made)).text == "b"
        finally:
            await made.aclose()
        sent = [request.headers["authorization"] for request in server.requests]
        assert sent == ["Bearer first key of all", "Bearer first key of all", "Bearer second key of all"]
