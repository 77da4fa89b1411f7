"""Where values come from: the file, the environment over it, the command line over both."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from turnwire_server.settings import Settings, SettingsError, build_settings, load_settings


def fault_lines(tree: dict[str, object], environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        build_settings(tree, environ or {})
    return str(caught.value).splitlines()


def test_without_anything_the_defaults_serve_loopback_with_the_demonstration_model() -> None:
    settings = load_settings(None, {})
    assert (settings.server.host, settings.server.port, settings.auth.mode) == ("127.0.0.1", 8787, "dev")
    assert [(d.name, d.kind) for d in settings.deployments] == [("demo", "demo")]
    assert [(r.name, r.deployments) for r in settings.routes] == [("default", ("demo",))]
    assert settings.tenant("anybody") is not None


def test_a_file_is_read_and_the_environment_wins_over_it(tmp_path: Path) -> None:
    file = tmp_path / "turnwire.toml"
    file.write_text('[server]\nport = 1000\nhost = "localhost"\n[limits]\nheartbeat_s = 7.5\n')
    settings = load_settings(file, {"TURNWIRE_SERVER__PORT": "2000"})
    assert (settings.server.port, settings.server.host, settings.limits.heartbeat_s) == (2000, "localhost", 7.5)


def test_the_command_line_wins_over_the_environment() -> None:
    environ = {"TURNWIRE_SERVER__PORT": "2000", "TURNWIRE_SERVER__DRAIN_S": "4"}
    settings = load_settings(None, environ, {"server": {"port": 3000}})
    assert (settings.server.port, settings.server.drain_s) == (3000, 4)


def test_lists_and_tables_come_from_the_environment_as_json() -> None:
    settings = build_settings(
        {"tenants": {"acme": {"system_prompt": "Hello"}}},
        {
            "TURNWIRE_SERVER__ALLOWED_ORIGINS": '["https://a.example"]',
            "TURNWIRE_DEPLOYMENTS": '[{"name": "x", "kind": "demo"}]',
            "TURNWIRE_TENANTS__ACME__MAX_OUTPUT_TOKENS": "5",
            "TURNWIRE_TENANTS__DEFAULT": '{"features": ["beta"]}',
        },
    )
    assert settings.server.allowed_origins == ("https://a.example",)
    assert settings.deployments[0].name == "x"
    assert settings.tenants["acme"].system_prompt == "Hello"
    assert settings.tenants["acme"].max_output_tokens == 5
    assert settings.tenants["default"].features == ("beta",)


def test_a_text_that_looks_like_json_stays_a_text() -> None:
    settings = build_settings({}, {"TURNWIRE_TENANTS__DEFAULT__SYSTEM_PROMPT": '{"be": "kind"}'})
    assert settings.tenants["default"].system_prompt == '{"be": "kind"}'


def test_a_whole_section_is_set_before_the_keys_that_refine_it() -> None:
    environ = {"TURNWIRE_LIMITS__CONNECTIONS": "9", "TURNWIRE_LIMITS": '{"connections": 8, "takeovers": 1}'}
    limits = build_settings({}, environ).limits
    assert (limits.connections, limits.takeovers) == (9, 1)


def test_empty_variables_and_those_of_container_platforms_are_left_alone() -> None:
    environ = {
        "TURNWIRE_SERVER__PORT": "",
        "TURNWIRE_PORT": "tcp://10.0.0.1:8787",
        "TURNWIRE_PORT_8787_TCP": "tcp://10.0.0.1:8787",
        "TURNWIRE_SERVICE_HOST": "10.0.0.1",
        "TURNWIRE_SERVER_SERVICE_HOST": "10.0.0.1",
        "TURNWIRE_TOKEN": "of a client",
    }
    assert build_settings({}, environ).server.port == 8787


def test_a_wrong_variable_is_named_with_its_key() -> None:
    lines = fault_lines({}, {"TURNWIRE_SERVER__PORT": "high", "TURNWIRE_SEVER__PORT": "1"})
    assert 'server.port: "high": must be a whole number (set by TURNWIRE_SERVER__PORT)' in lines
    assert "sever: unknown key; did you mean server?" in lines


def test_a_list_in_the_environment_must_be_json_and_whole() -> None:
    environ = {"TURNWIRE_SERVER__ALLOWED_HOSTS": "a,b", "TURNWIRE_ROUTES__0__NAME": "x"}
    lines = fault_lines({}, environ)
    assert any(line.startswith("server.allowed_hosts: must be JSON in the environment:") for line in lines)
    assert "TURNWIRE_ROUTES__0__NAME: lists are set as a whole: TURNWIRE_ROUTES='[{…}]'" in lines


def test_broken_toml_is_reported_with_line_and_column(tmp_path: Path) -> None:
    file = tmp_path / "turnwire.toml"
    file.write_text("[server]\nport = = 3\n")
    with pytest.raises(SettingsError, match=r"turnwire\.toml: not valid TOML: .*line 2, column 8"):
        load_settings(file, {})


def test_a_file_that_is_not_utf8_is_reported_with_line_and_column(tmp_path: Path) -> None:
    file = tmp_path / "turnwire.toml"
    file.write_bytes(b'[server]\nhost = "\xff"\n')
    with pytest.raises(SettingsError, match="line 2, column 9"):
        load_settings(file, {})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.toml: cannot be read: No such file"):
        load_settings(tmp_path / "absent.toml", {})


def test_the_tree_is_frozen() -> None:
    settings = build_settings({}, {})
    with pytest.raises(ValidationError):
        settings.server.port = 1


def test_the_caller_s_tree_is_not_changed() -> None:
    tree: dict[str, object] = {"server": {"port": 1}}
    build_settings(tree, {"TURNWIRE_SERVER__PORT": "2"}, {"server": {"host": "::1"}})
    assert tree == {"server": {"port": 1}}


def test_a_random_node_id_differs_between_starts() -> None:
    def node_id() -> str:
        return build_settings({}, {}).server.node_id

    assert node_id() != node_id()


def test_the_home_directory_is_expanded() -> None:
    settings: Settings = build_settings({"server": {"data_dir": "~/turnwire"}}, {})
    assert settings.server.data_dir == Path.home() / "turnwire"
