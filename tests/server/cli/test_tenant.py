"""`turnwire tenant` and `turnwire audit`, without a server; beside one they are tried in `tests/e2e/test_tenants`."""

from __future__ import annotations

import asyncio
import getpass
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from turnwire_server.archive import sqlite_tenants
from turnwire_server.archive.sqlite import SqliteArchive
from turnwire_server.archive.tenants import AuditEntry
from turnwire_server.cli import app
from turnwire_server.sqlite import Database

CONFIG = """
[server]
data_dir = "{data_dir}"
[[deployments]]
name = "near"
kind = "demo"
region = "eu"
[[routes]]
name = "first"
deployments = ["near"]
[tenants.filed]
system_prompt = "from the file"
features = ["x"]
"""


class Command:
    """`turnwire … --config`, with a configuration that has one route, one region and the tenant `filed`."""

    def __init__(self, folder: Path) -> None:
        self.data_dir = folder / "data"
        self.config = folder / "turnwire.toml"
        self.config.write_text(CONFIG.format(data_dir=self.data_dir))

    def __call__(self, *arguments: str) -> Result:
        return CliRunner(env={"COLUMNS": "200"}).invoke(app, [*arguments, "--config", str(self.config)])

    def fails(self, *arguments: str, code: int = 1) -> str:
        """What it says on standard error."""
        result = self(*arguments)
        assert result.exit_code == code, result.output
        assert result.stdout == ""
        return result.stderr.strip()

    def does(self, *arguments: str) -> str:
        result = self(*arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.does(*arguments, "--format", "json"))


@pytest.fixture
def turnwire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return Command(tmp_path)


def test_a_tenant_from_its_first_to_its_last_day(turnwire: Command) -> None:
    said = turnwire.does("tenant", "add", "acme", "features=a, b", "budget_usd_per_day=12.50", "suspended=true")
    assert said == "tenant acme: version 1, on all nodes within 2 s\n"
    assert turnwire.json("tenant", "show", "acme")["settings"] == {
        "features": ["a", "b"],
        "budget_usd_per_day": "12.50",
        "suspended": True,
    }
    turnwire.does("tenant", "set", "acme", "features=", "suspended=", 'routes=["first"]', "system_prompt=a = b")
    shown = turnwire.json("tenant", "show", "acme")
    assert shown["settings"] == {"budget_usd_per_day": "12.50", "routes": ["first"], "system_prompt": "a = b"}
    assert (shown["version"], shown["source"], shown["changed_by"]) == (2, "archive", getpass.getuser())
    assert turnwire.does("tenant", "set", "acme", "routes=first") == "tenant acme is set so already\n"
    assert "from then on it is refused" in turnwire.does("tenant", "remove", "acme", "--actor", "carol")
    assert turnwire.fails("tenant", "set", "acme", "features=a") == "there is no tenant acme in the archive"
    assert "version 4" in turnwire.does("tenant", "add", "acme")
    assert [(entry["actor"], entry["act"], entry["details"]) for entry in turnwire.json("audit")] == [
        (
            getpass.getuser(),
            "tenant.add",
            {"set": {"features": ["a", "b"], "budget_usd_per_day": "12.50", "suspended": True}},
        ),
        (
            getpass.getuser(),
            "tenant.set",
            {"set": {"routes": ["first"], "system_prompt": "a = b"}, "taken_away": ["features", "suspended"]},
        ),
        ("carol", "tenant.remove", {"taken_away": ["budget_usd_per_day", "routes", "system_prompt"]}),
        (getpass.getuser(), "tenant.add", {}),
    ]


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (["requests_per_minute=many"], 'tenants.acme.requests_per_minute: "many": must be a whole number'),
        (["requests_per_minute=0"], 'tenants.acme.requests_per_minute: "0": must be at least 1'),
        (["budget_usd_per_day=-1"], 'tenants.acme.budget_usd_per_day: "-1": must be greater than 0'),
        (["featurs=a"], "tenants.acme.featurs: unknown key; did you mean features?"),
        (["route=gone"], 'tenants.acme.route: "gone": no such route; there are: first'),
        (["regions=us"], 'tenants.acme.regions: "us": no deployment is there; there are: eu'),
        (["routes=[1"], "routes: not valid JSON: Expecting ',' delimiter: line 1 column 3 (char 2)"),
        (["suspended"], "suspended: expected KEY=VALUE"),
    ],
)
def test_what_is_wrong_is_named_with_key_value_and_what_was_expected(
    turnwire: Command, pairs: list[str], said: str
) -> None:
    assert turnwire.fails("tenant", "add", "acme", *pairs, code=2).splitlines()[0] == said
    assert [one["tenant_id"] for one in turnwire.json("tenant", "list")] == ["filed"]
    assert turnwire.json("audit") == []


def test_the_tenants_of_the_file_are_shown_and_not_changed(turnwire: Command) -> None:
    for act in (["add", "filed"], ["set", "filed", "features=a"], ["remove", "filed"]):
        said = "tenant filed is in the configuration file, [tenants.filed]: change it there"
        assert turnwire.fails("tenant", *act, code=2) == said
    shown = {"system_prompt": "from the file", "features": ["x"]}
    assert turnwire.json("tenant", "show", "filed") == {"tenant_id": "filed", "source": "file", "settings": shown}
    assert "from the file" in turnwire.does("tenant", "show", "filed")
    assert turnwire.fails("tenant", "add", "default", code=2).startswith("tenants.default: stands for all tenants")
    assert turnwire.fails("tenant", "add", "no good", code=2).startswith("tenants.no good: a name must match")


def test_names_that_are_there_or_not_are_told_apart(turnwire: Command) -> None:
    turnwire.does("tenant", "add", "acme")
    assert turnwire.fails("tenant", "add", "acme").startswith("tenant acme is there already")
    assert turnwire.fails("tenant", "remove", "globex") == "there is no tenant globex in the archive"
    missing = "tenant globex is neither in the configuration file nor in the archive; it is refused"
    assert turnwire.fails("tenant", "show", "globex") == missing
    assert turnwire.fails("tenant", "set", "acme", code=2).startswith("say what to change")


def test_a_table_comes_from_a_file_and_what_is_typed_wins(turnwire: Command, tmp_path: Path) -> None:
    toml, js = tmp_path / "acme.toml", tmp_path / "acme.json"
    toml.write_text('system_prompt = """\nlong\ntext"""\nrequests_per_minute = 5\nbudget_usd_per_day = "1.10"\n')
    js.write_text('{"tools": [], "requests_per_minute": null}')
    turnwire.does("tenant", "add", "acme", "requests_per_minute=6", "--from-file", str(toml))
    keys = {"system_prompt": "long\ntext", "requests_per_minute": 6, "budget_usd_per_day": "1.10"}
    assert turnwire.json("tenant", "show", "acme")["settings"] == keys
    turnwire.does("tenant", "set", "acme", "--from-file", str(js))
    del keys["requests_per_minute"]
    assert turnwire.json("tenant", "show", "acme")["settings"] == {**keys, "tools": []}
    for path, text in ((toml, "a ="), (js, "{"), (js, "[]")):
        path.write_text(text)
        assert str(path) in turnwire.fails("tenant", "set", "acme", "--from-file", str(path), code=2)
    assert "cannot be read" in turnwire.fails("tenant", "set", "acme", "--from-file", str(tmp_path / "no"), code=2)


def test_lists_show_where_tenants_come_from_and_which_cannot_be_used(turnwire: Command) -> None:
    turnwire.does("tenant", "add", "acme", "route=first", "features=a")
    turnwire.does("tenant", "add", "globex", "routes=first")
    turnwire.config.write_text(turnwire.config.read_text().replace('"first"', '"second"'))
    acme, filed, globex = turnwire.json("tenant", "list")
    assert acme["faults"] == ['tenants.acme.route: "first": no such route; there are: second']
    assert filed["source"] == "file"
    assert globex["left_out"] == ["routes: first"]
    table = turnwire.does("tenant", "list")
    assert "NOT USABLE" in table
    assert "2" in turnwire.does("tenant", "set", "acme", "route=second")


def test_of_two_administrators_at_once_none_overwrites_the_other(
    turnwire: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    turnwire.does("tenant", "add", "acme", "requests_per_minute=1")
    put = SqliteArchive.put_tenant

    async def beaten(self: SqliteArchive, tenant_id: str, settings: Any, **how: Any) -> Any:
        other = AuditEntry("other", 1, "carol", "tenant.set", "acme")
        await put(self, "acme", {"requests_per_minute": 9}, replaces=1, entry=other)
        return await put(self, tenant_id, settings, **how)

    monkeypatch.setattr(SqliteArchive, "put_tenant", beaten)
    said = turnwire.fails("tenant", "set", "acme", "requests_per_minute=2")
    assert said == "tenant acme has just been changed by carol; nothing was done, look at it and try again"
    assert turnwire.json("tenant", "show", "acme")["settings"] == {"requests_per_minute": 9}


def test_long_texts_are_shortened_in_the_audit_log_and_there_alone(turnwire: Command) -> None:
    turnwire.does("tenant", "add", "acme", f"system_prompt={'x' * 5000}")
    (entry,) = turnwire.json("audit")
    assert entry["details"] == {"set": {"system_prompt": f"{'x' * 200}… (5000 characters)"}}
    assert turnwire.json("tenant", "show", "acme")["settings"]["system_prompt"] == "x" * 5000


def test_the_audit_log_is_listed_the_newest_last_and_by_tenant(turnwire: Command) -> None:
    async def fill() -> None:
        database = Database(turnwire.data_dir)
        await database.open(sqlite_tenants.SCHEMA)
        for number in range(1200):
            entry = AuditEntry(
                f"o{number:04}", 1_700_000_000_000 + number, "op", "act", f"t{number % 2}", {"n": number}
            )
            await SqliteArchive(database).add_audit(entry)
        await database.aclose()

    asyncio.run(fill())
    found = [entry["details"]["n"] for entry in turnwire.json("audit", "--limit", "1100")]
    assert found == list(range(100, 1200))
    assert [e["details"]["n"] for e in turnwire.json("audit", "--tenant", "t1", "--limit", "2")] == [1197, 1199]
    lines = turnwire.does("audit", "--limit", "2").splitlines()
    assert "2023-11-14 22:13:21Z" in lines[-1]
    assert '{"n":1199}' in lines[-1]
