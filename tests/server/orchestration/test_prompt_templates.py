"""Templates of prompts: what they may say, what they must be told, and that none takes anything of the server's."""

from __future__ import annotations

import time

import pytest

from turnwire_server.orchestration.prompts import (
    MOST_NODES,
    MOST_RENDERED_CHARS,
    MOST_TEMPLATE_CHARS,
    MOST_VALUE_CHARS,
    MOST_VARIABLES,
    PromptTemplate,
    TemplateFault,
    Variable,
    VariableFault,
)

BUILT_IN = {"tenant": "acme", "user": "ann", "date": "2026-01-31", "route": "fast"}
TWO = {"customer": Variable(), "tone": Variable("friendly")}


def rendered(text: str, variables: dict[str, Variable] | None = None, **given: str) -> str:
    return PromptTemplate(text, variables or {}).render(given, BUILT_IN)


def fault_of(text: str, variables: dict[str, Variable] | None = None) -> str:
    with pytest.raises(TemplateFault) as caught:
        PromptTemplate(text, variables or {})
    return str(caught.value)


def test_a_template_is_filled_in_with_what_is_given_what_is_usual_and_what_is_built_in() -> None:
    text = "Be {{ tone }} to {{ customer }}. {{ tenant }}, {{ user }}, {{ date }}, {{ route }}."
    assert rendered(text, TWO, customer="日本 {{ tone }}") == (
        "Be friendly to 日本 {{ tone }}. acme, ann, 2026-01-31, fast."
    )
    assert rendered(text, TWO, customer="Bo", tone="short").startswith("Be short to Bo.")


def test_conditions_and_filters_are_there() -> None:
    text = "{% if tone == 'friendly' and customer %}Hi {{ customer | upper | trim }}{% else %}Yes?{% endif %}"
    assert rendered(text, TWO, customer=" bo ") == "Hi BO"
    assert rendered(text, TWO, customer="") == "Yes?"
    assert rendered("{{ customer | tojson }}", TWO, customer='</data>"') == '"\\u003c/data\\u003e\\""'
    assert rendered("{{ 'a' if tone in ['friendly', 'kind'] else 'b' }}", TWO, customer="") == "a"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "'customer' must be given"),
        ({"customer": "a", "colour": "b", "age": "c"}, "there is no 'age', 'colour'; this prompt has: customer, tone"),
        ({"customer": "a", "user": "root"}, "there is no 'user'; this prompt has: customer, tone"),
        ({"customer": "a" * 1_001}, "'customer' has more than 1000 characters"),
    ],
)
def test_variables_that_do_not_fit_are_named(given: dict[str, str], said: str) -> None:
    with pytest.raises(VariableFault) as caught:
        PromptTemplate("{{ customer }}", TWO).render(given, BUILT_IN)
    assert str(caught.value) == said


def test_a_prompt_that_becomes_too_long_is_refused() -> None:
    template = PromptTemplate("{{ a }}" * 11, {"a": Variable(max_chars=MOST_VALUE_CHARS)})
    assert len(template.render({"a": "x" * (MOST_RENDERED_CHARS // 11)}, BUILT_IN)) <= MOST_RENDERED_CHARS
    with pytest.raises(VariableFault, match="more than 200000 characters"):
        template.render({"a": "x" * MOST_VALUE_CHARS}, BUILT_IN)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{ name }", "line 1: unexpected '}'"),
        ("a\n{% if %}", "line 2: Expected an expression, got 'end of statement block'"),
        ("{{ name }}", "uses 'name', which it does not declare; declared: none"),
        (
            "{% for a in 'abc' %}{{ a }}{% endfor %}",
            "line 1: a loop is not allowed; there are text, variables, filters and if",
        ),
        ("{% set a = 'b' %}", "line 1: set is not allowed; there are text, variables, filters and if"),
        ("{% macro a() %}{% endmacro %}", "line 1: a macro is not allowed; there are text, variables, filters and if"),
        ("{% include '/etc/passwd' %}", "line 1: include is not allowed; there are text, variables, filters and if"),
        ("{{ tenant.__class__ }}", "line 1: an attribute is not allowed; there are text, variables, filters and if"),
        ("{{ tenant['x'] }}", "line 1: a subscript is not allowed; there are text, variables, filters and if"),
        ("{{ range(10) }}", "line 1: a call is not allowed; there are text, variables, filters and if"),
        ("{{ 'a' * 1000000000 }}", "line 1: arithmetic is not allowed; there are text, variables, filters and if"),
        ("{{ 9 ** 9999 }}", "line 1: arithmetic is not allowed; there are text, variables, filters and if"),
        ("{{ tenant ~ tenant }}", "line 1: ~ is not allowed; there are text, variables, filters and if"),
        ("{{ tenant | trim | upper | lower | title }}", "line 1: more than 3 filters, one after the other"),
        ("{{ tenant | upper('x') }}", "do_upper() takes 1 positional argument but 2 were given"),
        ("{{ tenant | tojson(indent=99999) }}", "line 1: 'tojson' takes nothing"),
        ("{{ " + "(" * 5_000 + "tenant" + ")" * 5_000 + " }}", "is nested too deeply"),
        ("{% if tenant %}" * 300 + "{% endif %}" * 300, "is nested too deeply"),
        ("x" * (MOST_TEMPLATE_CHARS + 1), "has 100001 characters; at most 100000 are allowed"),
    ],
)
def test_what_a_template_may_not_say_is_said(text: str, said: str) -> None:
    assert fault_of(text) == said


def test_filters_and_tests_that_are_not_there_are_named() -> None:
    assert fault_of("{{ tenant | center(1000000000) }}").startswith("line 1: there is no filter 'center'; there are: c")
    assert fault_of("{{ 'a' if tenant is callable else 'b' }}").startswith("line 1: there is no test 'callable'; there")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"user": Variable()}, "'user' cannot be declared: it has a meaning of its own"),
        ({"true": Variable()}, "'true' cannot be declared: it has a meaning of its own"),
        ({"a b": Variable()}, "'a b' cannot be a variable: it must be 1 to 64 of A-Z a-z 0-9 _, a letter first"),
        ({"_a": Variable()}, "'_a' cannot be a variable: it must be 1 to 64 of A-Z a-z 0-9 _, a letter first"),
        ({"a": Variable(max_chars=0)}, "'a' may have 1 to 20000 characters, not 0"),
        ({"a": Variable("xx", 1)}, "the default of 'a' has more than 1 characters"),
        ({f"a{n}": Variable() for n in range(MOST_VARIABLES + 1)}, "declares 65 variables; at most 64 are allowed"),
    ],
)
def test_variables_that_cannot_be_declared_are_named(variables: dict[str, Variable], said: str) -> None:
    assert fault_of("x", variables) == said


def test_what_shows_only_in_a_branch_that_is_seldom_taken_is_a_fault_of_the_template() -> None:
    template = PromptTemplate("{% if tone == 'x' %}{{ tone < 5 }}{% endif %}", {"tone": Variable("y")})
    with pytest.raises(TemplateFault, match="'<' not supported"):
        template.render({"tone": "x"}, BUILT_IN)


def test_the_largest_template_with_the_largest_values_takes_moments() -> None:
    one, variables = "{{ a | tojson | tojson | tojson }}", {"a": Variable(max_chars=MOST_VALUE_CHARS)}
    began = time.process_time()
    assert "more than 2000" in fault_of(one * (MOST_TEMPLATE_CHARS // len(one)), variables)
    template = PromptTemplate(one * (MOST_NODES // 4 - 1), variables)
    with pytest.raises(VariableFault):
        template.render({"a": '"' * MOST_VALUE_CHARS}, BUILT_IN)
    assert time.process_time() - began < 2, "a tenth of that where nothing else runs"


@pytest.mark.parametrize("variable", [Variable(), Variable("x"), Variable("", 5), Variable(max_chars=3)])
def test_variables_survive_being_kept(variable: Variable) -> None:
    assert Variable.from_json(variable.to_json()) == variable
