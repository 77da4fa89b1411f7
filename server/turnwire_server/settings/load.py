"""Reads the configuration: file, then environment, then the command line, the later winning.

The only place that reads the file, and it reads the environment from what it is given, once. Tables of
different sources are merged key by key; lists are replaced as a whole. Every table is judged by itself and
then with the others, so that one `SettingsError` shows all faults.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import ValidationError

from turnwire_server.settings import checks
from turnwire_server.settings.faults import ABSENT, Fault, SettingsError, faults_from, unknown_key
from turnwire_server.settings.section import ID_PATTERN, Section
from turnwire_server.settings.tree import DEFAULT_TENANT, Settings

PREFIX = "TURNWIRE_"
DEFAULT_MODEL = "gpt-4o-mini"
DEMO_DEPLOYMENT = "demo"

Tree = dict[str, Any]
LISTS = ("deployments", "routes", "guards", "mcp_servers")
_SECTIONS = Settings.model_fields


def load_settings(
    config: Path | None, environ: Mapping[str, str], overrides: Mapping[str, Any] | None = None
) -> Settings:
    """Reads `config` (None: no file) and `environ`. `overrides` is a tree as the file has it and wins over
    both, for the options of the command line. Raises SettingsError with every fault found."""
    return build_settings(_read_file(config) if config is not None else {}, environ, overrides)


def build_settings(
    tree: Mapping[str, Any], environ: Mapping[str, str], overrides: Mapping[str, Any] | None = None
) -> Settings:
    """As `load_settings`, from a tree as the file would give it. `build_settings({}, {})` is the default."""
    faults: list[Fault] = []
    from_environ, sources = _read_environ(environ, faults)
    merged = _merge(_merge(dict(tree), from_environ), overrides or {})
    _fill_in_models(merged, environ)
    tables = _validate(merged, faults)
    faults += _cross_check(merged, tables, environ)
    if faults:
        raise SettingsError(faults, sources)
    for section in LISTS:
        tables[section] = tuple(tables[section].values())
    return Settings(**tables)


def _read_file(path: Path) -> Tree:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:  # its text ends with "(at line L, column C)"
        raise SettingsError([Fault(str(path), ABSENT, f"not valid TOML: {error}")]) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        column = error.start - error.object.rfind(b"\n", 0, error.start)
        expected = f"not valid UTF-8 (at line {line}, column {column})"
        raise SettingsError([Fault(str(path), ABSENT, expected)]) from None
    except OSError as error:
        raise SettingsError([Fault(str(path), ABSENT, f"cannot be read: {error.strerror}")]) from None


def _read_environ(environ: Mapping[str, str], faults: list[Fault]) -> tuple[Tree, dict[str, str]]:
    """The tree that the environment sets, and the variable each key came from.

    A name counts when it has a double underscore or is a whole section; others that begin with the prefix
    belong to somebody else (container platforms set TURNWIRE_PORT for a service called turnwire). An empty
    value means not set, as compose files write it.
    """
    tree: Tree = {}
    sources: dict[str, str] = {}
    # Shorter names first: a section as a whole, then the keys that refine it.
    for variable in sorted(environ, key=lambda name: (name.count("__"), name)):
        path = variable.removeprefix(PREFIX).lower().split("__")
        if not variable.startswith(PREFIX) or not environ[variable]:
            continue
        if len(path) == 1 and path[0] not in _SECTIONS:
            continue
        key = ".".join(path)
        sources[key] = variable
        if len(path) > 1 and path[0] in LISTS:
            expected = f"lists are set as a whole: {PREFIX}{path[0].upper()}='[{{…}}]'"
            faults.append(Fault(variable, ABSENT, expected))
            continue
        try:
            value = _parse(environ[variable], _annotation(path))
        except ValueError as error:
            faults.append(Fault(key, ABSENT, f"must be JSON in the environment: {error}"))
            continue
        for part in reversed(path):
            value = {part: value}
        tree = _merge(tree, value)
    return tree, sources


def _annotation(path: list[str]) -> Any:
    """The type of the key, None when there is no such key."""
    here: Any = Settings
    for part in path:
        if isinstance(here, type) and issubclass(here, Section):
            field = here.model_fields.get(part)
            here = field.annotation if field else None
        elif get_origin(here) is dict:
            here = get_args(here)[1]
        else:
            return None
    return here


def _parse(text: str, annotation: Any) -> Any:
    """Lists and tables are written as JSON; everything else is a text that the model converts."""
    alternatives = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    for alternative in alternatives:
        if get_origin(alternative) in (tuple, dict) or (
            isinstance(alternative, type) and issubclass(alternative, Section)
        ):
            return json.loads(text)
    return text


def _merge(base: Tree, over: Mapping[str, Any]) -> Tree:
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping):
            below = merged.get(key)
            merged[key] = _merge(below if isinstance(below, dict) else {}, value)
        else:
            merged[key] = value
    return merged


def _fill_in_models(tree: Tree, environ: Mapping[str, str]) -> None:
    """With no deployment configured: OpenAI's usual variables, else the demonstration model."""
    if tree.get("deployments") in (None, []):
        tree["deployments"] = [_implicit_deployment(environ)]
    if tree.get("routes") in (None, []):
        retrieval = tree.get("retrieval")
        of_vectors = retrieval.get("embeddings") if isinstance(retrieval, Mapping) else None
        names = [name for name in _names(tree["deployments"]) if name != of_vectors]
        tree["routes"] = [{"name": "default", "deployments": list(dict.fromkeys(names))}]
    if tree.get("tenants") in (None, {}):
        tree["tenants"] = {DEFAULT_TENANT: {}}


def _implicit_deployment(environ: Mapping[str, str]) -> Tree:
    key, base_url = (environ.get(name, "").strip() for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"))
    if not key and not base_url:
        return {"name": DEMO_DEPLOYMENT, "kind": "demo"}
    return {
        "name": "openai",
        "model": environ.get("OPENAI_MODEL", "").strip() or DEFAULT_MODEL,
        "base_url": base_url or None,
        "api_key_env": "OPENAI_API_KEY" if key else None,
    }


def _names(tables: Any) -> list[str]:
    """The names given in a list of tables that may still be wrong in every other way."""
    if not isinstance(tables, list | tuple):
        return []
    names = (table.get("name") for table in tables if isinstance(table, Mapping))
    return [name for name in names if isinstance(name, str)]


def _validate(tree: Tree, faults: list[Fault]) -> Tree:
    """The valid tables by section; those of a list or of the tenants by their place in it, since one wrong
    table must not hide the faults of its neighbours."""
    faults += [unknown_key(key, _SECTIONS) for key in tree if key not in _SECTIONS]
    tables: Tree = {}
    for section, field in _SECTIONS.items():
        annotation: Any = field.annotation
        value = tree.get(section, [] if section in LISTS else {})
        if get_origin(annotation) is None:
            tables |= _validate_table(section, section, annotation, value, faults)
        elif get_origin(annotation) is dict:
            tables[section] = {}
            for name, table in _entries(section, value, dict, faults).items():
                if not isinstance(name, str) or not re.match(ID_PATTERN, name):
                    faults.append(Fault(f"{section}.{name}", ABSENT, f"a name must match {ID_PATTERN}"))
                key = f"{section}.{name}"
                tables[section] |= _validate_table(key, name, get_args(annotation)[1], table, faults)
        else:
            tables[section] = {}
            for index, table in _entries(section, value, list, faults).items():
                key = f"{section}.{index}"
                tables[section] |= _validate_table(key, index, get_args(annotation)[0], table, faults)
    return tables


def _entries(section: str, value: Any, expected: type, faults: list[Fault]) -> dict[Any, Any]:
    if expected is dict and isinstance(value, dict):
        return value
    if expected is list and isinstance(value, list | tuple):
        return dict(enumerate(value))
    shown = ABSENT if isinstance(value, str) else value  # see faults: a text may be a secret out of place
    faults.append(Fault(section, shown, f"must be a {'table of tables' if expected is dict else 'list'}"))
    return {}


def _validate_table(key: str, place: Any, table: type[Section], value: Any, faults: list[Fault]) -> dict[Any, Section]:
    try:
        return {place: table.model_validate(value)}
    except ValidationError as error:
        faults += faults_from(error, key, table.model_fields)
        return {}


def _cross_check(tree: Tree, tables: Tree, environ: Mapping[str, str]) -> list[Fault]:
    """Names are taken from the unjudged tree: a deployment with a wrong price is still a known one."""
    faults = [
        *checks.check_names("deployments", _names(tree["deployments"])),
        *checks.check_names("routes", _names(tree["routes"])),
        *checks.check_names("guards", _names(tree.get("guards"))),
        *checks.check_names("mcp_servers", _names(tree.get("mcp_servers"))),
    ]
    if "server" in tables:
        faults += checks.check_server(tables["server"], tables.get("auth"))
    if "storage" in tables:
        faults += checks.check_storage(tables["storage"])
    if "auth" in tables:
        faults += checks.check_auth(tables["auth"])
    if "limits" in tables:
        faults += checks.check_limits(tables["limits"])
    for section in ("alerts", "jobs"):
        if section in tables:
            faults += checks.check_webhook(section, tables[section], environ)
    if "telemetry" in tables:
        faults += checks.check_telemetry(tables["telemetry"], environ)
    faults += checks.check_deployments(tables["deployments"], environ)
    if "retrieval" in tables:
        known = set(_names(tree["deployments"]))
        faults += checks.check_retrieval(tables["retrieval"], tables["deployments"], known, tables["routes"])
    guards = set(_names(tree.get("guards")))
    faults += checks.check_routes(tables["routes"], set(_names(tree["deployments"])), guards)
    if "context" in tables:
        faults += checks.check_context(tables["context"], set(_names(tree["routes"])))
    faults += checks.check_tenants(
        tables["tenants"],
        set(_names(tree["routes"])),
        tables["routes"].values(),
        tables["deployments"].values(),
    )
    faults += checks.check_mcp_servers(tables["mcp_servers"], environ)
    return faults
