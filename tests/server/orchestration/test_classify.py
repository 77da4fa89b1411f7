"""Which route a text belongs to."""

from __future__ import annotations

import pytest

from turnwire_server.orchestration.classify import Rules, chosen, question
from turnwire_server.settings import Route


def test_the_first_route_of_the_tenants_order_that_fits_is_taken() -> None:
    routes = [Route(name=name, deployments=("d",), matches=matches) for name, matches in
              (("a", ("red", "^blue")), ("b", ("green", "red")), ("c", ()))]  # fmt: skip
    rules = Rules(routes)
    assert rules.route_of("a RED car", ["b", "a"]) == "b"
    assert rules.route_of("a RED car", ["a", "b"]) == "a"
    assert rules.route_of("so blue", ["a", "b", "c"]) is None
    assert rules.route_of("red", ["c"]) is None


def test_of_a_long_text_beginning_and_end_are_looked_at() -> None:
    rules = Rules([Route(name="a", deployments=("d",), matches=("needle",))])
    assert rules.route_of("needle" + "x" * 100_000, ["a"]) == "a"
    assert rules.route_of("x" * 100_000 + "needle", ["a"]) == "a"
    assert rules.route_of("x" * 50_000 + "needle" + "x" * 50_000, ["a"]) is None


def test_the_question_names_the_routes_and_treats_the_text_as_data() -> None:
    system, user = question("Sing!", {"docs": "about contracts", "plain": "small talk"})
    assert "- docs: about contracts" in system["content"]
    assert user == {"role": "user", "content": "Sing!"}


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ("docs", "docs"),
        ("  `Docs`. ", "docs"),
        ("It belongs to docs.", "docs"),
        ("docs or plain", None),
        ("docs-old", None),
        ("nothing of these", None),
        ("", None),
    ],
)
def test_only_a_clear_answer_counts(answer: str, name: str | None) -> None:
    assert chosen(answer, ["docs", "plain"]) == name
