"""`[tools]` and `[[mcp_servers]]`: where tools of the server come from.

The tables say what to load and what to connect to; `turnwire_server.tools` does it. Secrets of MCP servers need not be
in the file: `${NAME}` in `env`, `headers` and `url` stands for an environment variable, see `filled_in`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, model_validator

from turnwire_server.settings.section import HttpAddress, Name, Seconds, Section

TOOL_NAME_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"
"""What every provider accepts as the name of a function."""
_SERVER_NAME_PATTERN = r"^[A-Za-z0-9_-]{1,32}$"
_MODULE_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")

ToolName = Annotated[str, Field(pattern=TOOL_NAME_PATTERN)]
ModuleName = Annotated[str, Field(pattern=_MODULE_PATTERN)]


class ToolsSettings(Section):
    """Tools written in Python."""

    modules: Annotated[tuple[ModuleName, ...], Field(max_length=64)] = ()
    """Python modules with functions marked `@tool`, as `my_company.tools`. They are imported at the start, from the
    current directory too."""


class McpServerSettings(Section):
    """A server that offers tools over the Model Context Protocol: `command` for one that this process starts, `url`
    for one that runs elsewhere."""

    name: Annotated[str, Field(pattern=_SERVER_NAME_PATTERN)]
    """Name of the server; its tools are called `<name>_<tool>`."""
    command: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """Program to start; it speaks on its standard input and output (stdio) and ends with the server."""
    args: tuple[str, ...] = ()
    """Arguments of `command`."""
    env: dict[str, SecretStr] = Field(default_factory=dict)
    """Environment variables for `command`, besides `PATH`, `HOME` and a few of that kind: it inherits no others. In a
    value `${NAME}` stands for a variable of the server's own environment."""
    url: HttpAddress | None = None
    """Address of a server that speaks streamable HTTP, as `https://tools.example.org/mcp`; may hold `${NAME}`."""
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    """Headers sent to `url`, as `{ Authorization = "Bearer ${TOKEN}" }`."""
    tenants: tuple[Name, ...] | None = None
    """Tenants that are offered the server's tools; absent: all."""
    tools: tuple[str, ...] | None = None
    """The server's own names of the tools that are offered; absent: all."""
    side_effect: bool | None = None
    """Whether its tools change the world; absent: what the server says of each (`readOnlyHint`), else they do."""
    approval: Literal["never", "always", "destructive"] = "never"
    """Whether a person must approve calls: of all its tools, or of those that may destroy something as far as the
    server says (`destructiveHint`)."""
    timeout_s: Seconds | None = None
    """Seconds a call may take; absent: `limits.tool_timeout_s`."""

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        if (self.command is None) == (self.url is None):
            raise ValueError("needs exactly one of command and url")
        if self.url is not None and (self.args or self.env):
            raise ValueError("args and env belong to command; this one has a url")
        if self.command is not None and self.headers:
            raise ValueError("headers belong to url; this one has a command")
        return self

    def variables(self) -> Iterator[tuple[str, str]]:
        """Key and name of every environment variable that this table wants filled in."""
        for table in ("env", "headers"):
            for key, value in getattr(self, table).items():
                for name in _VARIABLE.findall(value.get_secret_value()):
                    yield f"{table}.{key}", name
        for name in _VARIABLE.findall(self.url or ""):
            yield "url", name

    def secret_values(self, environ: Mapping[str, str]) -> Iterator[str]:
        """Everything of it that logs must not show. Short words stay readable, see `telemetry.redact`."""
        for table in (self.env, self.headers):
            for value in table.values():
                whole = filled_in(value.get_secret_value(), environ)
                yield whole
                yield whole.rpartition(" ")[2]  # the token of "Bearer <token>"
        for _, name in self.variables():
            yield environ.get(name, "")


def filled_in(text: str, environ: Mapping[str, str]) -> str:
    """The text with its `${NAME}` replaced; variables that are not set give nothing (the start refuses them)."""
    return _VARIABLE.sub(lambda match: environ.get(match[1], ""), text)
