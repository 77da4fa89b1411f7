"""`[tools]` and `[[mcp_servers]]`: what is refused, what is filled in, and what is never shown."""

from __future__ import annotations

from typing import Any

import pytest

from turnwire_server.settings import SettingsError, build_settings
from turnwire_server.settings.tools import filled_in

PROGRAM = {"name": "git", "command": "git-server"}
FAR = {"name": "far", "url": "https://tools.example.org/mcp"}


def faults(*servers: dict[str, Any], **sections: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        build_settings({"mcp_servers": list(servers), **sections}, {})
    return str(caught.value)


def test_without_any_there_are_none() -> None:
    settings = build_settings({}, {})
    assert settings.mcp_servers == ()
    assert settings.tools.modules == ()
    assert settings.tenants["default"].tools is None


@pytest.mark.parametrize(
    ("servers", "text"),
    [
        ([{"name": "git"}], "needs exactly one of command and url"),
        ([{**PROGRAM, "url": "https://x.example"}], "needs exactly one of command and url"),
        ([{**FAR, "args": ["x"]}], "args and env belong to command"),
        ([{**PROGRAM, "headers": {"A": "b"}}], "headers belong to url"),
        ([{**FAR, "url": "ftp://x"}], "must be an address that begins with http"),
        ([{**PROGRAM, "name": "a.b"}], "mcp_servers.0.name"),
        ([PROGRAM, PROGRAM], 'mcp_servers.1.name: "git": must be given only once'),
        ([PROGRAM, {**FAR, "name": "git_hub"}], "must not begin with the name of another server"),
        ([{**PROGRAM, "timeout": 3}], "did you mean timeout_s?"),
        ([{**PROGRAM, "env": {"A": "${UNSET_IN_TESTS}"}}], "the environment variable UNSET_IN_TESTS is not set"),
    ],
)
def test_what_makes_no_sense_is_refused(servers: list[dict[str, Any]], text: str) -> None:
    assert text in faults(*servers)


@pytest.mark.parametrize("name", ["my company", "a..b", "1a", "a.b\n", ""])
def test_a_module_has_the_name_of_one(name: str) -> None:
    assert "tools.modules.0" in faults(tools={"modules": [name]})


def test_values_of_secret_tables_are_not_shown() -> None:
    text = faults({**PROGRAM, "env": {"TOKEN": ["s3cret"]}}, {**FAR, "headers": {"Authorization": 7357}})
    assert "mcp_servers.0.env.TOKEN: (secret)" in text
    assert "s3cret" not in text
    assert "7357" not in text


def test_secrets_are_known_to_whoever_hides_them() -> None:
    environ = {"TOKEN": "abc-def-ghi", "PASS": "pass-word"}
    settings = build_settings(
        {
            "mcp_servers": [
                {**PROGRAM, "env": {"KEY": "plain-secret"}},
                {**FAR, "url": "https://x.example/${PASS}/mcp", "headers": {"Authorization": "Bearer ${TOKEN}"}},
            ]
        },
        environ,
    )
    assert {"plain-secret", "abc-def-ghi", "pass-word"} <= set(settings.secret_values(environ))
    assert "plain-secret" not in repr(settings)


def test_variables_are_filled_in() -> None:
    assert filled_in("Bearer ${A}-${B}$C", {"A": "1", "B": "2"}) == "Bearer 1-2$C"


def test_the_environment_sets_them_as_a_whole() -> None:
    variables = {"TURNWIRE_MCP_SERVERS": '[{"name": "git", "command": "x"}]', "TURNWIRE_TOOLS__MODULES": '["a.b"]'}
    settings = build_settings({}, variables)
    assert settings.mcp_servers[0].name == "git"
    assert settings.tools.modules == ("a.b",)
