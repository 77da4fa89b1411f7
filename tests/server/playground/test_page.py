"""The page as it is served: its files, how long they are kept, what it may do, what is said when it is not there."""

from __future__ import annotations

import gzip
import http.client
import json
import re
from html import unescape
from pathlib import Path

import anyio
import pytest
from tests.support.server import running_server

from turnwire_server import playground
from turnwire_server.playground import HOW_TO_BUILD

PAGE = '<meta name="turnwire-routes" content="[]"><script src="/assets/main-0123.js"></script>'
SCRIPT = "console.log('a page');"
Answer = tuple[int, dict[str, str], bytes]


@pytest.fixture
def dist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "dist"
    folder.mkdir()
    monkeypatch.setattr(playground, "_dist", lambda: folder)
    return folder


def build(dist: Path) -> None:
    (dist / "main-0123.js").write_text(SCRIPT)
    (dist / "index.html").write_text(PAGE)


async def get(port: int, path: str, **headers: str) -> Answer:
    def ask() -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        found = response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
        connection.close()
        return found

    with anyio.fail_after(10):
        return await anyio.to_thread.run_sync(ask)


async def test_the_page_is_asked_for_each_time_and_its_files_are_kept_for_good(dist: Path) -> None:
    build(dist)
    async with running_server() as app:
        status, headers, body = await get(app.port, "/")
        assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert headers["cache-control"] == "no-cache"
        assert (await get(app.port, "/", If_None_Match=headers["etag"]))[0] == 304
        status, headers, script = await get(app.port, "/assets/main-0123.js")
        assert (status, script.decode()) == (200, SCRIPT)
        assert headers["content-type"] == "text/javascript; charset=utf-8"
        assert "immutable" in headers["cache-control"]
        assert b"/assets/main-0123.js" in body


async def test_files_are_sent_packed_to_those_who_take_that(dist: Path) -> None:
    build(dist)
    async with running_server() as app:
        _, headers, body = await get(app.port, "/assets/main-0123.js", Accept_Encoding="br, gzip")
        assert headers["content-encoding"] == "gzip"
        assert gzip.decompress(body).decode() == SCRIPT


async def test_the_policy_lets_the_page_use_its_own_server_and_nothing_else(dist: Path) -> None:
    build(dist)
    async with running_server() as app:
        for path in ("/", "/assets/main-0123.js"):
            _, headers, _ = await get(app.port, path)
            rules = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
            assert rules.pop("img-src") == "data:"
            assert rules.pop("require-trusted-types-for") == "'script'"
            assert set(rules.values()) == {"'none'", "'self'"}
            assert rules["default-src"] == "'none'"
            assert headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize(
    "path", ["/assets/", "/assets/other.js", "/assets/../__init__.py", "/assets/%2e%2e/__init__.py"]
)
async def test_nothing_but_files_of_the_page_is_served(dist: Path, path: str) -> None:
    build(dist)
    async with running_server() as app:
        assert (await get(app.port, path))[0] == 404


async def told(port: int) -> object:
    _, _, body = await get(port, "/")
    [routes] = re.findall(r'name="turnwire-routes" content="(.*?)"', body.decode())
    return json.loads(unescape(routes))


async def test_in_development_the_page_is_told_which_routes_there_are_the_usual_one_first(dist: Path) -> None:
    build(dist)
    deployments = [
        {"name": "demo", "kind": "demo"},
        {"name": "real", "model": "m", "base_url": "http://127.0.0.1:9/v1"},
    ]
    routes = [{"name": "try", "deployments": ["demo"]}, {"name": "both", "deployments": ["real", "demo"]}]
    tenants = {"default": {"route": "both"}}
    async with running_server(deployments=deployments, routes=routes, tenants=tenants) as app:
        assert await told(app.port) == [{"name": "both", "demo": False}, {"name": "try", "demo": True}]


async def test_where_tokens_are_asked_for_the_page_tells_nothing_to_who_has_none(dist: Path) -> None:
    build(dist)
    async with running_server(jwt=True) as app:
        assert await told(app.port) == []


async def test_a_page_that_was_not_built_says_how_and_is_found_once_it_is(dist: Path) -> None:
    async with running_server() as app:
        status, headers, body = await get(app.port, "/")
        assert (status, body.decode()) == (404, HOW_TO_BUILD)
        assert headers["content-type"] == "text/plain; charset=utf-8"
        assert (await get(app.port, "/healthz"))[0] == 200
        build(dist)
        assert (await get(app.port, "/"))[0] == 200


async def test_a_server_without_the_playground_has_none_of_its_files(dist: Path) -> None:
    build(dist)
    async with running_server(server={"playground": False}) as app:
        assert (await get(app.port, "/"))[0] == 404
        assert (await get(app.port, "/assets/main-0123.js"))[0] == 404
