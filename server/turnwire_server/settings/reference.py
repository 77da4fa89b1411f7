"""Writes the tables of `docs/configuration.md` from the models, so that the two cannot disagree.

`python -m turnwire_server.settings.reference docs/configuration.md` renews them in place: each stands
between `<!-- begin NAME -->` and `<!-- end NAME -->`, everything else of the page is prose and stays. A test
compares the page with what this would write.
"""

from __future__ import annotations

import re
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import annotated_types
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from turnwire_server.settings.context import ContextSettings
from turnwire_server.settings.limits import Limits
from turnwire_server.settings.models import Deployment, GuardSettings, Route, Tenant, Weight
from turnwire_server.settings.retrieval import RetrievalSettings
from turnwire_server.settings.section import ID_PATTERN, MOST_BYTES, MOST_COUNT, MOST_S, Section
from turnwire_server.settings.tables import (
    AlertSettings,
    AuthSettings,
    JobSettings,
    ServerSettings,
    StorageSettings,
    TelemetrySettings,
)
from turnwire_server.settings.tools import McpServerSettings, ToolsSettings

TABLES: dict[str, type[Section]] = {
    "server": ServerSettings,
    "storage": StorageSettings,
    "auth": AuthSettings,
    "limits": Limits,
    "context": ContextSettings,
    "retrieval": RetrievalSettings,
    "alerts": AlertSettings,
    "jobs": JobSettings,
    "telemetry": TelemetrySettings,
    "deployments": Deployment,
    "routes": Route,
    "guards": GuardSettings,
    "tenants": Tenant,
    "tools": ToolsSettings,
    "mcp_servers": McpServerSettings,
}

_TYPES: dict[Any, str] = {
    int: "whole number",
    float: "number",
    Decimal: "amount",
    bool: "`true`, `false`",
    str: "text",
    SecretStr: "text, secret",
    Path: "path",
}


def renew(page: str) -> str:
    """The page with its tables written anew. Raises ValueError when a table has no place in it."""
    for name, table in TABLES.items():
        place = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        before, *found, after = place.split(page) if len(place.findall(page)) == 1 else (page, "")
        if not found:
            raise ValueError(f"the page needs exactly one place for {name}")
        page = f"{before}{found[0]}\n{render(table)}\n{found[1]}{after}"
    return page


def render(table: type[Section]) -> str:
    """A Markdown table with one row for each key."""
    rows = ["| key | default | allowed | meaning |", "|---|---|---|---|"]
    for key, field in table.model_fields.items():
        meaning = " ".join((field.description or "").split()).replace("|", "\\|")
        rows.append(f"| `{key}` | {_default(field)} | {_allowed(field)} | {meaning} |")
    return "\n".join(rows) + "\n"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default_factory is dict:
        return "`{}`"
    if field.default_factory is not None:
        return "random"
    value = field.default
    if value is None:
        return "absent"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int | float):
        return f"`{value}`"
    return "`[]`" if value == () else f'`"{value}"`'


def _allowed(field: FieldInfo) -> str:
    kinds, bounds = _walk(field.annotation, list(field.metadata))
    return ", ".join(dict.fromkeys([*kinds, *bounds]))


def _walk(annotation: Any, metadata: list[Any]) -> tuple[list[str], list[str]]:
    """What an annotation admits: kinds of values and bounds, `None` and nesting left out."""
    if get_origin(annotation) is Literal:
        return [f"`{value}`" for value in get_args(annotation)], []
    if get_origin(annotation) is tuple:
        return ["list"], _bounds(metadata)
    if get_origin(annotation) is dict:
        inside = get_args(annotation)[1]
        if inside is Any:
            return ["table"], []
        return ["table of whole numbers" if inside in (int, Weight) else "table of texts, secret"], []
    if annotation in _TYPES:
        return [_TYPES[annotation]], _bounds(metadata)
    kinds: list[str] = []
    bounds: list[str] = []
    inner = [entry for entry in get_args(annotation) if entry is not type(None)]
    nested = list(getattr(annotation, "__metadata__", ()))
    for entry in inner if not nested else inner[:1]:
        more_kinds, more_bounds = _walk(entry, [*metadata, *nested])
        kinds += more_kinds
        bounds += more_bounds
    return kinds, bounds


def _bounds(metadata: list[Any]) -> list[str]:
    found = []
    for entry in metadata:
        constraints = entry.metadata if isinstance(entry, FieldInfo) else [entry]
        for constraint in constraints:
            match constraint:
                case annotated_types.Gt(bound):
                    found.append(f"> {bound}")
                case annotated_types.Ge(bound):
                    found.append(f"≥ {bound}")
                case annotated_types.Le(bound) if bound not in (MOST_S, MOST_COUNT, MOST_BYTES):
                    found.append(f"≤ {bound}")
                case annotated_types.MaxLen(bound):
                    found.append(f"at most {bound} long")
                case _ if getattr(constraint, "pattern", None) == ID_PATTERN:
                    found.append("1 to 64 of `A-Z a-z 0-9 _ - . :`")
    return found


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        path = Path(argument)
        path.write_text(renew(path.read_text(encoding="utf-8")), encoding="utf-8")
