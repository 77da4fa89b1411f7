"""Whatever fails, keys, tokens and passwords are where they belong and nowhere else: in no log line, no frame, no
figure, no output of a command and no file or document of the archive and the log."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from pathlib import Path
from typing import Any

import aiohttp
import pymongo
import pytest
import websockets
from tests.server.cli.commands import Serving, serving, turnwire
from tests.support.client import CallError, Client, connected
from tests.support.mongo import running_mongo
from tests.support.provider import ControlledProvider, Script, running_provider
from tests.support.redis import running_redis

from turnwire_server.auth import make_token

# Nothing about them looks like a secret: they are hidden because they are known, or never said.
SECRETS = {
    "MAIN_KEY": "aubergine-main-4711",
    "file key": "broccoli-file-4711",
    "program key": "cauliflower-program-4711",
    "new key": "daikon-renewed-4711",
    "JWT_SECRET": "endive-endive-endive-endive-endive-4711",
    "redis password": "fennel-redis-4711",
    "mongo password": "garlic-mongo-4711",
}


class Heard:
    """Everything that came out."""

    def __init__(self) -> None:
        self.by_source: dict[str, str] = {}
        self.tokens: list[str] = []

    def add(self, source: str, text: str | bytes) -> None:
        said = text.decode(errors="replace") if isinstance(text, bytes) else text
        self.by_source[source] = self.by_source.get(source, "") + said

    def token(self, secret: str = SECRETS["JWT_SECRET"], ttl_s: float = 3600) -> str:
        token = make_token(secret, "alice", "acme", (), ttl_s)
        self.tokens.append(token)
        return token

    def check(self) -> None:
        secrets = {**SECRETS, **{f"token {number}": token for number, token in enumerate(self.tokens)}}
        secrets |= {
            f"signature of {name}": token.rpartition(".")[2] for name, token in secrets.items() if "token" in name
        }
        found = [
            (name, source, said[max(0, at - 100) : at + 60])
            for source, said in self.by_source.items()
            for name, secret in secrets.items()
            if (at := said.find(secret)) >= 0 or base64.b64encode(secret.encode()).decode().rstrip("=") in said
        ]
        assert found == []


def configuration(folder: Path, provider: ControlledProvider) -> Path:
    (folder / "key").write_text(SECRETS["file key"])
    (folder / "printed").write_text(SECRETS["program key"])
    deployment = f'[[deployments]]\nmodel = "m"\nbase_url = "{provider.base_url}"\n'
    config = folder / "turnwire.toml"
    config.write_text(
        f'[server]\ndata_dir = "{folder / "data"}"\nlog_level = "debug"\nplayground = false\n'
        '[auth]\nmode = "jwt"\n'
        "[limits]\nerrors_per_minute = 10000\ncommand_timeout_s = 2\n"
        f'{deployment}name = "a"\napi_key_env = "MAIN_KEY"\n'
        f'{deployment}name = "b"\napi_key_file = "{folder / "key"}"\n'
        f'{deployment}name = "c"\napi_key_command = ["cat", "{folder / "printed"}"]\n'
        '[[routes]]\nname = "all"\ndeployments = ["a", "b", "c"]\nmax_attempts = 6\nbackoff_s = 0.01\n'
    )
    return config


def environ() -> dict[str, str]:
    return {"MAIN_KEY": SECRETS["MAIN_KEY"], "TURNWIRE_AUTH__JWT_SECRET": SECRETS["JWT_SECRET"]}


def faults(keys: list[str]) -> list[Script]:
    """A provider that repeats what it was sent, in every way in which it can fail."""
    said = f"what is this: {' '.join(keys)}?"
    return [
        Script.http_error(401, said),
        Script.http_error(403, said),
        Script.http_error(429, said, headers={"retry-after": "0"}),
        Script.http_error(500, said),
        Script.http_error(400, said),
        Script.error_in_stream("one ", error={"message": said, "type": "server_error", "code": None}),
        Script.malformed_after("one "),
        Script.cut_after("one "),
    ]


async def fail_in_every_way(server: Serving, provider: ControlledProvider, heard: Heard, folder: Path) -> None:
    url, http_url = server.url, f"http://127.0.0.1:{server.port}"
    async with connected(url, token=heard.token()) as client:
        for number in range(len(faults([]))):
            # What a provider, or a gateway before several of them, can know.
            keys = [SECRETS[name] for name in ("MAIN_KEY", "file key", "program key", "new key")]
            fault = faults(keys if number > 2 else keys[:3])[number]
            provider.script(fault, fault, fault)
            if number == 1:
                (folder / "key").write_text(SECRETS["new key"])
            await client.create(f"r{number}", f"c{number}", "hello")
            await client.terminal(f"r{number}")
        for wrong in (
            {"type": "auth.refresh", "token": heard.token("another secret, long enough for it")},
            {"type": "auth.refresh", "token": heard.token(ttl_s=-600)},
            {"type": "auth.refresh", "tokn": heard.token()},
            {"type": "conversation.open", "conversation_id": heard.token()},
            {"type": heard.token()},
        ):
            with pytest.raises(CallError):
                await client.call(wrong)
        await client.send_raw(f'{{"type": "hello", "token": "{heard.token()}"')
        with contextlib.suppress(websockets.ConnectionClosed, TimeoutError):
            while True:
                await client.read_frame(0.5)
        note(heard, client)
    for token in (heard.token("another secret, long enough for it"), heard.token(ttl_s=-600), f"{heard.token()}x"):
        async with connected(url, hello=False) as client:
            with pytest.raises(CallError):
                await client.call({"type": "hello", "token": token})
            note(heard, client)
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as http:
            async with http.get(f"{http_url}/v1/requests/r0") as response:
                heard.add("http", await response.text())
    await look(server, heard)


def note(heard: Heard, client: Client) -> None:
    heard.add("frames", json.dumps(client.messages))


async def look(server: Serving, heard: Heard) -> None:
    async with aiohttp.ClientSession() as http:
        for path in ("metrics", "readyz", "healthz", "nothing"):
            async with http.get(f"http://127.0.0.1:{server.port}/{path}") as response:
                heard.add(path, await response.text())


async def ask(folder: Path, heard: Heard, *arguments: str, **variables: str) -> None:
    result = await turnwire(folder, *arguments, **variables)
    heard.add(" ".join(arguments), result.out + result.err)


def read_folder(folder: Path, heard: Heard) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            heard.add(str(file.relative_to(folder)), file.read_bytes())


async def test_embedded_no_secret_comes_out(tmp_path: Path) -> None:
    heard = Heard()
    async with running_provider() as provider:
        config = configuration(tmp_path, provider)
        async with serving(tmp_path, **environ()) as server:
            await fail_in_every_way(server, provider, heard, tmp_path)
            await ask(tmp_path, heard, "check", **environ())
            await ask(tmp_path, heard, "tenant", "add", "acme", "features=a", **environ())
            await ask(tmp_path, heard, "audit", **environ())
            heard.add("said", server.said)
        sent = {request.headers["authorization"].removeprefix("Bearer ") for request in provider.requests}
        assert sent >= {SECRETS[name] for name in ("MAIN_KEY", "file key", "new key", "program key")}, "all were in use"
        read_folder(tmp_path / "data", heard)
        heard.add("log", (tmp_path / "serve.log").read_bytes())
        assert "refused" in heard.by_source["log"] or "401" in heard.by_source["log"]
        config.write_text(config.read_text().replace("log_level", "log_levle"))
        await ask(tmp_path, heard, "serve", **environ(), OPENAI_API_KEY=SECRETS["MAIN_KEY"])
        await ask(tmp_path, heard, "tenant", "list", **environ())
    heard.check()


async def test_clustered_no_password_comes_out_whatever_is_away(tmp_path: Path) -> None:
    heard = Heard()
    async with running_provider() as provider, running_redis() as redis, running_mongo() as mongo:
        await redis.command("CONFIG", "SET", "requirepass", SECRETS["redis password"])
        with pymongo.MongoClient[dict[str, Any]](mongo.url) as admin:
            admin.turnwire.command("createUser", "turnwire", pwd=SECRETS["mongo password"], roles=["readWrite"])
        configuration(tmp_path, provider)
        variables = {
            **environ(),
            "TURNWIRE_STORAGE__REDIS_URL": f"redis://:{SECRETS['redis password']}@127.0.0.1:{redis.port}/0",
            "TURNWIRE_STORAGE__MONGO_URL": f"mongodb://turnwire:{SECRETS['mongo password']}@127.0.0.1:{mongo.port}/"
            "?authSource=turnwire",
            "TURNWIRE_STORAGE__MONGO_TIMEOUT_S": "1",
            "TURNWIRE_STORAGE__REDIS_TIMEOUT_S": "1",
            "TURNWIRE_STORAGE__PARTITIONS": "4",
        }
        async with serving(tmp_path, **variables) as server:
            await fail_in_every_way(server, provider, heard, tmp_path)
            await ask(tmp_path, heard, "check", **variables)
            with pymongo.MongoClient[dict[str, Any]](mongo.url) as admin:
                for name in admin.turnwire.list_collection_names():
                    heard.add(f"collection {name}", repr(list(admin.turnwire[name].find())))
            assert "requests" in "".join(heard.by_source)
            async with connected(server.url, token=heard.token()) as client:
                provider.script(Script.stalled_after("half "))
                await client.create("r-cut", "c-cut", "hello")
                await client.event("output_text.delta", "r-cut")
                await mongo.kill()
                with pytest.raises(CallError):
                    await client.create("r-late", "c-late", "hello")
                await look(server, heard)
                await ask(tmp_path, heard, "tenant", "list", **variables)
                await redis.kill()
                for command in ("request.status", "request.cancel"):
                    with pytest.raises(CallError):
                        await client.call({"type": command, "request_id": "r-cut"})
                await look(server, heard)
                await ask(tmp_path, heard, "check", **variables)
                note(heard, client)
        read_folder(redis.directory, heard)
        read_folder(tmp_path / "data", heard)
        heard.add("log", (tmp_path / "serve.log").read_bytes())
        assert "ConnectionError" in heard.by_source["log"] or "does not answer" in heard.by_source["log"]
        broken = []
        for name, scheme in (("REDIS", "redis"), ("MONGO", "mongodb")):
            url = variables[f"TURNWIRE_STORAGE__{name}_URL"]
            for wrong in (url.replace("4711@", "4711:x@"), url.replace(":", " ", 1), url.replace(scheme, "http", 1)):
                broken.append({**variables, f"TURNWIRE_STORAGE__{name}_URL": wrong})
        await asyncio.gather(*(ask(tmp_path, heard, "serve", **each) for each in broken))
    heard.check()


async def test_a_wrong_password_is_not_repeated(tmp_path: Path) -> None:
    heard = Heard()
    async with running_provider() as provider, running_redis() as redis, running_mongo() as mongo:
        await redis.command("CONFIG", "SET", "requirepass", "another")
        configuration(tmp_path, provider)
        began = time.monotonic()
        variables = {
            **environ(),
            "TURNWIRE_STORAGE__REDIS_URL": f"redis://:{SECRETS['redis password']}@127.0.0.1:{redis.port}/0",
            "TURNWIRE_STORAGE__MONGO_URL": f"mongodb://who:{SECRETS['mongo password']}@127.0.0.1:{mongo.port}/",
            "TURNWIRE_STORAGE__MONGO_TIMEOUT_S": "1",
            "TURNWIRE_STORAGE__REDIS_TIMEOUT_S": "1",
        }
        commands = (["serve"], ["check"], ["tenant", "list"])
        await asyncio.gather(*(ask(tmp_path, heard, *arguments, **variables) for arguments in commands))
        assert time.monotonic() - began < 60
        assert "MongoDB" in heard.by_source["tenant list"]
    heard.check()
