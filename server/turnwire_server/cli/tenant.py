"""`turnwire tenant`: the tenants that are set in the archive, while servers run.

A tenant that the configuration file names is the file's alone; here it is shown and not changed. What is set is judged
by the same rules as the file, and each change says which version it replaces, so that two administrators do not
overwrite each other, and goes into the audit log with it.
"""

from __future__ import annotations

import json
import time
import tomllib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from turnwire_server.archive.base import Archive
from turnwire_server.archive.tenants import AuditEntry, TenantRecord
from turnwire_server.cli.archive import Shape, as_json, person, when, with_archive
from turnwire_server.cli.common import ConfigOption, fail, read_settings
from turnwire_server.settings import Settings, SettingsError, Tenant
from turnwire_server.settings.tenants import stored_tenant, tenant_from

app = typer.Typer(no_args_is_help=True, help="Set up tenants while servers run.")

# Long texts are in the tenant; the audit log says how they begin.
_AUDITED_CHARS = 200

NameArgument = Annotated[str, typer.Argument(help="Name of the tenant, as tokens have it.")]
PairsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Keys of [tenants.NAME]; lists with commas or as JSON."),
]
FileOption = Annotated[
    Path | None,
    typer.Option("--from-file", help="A table of keys, as TOML or (.json) JSON; KEY=VALUE wins.", show_default=False),
]
ActorOption = Annotated[
    str | None, typer.Option(help="Who acts, for the audit log; absent: who runs this.", show_default=False)
]
ShapeOption = Annotated[Shape, typer.Option("--format", help="How to print it.")]


@dataclass(frozen=True, slots=True)
class _Change:
    """What is to become of a tenant. ``keys`` with None are taken away."""

    act: str
    tenant_id: str
    actor: str
    keys: Mapping[str, Any]


@app.command()
def add(
    name: NameArgument,
    pairs: PairsArgument = None,
    from_file: FileOption = None,
    actor: ActorOption = None,
    config: ConfigOption = None,
) -> None:
    """Add a tenant."""
    settings = read_settings(config)
    keys = {**_file(from_file), **_pairs(pairs or [])}
    _carry_out(settings, _Change("tenant.add", name, actor or person(), keys))


@app.command(name="set")
def set_(
    name: NameArgument,
    pairs: PairsArgument = None,
    from_file: FileOption = None,
    actor: ActorOption = None,
    config: ConfigOption = None,
) -> None:
    """Change keys of a tenant; KEY= takes one away."""
    settings = read_settings(config)
    keys = {**_file(from_file), **_pairs(pairs or [])}
    if not keys:
        fail("say what to change: KEY=VALUE, KEY= or --from-file", 2)
    _carry_out(settings, _Change("tenant.set", name, actor or person(), keys))


@app.command()
def remove(name: NameArgument, actor: ActorOption = None, config: ConfigOption = None) -> None:
    """Remove a tenant: it is like any that nobody has named. Its data stays."""
    _carry_out(read_settings(config), _Change("tenant.remove", name, actor or person(), {}))


@app.command()
def show(name: NameArgument, shape: ShapeOption = Shape.TABLE, config: ConfigOption = None) -> None:
    """Show how a tenant is set."""
    settings = read_settings(config)
    record = with_archive(settings, lambda archive: archive.tenant(name))
    found = _described(settings, name, record)
    if found is None:
        fail(f"tenant {name} is neither in the configuration file nor in the archive; it is {_unnamed(settings, name)}")
    if shape is Shape.JSON:
        typer.echo(as_json(found))
        return
    table = Table(box=None, show_header=False)
    for key, value in {**{key: found[key] for key in found if key != "settings"}, **found["settings"]}.items():
        table.add_row(key, escape(when(value) if key == "changed_at" else _text(value)))
    Console(highlight=False).print(table)


@app.command(name="list")
def list_(shape: ShapeOption = Shape.TABLE, config: ConfigOption = None) -> None:
    """List the tenants of the configuration file and of the archive."""
    settings = read_settings(config)
    records = {record.tenant_id: record for record in with_archive(settings, lambda archive: archive.tenants())}
    described = (_described(settings, name, records.get(name)) for name in sorted({*settings.tenants, *records}))
    found = [one for one in described if one is not None]
    if shape is Shape.JSON:
        typer.echo(as_json(found))
        return
    table = Table("tenant", "from", "version", "changed", "by", "set", box=None, header_style="dim")
    for one in found:
        said = ", ".join([*one["settings"], *(["NOT USABLE"] if "faults" in one else [])])
        changed = when(one["changed_at"]) if "changed_at" in one else ""
        shown = (one["tenant_id"], one["source"], str(one.get("version", "")), changed, one.get("changed_by", ""), said)
        table.add_row(*map(escape, shown))
    Console(highlight=False).print(table)


# --- changing --------------------------------------------------------------------------------------------


def _carry_out(settings: Settings, change: _Change) -> None:
    if change.tenant_id in settings.tenants:
        fail(
            f"tenant {change.tenant_id} is in the configuration file, [tenants.{change.tenant_id}]: change it there", 2
        )
    typer.echo(with_archive(settings, lambda archive: _changed(archive, settings, change)))


async def _changed(archive: Archive, settings: Settings, change: _Change) -> str:
    """Make the change; what there is to say of it. Ends the command when it cannot be made."""
    name = change.tenant_id
    stands = await archive.tenant(name)
    before = None if stands is None else stands.settings
    if change.act == "tenant.add" and before is not None:
        fail(f"tenant {name} is there already; change it with: turnwire tenant set {name} KEY=VALUE")
    if change.act != "tenant.add" and before is None:
        fail(f"there is no tenant {name} in the archive")
    after = None if change.act == "tenant.remove" else _judged(settings, name, {**(before or {}), **change.keys})
    if after == before:
        return f"tenant {name} is set so already"
    entry = AuditEntry(
        op=uuid.uuid4().hex,
        at=int(time.time() * 1000),
        actor=change.actor,
        act=change.act,
        tenant_id=name,
        details=_difference(before or {}, after or {}),
    )
    replaces = 0 if stands is None else stands.version
    record, done = await archive.put_tenant(name, after, replaces=replaces, entry=entry)
    if not done:
        by = "" if record is None else f" by {record.changed_by}"
        fail(f"tenant {name} has just been changed{by}; nothing was done, look at it and try again")
    where = f"on all nodes within {settings.limits.tenant_refresh_s:g} s"
    if after is None:
        return f"tenant {name} is removed, {where}; from then on it is {_unnamed(settings, name)}"
    return f"tenant {name}: version {replaces + 1}, {where}"


def _judged(settings: Settings, name: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """The table as it is stored, or the end of the command with every fault on a line of its own."""
    said = {key: value for key, value in table.items() if value is not None}
    try:
        tenant = tenant_from(settings, name, said)
    except SettingsError as error:
        fail(str(error), 2)
    return tenant.model_dump(mode="json", include=set(said))


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    changed = {key: _shortened(value) for key, value in after.items() if key not in before or before[key] != value}
    taken = sorted(key for key in before if key not in after)
    return {**({"set": changed} if changed else {}), **({"taken_away": taken} if taken else {})}


def _shortened(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _AUDITED_CHARS:
        return f"{value[:_AUDITED_CHARS]}… ({len(value)} characters)"
    return value


# --- what was typed --------------------------------------------------------------------------------------


def _pairs(pairs: Sequence[str]) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign:
            fail(f"{pair}: expected KEY=VALUE", 2)
        keys[key] = _value(key, value) if value else None
    return keys


def _value(key: str, text: str) -> Any:
    """Lists are taken apart here; all else is a text that the model converts."""
    field = Tenant.model_fields.get(key)
    kinds = () if field is None else (field.annotation, *get_args(field.annotation))
    if not any(get_origin(kind) is tuple for kind in kinds):
        return text
    if not text.startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        return json.loads(text)
    except ValueError as error:
        fail(f"{key}: not valid JSON: {error}", 2)


def _file(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        table = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        fail(f"{path}: cannot be read: {error.strerror}", 2)
    except ValueError as error:  # of both kinds, and of bytes that are no text
        fail(f"{path}: not valid {'JSON' if path.suffix == '.json' else 'TOML'}: {error}", 2)
    if not isinstance(table, dict):
        fail(f"{path}: must hold a table of keys", 2)
    return table


# --- what is shown ---------------------------------------------------------------------------------------


def _described(settings: Settings, name: str, record: TenantRecord | None) -> dict[str, Any] | None:
    if name in settings.tenants:
        own = settings.tenants[name].model_dump(mode="json", exclude_unset=True)
        return {"tenant_id": name, "source": "file", "settings": own}
    if record is None or record.settings is None:
        return None
    described = {
        "tenant_id": name,
        "source": "archive",
        "version": record.version,
        "changed_at": record.changed_at,
        "changed_by": record.changed_by,
        "settings": dict(record.settings),
    }
    try:
        _, gone = stored_tenant(settings, name, record.settings)
    except SettingsError as error:
        described["faults"] = [fault.line() for fault in error.faults]
    else:
        if gone:
            described["left_out"] = [f"routes: {route}" for route in gone]
    return described


def _unnamed(settings: Settings, name: str) -> str:
    """What becomes of a tenant that nobody has named."""
    default = settings.tenant(name)
    return "refused" if default is None or default.suspended else "served as [tenants.default]"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
