"""What the commands share: reading the configuration, and ending with words instead of a traceback."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from turnwire_server.settings import Settings, SettingsError, load_settings

DEFAULT_CONFIG = Path("turnwire.toml")

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Configuration file; ./turnwire.toml when there is one.", show_default=False),
]


def fail(message: str, code: int = 1) -> NoReturn:
    """Say what is wrong and end."""
    typer.secho(message, fg="red", err=True)
    raise typer.Exit(code)


def read_settings(
    config: Path | None, overrides: Mapping[str, Any] | None = None, environ: Mapping[str, str] = os.environ
) -> Settings:
    """The settings, or the end of the command with every fault on a line of its own."""
    if config is None and DEFAULT_CONFIG.is_file():
        config = DEFAULT_CONFIG
    try:
        return load_settings(config, environ, overrides)
    except SettingsError as error:
        fail(str(error), 2)
