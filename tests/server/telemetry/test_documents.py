"""The page about operations lists every figure there is, as it is, and none besides."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.metrics import MetricWrapperBase

from turnwire_server.telemetry import Metrics

PAGE = Path(__file__).parents[3] / "docs" / "operations.md"
_FIGURE = re.compile(r"turnwire_[a-z_]+")


def described() -> dict[str, tuple[str, tuple[str, ...], str]]:
    """Type, labels and meaning of each figure in the table of the page, by name."""
    table = PAGE.read_text(encoding="utf-8").partition("<!-- begin metrics -->")[2].partition("<!-- end metrics -->")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()[2:]]
    return {name.strip("`"): (kind, tuple(re.findall(r"`(\w+)`", labels)), text) for name, kind, labels, text in rows}


def registered() -> dict[str, MetricWrapperBase]:
    figures = [value for value in vars(Metrics()).values() if isinstance(value, MetricWrapperBase)]
    return {figure._name + ("_total" if figure._type == "counter" else ""): figure for figure in figures}


def test_every_figure_is_described_and_none_that_is_not_there() -> None:
    assert described().keys() == registered().keys()


def test_the_page_says_of_each_figure_what_the_registry_says() -> None:
    page = described()
    for name, figure in registered().items():
        kind, labels, text = page[name]
        assert (kind, labels) == (figure._type, tuple(figure._labelnames)), name
        assert text.replace("`", "").startswith(figure._documentation), name


def test_figures_named_elsewhere_on_the_page_exist() -> None:
    known = registered().keys()
    assert set(_FIGURE.findall(PAGE.read_text(encoding="utf-8"))) <= known
