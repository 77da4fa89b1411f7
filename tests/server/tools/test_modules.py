"""Tools of the configured modules: found, and faults that keep the server from starting."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.server.cli.commands import turnwire

from turnwire_server.settings import Settings, SettingsError, build_settings
from turnwire_server.tools.modules import load_tools

GOOD = '''
from turnwire_server.tools import tool

@tool(side_effect=False)
def look(what: str) -> str:
    """Looks."""
    return what

again = look
'''

Module = Callable[[str], str]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Module:
    """Writes a module that can be imported in this test; gives its name."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(text: str) -> str:
        name = f"tools_{tmp_path.name}_{len(list(tmp_path.glob('*.py')))}".replace("-", "_")
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return write


def settings(*modules: str, **sections: Any) -> Settings:
    return build_settings({"tools": {"modules": list(modules)}, **sections}, {})


def faults(*modules: str, **sections: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        load_tools(settings(*modules, **sections))
    return str(caught.value)


def test_a_module_gives_its_tools_each_once(module: Module) -> None:
    (found,) = load_tools(settings(module(GOOD)))
    assert found.name == "look"
    assert found.run_in_thread is not None


def test_a_tool_that_two_modules_know_is_one(module: Module) -> None:
    first = module(GOOD)
    assert len(load_tools(settings(first, module(f"from {first} import look")))) == 1


def test_a_module_that_is_not_there_is_a_fault() -> None:
    text = faults("no_such.module", "nor.this")
    assert 'tools.modules.0: "no_such.module": cannot be imported: ModuleNotFoundError' in text
    assert "tools.modules.1" in text, "all faults are told at once"


@pytest.mark.parametrize("line", ["import sys; sys.exit(3)", "1 / 0", "def broken(:"])
def test_a_module_that_fails_is_a_fault(module: Module, line: str) -> None:
    assert "cannot be imported" in faults(module(line))


def test_a_wrong_declaration_is_a_fault(module: Module) -> None:
    text = faults(module(GOOD.replace("side_effect=False", 'name="a b"')))
    assert "the name 'a b' is none that providers accept" in text


def test_a_module_without_tools_is_a_fault(module: Module) -> None:
    assert "has no tool" in faults(module("x = 1"))


def test_two_tools_of_one_name_are_a_fault(module: Module) -> None:
    first, second = module(GOOD), module(GOOD)
    assert f"two tools are called look: {first}.look and {second}.look" in faults(first, second)


def test_the_names_of_the_demonstration_are_taken(module: Module) -> None:
    assert "two tools are called demo_clock" in faults(module(GOOD.replace("side_effect=False", 'name="demo_clock"')))


def test_an_allow_list_names_tools_that_there_are(module: Module) -> None:
    name = module(GOOD)
    server = [{"name": "git", "command": "git-server"}]
    load_tools(settings(name, tenants={"acme": {"tools": ["look", "git_log"]}}, mcp_servers=server))
    text = faults(name, tenants={"acme": {"tools": ["book"]}}, mcp_servers=server)
    assert 'tenants.acme.tools: "book": no such tool; there are: look, git_…' in text


async def test_the_command_line_says_so_and_looks_in_the_current_directory(tmp_path: Path) -> None:
    (tmp_path / "turnwire.toml").write_text('[tools]\nmodules = ["mine"]\n')
    missing = await turnwire(tmp_path, "serve", "--port", "0")
    assert missing.code == 1
    assert "tools.modules.0" in missing.err
    assert "Traceback" not in missing.err
    (tmp_path / "mine.py").write_text(GOOD)
    checked = await turnwire(tmp_path, "check")
    assert "tools of mine" in checked.out
    assert "look" in checked.out
