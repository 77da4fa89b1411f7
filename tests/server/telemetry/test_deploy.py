"""The dashboard and the alert rules are about figures, and labels of figures, that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.server.telemetry.test_documents import registered

DEPLOY = Path(__file__).parents[3] / "deploy"
_FIGURE = re.compile(r"turnwire_[a-z_]+")
_BY = re.compile(r"by \(([a-z_, ]+)\)")
_OF_THE_SCRAPE = {"le", "instance"}


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((DEPLOY / "grafana" / "turnwire.json").read_text("utf-8"))["panels"]
    return found


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> list[str]:
    asked = [target["expr"] for panel in panels() for target in panel["targets"]]
    return asked + [rule["expr"] for rule in rules()]


def series() -> dict[str, set[str]]:
    """What a scrape shows, with its labels."""
    shown: dict[str, set[str]] = {}
    for name, figure in registered().items():
        suffixes = ["_bucket", "_sum", "_count"] if figure._type == "histogram" else [""]
        shown |= {name + suffix: set(figure._labelnames) for suffix in suffixes}
    return shown


@pytest.mark.parametrize("expression", expressions())
def test_what_is_asked_for_is_there(expression: str) -> None:
    shown = series()
    named = set(_FIGURE.findall(expression))
    assert named
    assert named <= shown.keys()
    labels = {label.strip() for group in _BY.findall(expression) for label in group.split(",")}
    assert labels - _OF_THE_SCRAPE <= set().union(*(shown[name] for name in named))
    assert expression.count("(") == expression.count(")")


def test_panels_and_rules_are_told_apart_and_say_what_they_show() -> None:
    for names in ([panel["title"] for panel in panels()], [rule["alert"] for rule in rules()]):
        assert len(set(names)) == len(names) > 0
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels()]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in panels()}) == len(places)
    for rule in rules():
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in ("page", "warn", "info")
