"""The command line. Each command has a file of its own, which is loaded when it is asked for: a server needs most of
the project, and `turnwire token` hardly any of it.

Commands report what a person has to do in plain words on standard error and say by their exit code how it went: 0 well,
1 failed, 2 asked wrongly or configured wrongly.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from turnwire_server import __version__

_COMMANDS = (
    "serve", "chat", "token", "check", "tenant", "prompt", "documents", "audit", "usage", "jobs", "trace", "eval",
)  # fmt: skip
"""Each is a module of this folder, with a function of the same name or, of a group of commands, `app`."""
_OPTIONS: dict[str, Any] = {"add_completion": False, "pretty_exceptions_enable": False}


class _Commands(TyperGroup):
    """Loads a command when it is needed."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(f"turnwire_server.cli.{cmd_name}")
        if hasattr(module, "app"):
            group = typer.main.get_group(module.app)
            group.name = cmd_name
            return group
        single = typer.Typer(**_OPTIONS)
        single.command(cmd_name)(getattr(module, cmd_name))
        return typer.main.get_command(single)


app = typer.Typer(cls=_Commands, no_args_is_help=True, **_OPTIONS)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"turnwire {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """A conversation server between people's front ends and language models."""


def main() -> None:
    """The entry point of the `turnwire` command."""
    app()
