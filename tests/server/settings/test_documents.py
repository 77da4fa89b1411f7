"""The page about the configuration and the example file say what the models say."""

from __future__ import annotations

from pathlib import Path

import pytest

from turnwire_server.settings import SettingsError, load_settings
from turnwire_server.settings.reference import TABLES, render, renew

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "configuration.md"
EXAMPLE = ROOT / "turnwire.example.toml"


def test_the_page_is_current() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert renew(page) == page, "run: python -m turnwire_server.settings.reference docs/configuration.md"


@pytest.mark.parametrize("name", TABLES)
def test_every_key_is_described_on_the_page(name: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for key, field in TABLES[name].model_fields.items():
        assert f"| `{key}` |" in page
        assert field.description, f"{name}.{key} needs a docstring"


def test_a_page_without_a_place_for_a_table_is_refused() -> None:
    with pytest.raises(ValueError, match="exactly one place for server"):
        renew("# Configuration\n")


def test_a_limit_that_is_a_time_ends_in_its_unit() -> None:
    for line in render(TABLES["limits"]).splitlines()[2:]:
        key, _, allowed, meaning = (cell.strip(" `") for cell in line.strip("|").split("|", 3))
        is_rate = key.endswith("_per_s")
        assert (key.endswith("_s") and not is_rate) == allowed.startswith("number"), key
        assert allowed.startswith("number") == (meaning.startswith(("Seconds", "Age in seconds"))), key


def test_the_example_loads_once_its_key_is_set() -> None:
    settings = load_settings(EXAMPLE, {"OPENAI_API_KEY": "sk-example"})
    assert [route.name for route in settings.routes] == ["default", "in-house"]
    acme = settings.tenant("acme")
    assert acme is not None
    assert acme.route == "in-house"
    with pytest.raises(SettingsError) as caught:
        load_settings(EXAMPLE, {})
    assert str(caught.value) == ('deployments.0.api_key_env: "OPENAI_API_KEY": this environment variable is not set')
