"""The command line: `turnwire serve`, `chat`, `token`, `check`, `usage`.

Each command has a file of its own; here they are only put together. Commands report what a person has to do in plain
words on standard error and say by their exit code how it went: 0 well, 1 failed, 2 asked wrongly or configured wrongly.
"""

from __future__ import annotations

import typer

from turnwire_server import __version__
from turnwire_server.cli import tenant
from turnwire_server.cli.audit import audit
from turnwire_server.cli.chat import chat
from turnwire_server.cli.check import check
from turnwire_server.cli.serve import serve
from turnwire_server.cli.token import token
from turnwire_server.cli.usage import usage

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command()(serve)
app.command()(chat)
app.command()(token)
app.command()(check)
app.command()(audit)
app.add_typer(tenant.app, name="tenant")
app.command()(usage)


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
