"""The server that a suite is played against: the configuration's, embedded, on loopback, with data of its own.

Whatever the configuration says of stores, addresses and access is set aside, and so are the settings of the
environment: an evaluation touches nobody's data, and is the same everywhere. Routes, tenants, tools, guards, limits and
prices stay.
"""

from __future__ import annotations

import os
import tempfile
import time
import tomllib
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from turnwire_server.app import App, running
from turnwire_server.archive.base import Archive
from turnwire_server.archive.prompts import PromptRecord, PromptVersion
from turnwire_server.archive.tenants import AuditEntry
from turnwire_server.settings import Settings, build_settings
from turnwire_server.settings.tree import DEFAULT_TENANT

from .model import ScriptedModel, running_model
from .suite import SuiteError, SuiteFile

_STORES = ("redis_url", "mongo_url")
_KEYS = ("api_key_env", "api_key_file", "api_key_command")


@asynccontextmanager
async def running_server(
    file: SuiteFile, candidate: PromptVersion | None = None
) -> AsyncIterator[tuple[App, ScriptedModel | None]]:
    """The server and, where the suite is scripted, its model; with a ``candidate`` all requests are answered with that
    version of a prompt. Raises `SettingsError`, `SuiteError`."""
    tree = _tree(file)
    if candidate is not None:
        tree["tenants"] = _with_prompt(tree.get("tenants") or {}, candidate.name)
    async with AsyncExitStack() as stack:
        model = None
        if file.suite.model == "scripted":
            model = await stack.enter_async_context(running_model())
            tree["deployments"] = [_scripted(each, model.base_url) for each in tree.get("deployments") or [{}]]
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="turnwire-eval-"))
        app = await stack.enter_async_context(running(_settings(tree, Path(folder))))
        if candidate is not None:
            await _put_candidate(app.front.services.archive, candidate)
        yield app, model


def _with_prompt(tenants: dict[str, Any], name: str) -> dict[str, Any]:
    """The tenants of the configuration, with the prompt in place of what the one that suites are played as has."""
    kept = {key: value for key, value in tenants.get(DEFAULT_TENANT, {}).items() if key != "system_prompt"}
    return {**tenants, DEFAULT_TENANT: {**kept, "prompt": name}}


async def _put_candidate(archive: Archive, candidate: PromptVersion) -> None:
    """As the only version there is, released."""
    now, by = int(time.time() * 1000), "evaluation"
    number = candidate.version
    record = PromptRecord(DEFAULT_TENANT, candidate.name, 1, number, number, None, 0, now, by)
    entry = AuditEntry(uuid.uuid4().hex, now, by, "prompt.release", DEFAULT_TENANT, {"prompt": candidate.name})
    new = replace(candidate, tenant_id=DEFAULT_TENANT)
    _, done = await archive.put_prompt(record, entry=entry, new=new)
    assert done, "nobody else is in the archive of an evaluation"


def _settings(tree: dict[str, Any], folder: Path) -> Settings:
    tree["storage"] = {key: value for key, value in tree.get("storage", {}).items() if key not in _STORES}
    tree["server"] = {**tree.get("server", {}), "host": "127.0.0.1", "port": 0, "data_dir": str(folder), "drain_s": 1}
    tree["auth"] = {"mode": "dev"}
    return build_settings(tree, {name: value for name, value in os.environ.items() if not _is_setting(name)})


def _is_setting(name: str) -> bool:
    key = name.removeprefix("TURNWIRE_").lower()
    return name.startswith("TURNWIRE_") and ("__" in key or key in Settings.model_fields)


def _tree(file: SuiteFile) -> dict[str, Any]:
    configuration = file.suite.configuration
    if isinstance(configuration, dict):
        return dict(configuration)
    path = file.path.parent / configuration
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SuiteError(f"{file.path}: configuration: {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SuiteError(f"{file.path}: configuration: {path} is not valid TOML: {error}") from None


def _scripted(deployment: dict[str, Any], base_url: str) -> dict[str, Any]:
    """The deployment with its limits and prices, answered by the scripted model."""
    kept = {key: value for key, value in deployment.items() if key not in _KEYS}
    return {"name": "scripted", "model": "scripted", **kept, "kind": "openai", "base_url": base_url}
