"""The page as it is served: whole, alone, and without a way for text of a model to become markup."""

from __future__ import annotations

import base64
import hashlib
import http.client
import re

import anyio
import pytest
from tests.support.server import running_server

from turnwire_protocol import COMMANDS, LOG_EVENTS
from turnwire_server.playground import SCRIPTS, page

BODY = page().body.decode()
[SCRIPT] = re.findall(r"<script>(.*?)</script>", BODY, re.S)
[STYLE] = re.findall(r"<style>(.*?)</style>", BODY, re.S)


def digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


async def test_the_server_serves_the_page_with_its_policy() -> None:
    async with running_server() as app:

        def get() -> tuple[int, dict[str, str], bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", app.port, timeout=5)
            connection.request("GET", "/")
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            body = response.read()
            connection.close()
            return response.status, headers, body

        with anyio.fail_after(10):
            status, headers, body = await anyio.to_thread.run_sync(get)
    assert (status, body) == (200, page().body)
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert headers["content-security-policy"] == page().policy
    assert headers["x-frame-options"] == "DENY"


def test_the_policy_allows_the_script_and_the_style_of_the_page_and_nothing_else() -> None:
    rules = dict(rule.split(" ", 1) for rule in page().policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == digest(SCRIPT)
    assert rules["style-src"] == digest(STYLE)
    assert rules["connect-src"] == "'self'"


def test_the_page_needs_nothing_from_elsewhere() -> None:
    assert not re.search(r"""(?:src|href)=["'](?!#|data:)""", BODY)
    assert not re.search(r"@import|url\(", STYLE)
    assert not re.search(r"\bstyle=|\bon[a-z]+=", BODY.replace(SCRIPT, "")), "the policy would stop these"


@pytest.mark.parametrize(
    "way", ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("]
)
def test_no_script_makes_markup_or_code_of_text(way: str) -> None:
    assert way not in SCRIPT


def test_all_scripts_are_in_the_page() -> None:
    assert len(SCRIPTS) == len(set(SCRIPTS))
    assert "</script" not in SCRIPT
    assert "/* the s" not in BODY


def test_the_page_folds_every_event_of_a_request_and_no_other() -> None:
    table = SCRIPT.split("const FOLD = {")[1].split("\n};")[0]
    folded = set(re.findall(r'"([a-z_.]+)": \(', table))
    # Those that begin and end a request, and those of the conversation, are not in the table.
    apart = {"message.created", "message.amended", "member.changed", "context.changed"}
    endings = {name for name, kind in LOG_EVENTS.items() if "terminal" in kind.__dataclass_fields__}
    assert folded == set(LOG_EVENTS) - apart - endings


def test_the_page_says_only_commands_that_there_are() -> None:
    said = set(re.findall(r'type: "((?:hello|ping|[a-z]+\.[a-z]+))"', SCRIPT))
    assert {"hello", "ping", "request.create", "request.cancel", "conversation.open"} <= said <= set(COMMANDS)
