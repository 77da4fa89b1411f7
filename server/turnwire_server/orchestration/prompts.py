"""Prompt templates: parsed, checked, and rendered with a request's variables. Pure.

The language is the part of Jinja's in which the work is in proportion to the template: text, `{{ name }}` with a few
filters, and `{% if %}`. Loops, macros, assignments, arithmetic, attributes and inclusion are refused when a template is
added, so that no template, and no value of a variable, can take time, memory or anything of the server's. It is
rendered in Jinja's immutable sandbox all the same, and no further than `MOST_RENDERED_CHARS`.

A variable's value is a text that whoever sends the request has chosen. It becomes part of the system prompt: a template
that lets users say something there sets it off as data, as with `{{ name | tojson }}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from jinja2 import StrictUndefined, Template, TemplateSyntaxError, nodes
from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

BUILT_IN = ("tenant", "user", "date", "route")
"""Variables that every template has: who asks, the day (UTC, `2026-01-31`) and the route of the request."""

MOST_TEMPLATE_CHARS = 100_000
MOST_NODES = 2_000
"""Of its syntax: to judge it takes a server that meets it first some 50 µs each."""
MOST_RENDERED_CHARS = 200_000
"""As a tenant's `system_prompt`."""
MOST_VARIABLES = 64
MOST_VALUE_CHARS = 20_000
USUAL_VALUE_CHARS = 1_000
"""Characters that a value may have where a template says nothing else."""
MOST_FILTERS = 3
"""One after the other: each may lengthen what it is given a few times."""

_VARIABLE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_FILTERS = frozenset(["upper", "lower", "title", "capitalize", "trim", "default", "length", "tojson"])
_TESTS = frozenset(["defined", "undefined", "in", "eq", "equalto", "ne", "lower", "upper", "none"])
_NODES: tuple[type[nodes.Node], ...] = (
    nodes.Template,
    nodes.Output,
    nodes.TemplateData,
    nodes.Name,
    nodes.Const,
    nodes.List,
    nodes.Tuple,
    nodes.If,
    nodes.CondExpr,
    nodes.Compare,
    nodes.Operand,
    nodes.And,
    nodes.Or,
    nodes.Not,
    nodes.Filter,
    nodes.Test,
    nodes.Keyword,
)


class TemplateFault(Exception):
    """A template cannot be used. The text says where and why."""


class VariableFault(Exception):
    """The variables of a request do not fit the template. The text names them, and never their values."""


@dataclass(frozen=True, slots=True)
class Variable:
    """What a template wants to be told. Without a ``default`` it must be given."""

    default: str | None = None
    max_chars: int = USUAL_VALUE_CHARS

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Self:
        return cls(kept.get("default"), kept.get("max_chars", USUAL_VALUE_CHARS))

    def to_json(self) -> dict[str, Any]:
        said: dict[str, Any] = {} if self.default is None else {"default": self.default}
        return said if self.max_chars == USUAL_VALUE_CHARS else {**said, "max_chars": self.max_chars}


class PromptTemplate:
    """A template that was judged to be usable. Raises `TemplateFault` for any other."""

    def __init__(self, text: str, variables: Mapping[str, Variable]) -> None:
        self.variables = dict(variables)
        _check_variables(self.variables)
        if len(text) > MOST_TEMPLATE_CHARS:
            raise TemplateFault(f"has {len(text)} characters; at most {MOST_TEMPLATE_CHARS} are allowed")
        self._template = _compiled(text, self.variables)

    def __repr__(self) -> str:
        return f"<PromptTemplate of {', '.join(self.variables) or 'no variables'}>"

    def render(self, given: Mapping[str, str], built_in: Mapping[str, str]) -> str:
        """The text, with these values. ``built_in`` are those of `BUILT_IN`.

        Raises `VariableFault` unless every variable that has to be given is, nothing else is, and each value has its
        size; `TemplateFault` for what was not seen when the template was judged.
        """
        unknown = sorted(name for name in given if name not in self.variables)
        if unknown:
            known = ", ".join(sorted(self.variables)) or "none"
            raise VariableFault(f"there is no {_named(unknown)}; this prompt has: {known}")
        missing = sorted(name for name, one in self.variables.items() if one.default is None and name not in given)
        if missing:
            raise VariableFault(f"{_named(missing)} must be given")
        for name, value in given.items():
            if len(value) > self.variables[name].max_chars:
                raise VariableFault(f"'{name}' has more than {self.variables[name].max_chars} characters")
        defaults = {name: one.default for name, one in self.variables.items() if one.default is not None}
        return self._render({**defaults, **given, **{name: built_in[name] for name in BUILT_IN}})

    def _render(self, values: Mapping[str, str]) -> str:
        pieces: list[str] = []
        room = MOST_RENDERED_CHARS
        try:
            for piece in self._template.generate(values):
                room -= len(piece)
                if room < 0:
                    raise VariableFault(f"the prompt would have more than {MOST_RENDERED_CHARS} characters")
                pieces.append(piece)
        except (TemplateError, TypeError, ValueError) as error:  # in a branch that is seldom taken
            raise TemplateFault(str(error)) from None
        return "".join(pieces)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=False, cache_size=0)
    environment.globals.clear()
    environment.filters = {name: environment.filters[name] for name in _FILTERS}
    environment.tests = {name: environment.tests[name] for name in _TESTS}
    return environment


_ENVIRONMENT = _environment()


def _compiled(text: str, variables: Mapping[str, Variable]) -> Template:
    try:
        tree = _ENVIRONMENT.parse(text)
        for line, fault in _faults(tree):
            raise TemplateFault(f"line {line}: {fault}")
        used = {name.name for name in tree.find_all(nodes.Name)}
        undeclared = sorted(used - set(variables) - set(BUILT_IN))
        if undeclared:
            declared = ", ".join(sorted(variables)) or "none"
            raise TemplateFault(f"uses {_named(undeclared)}, which it does not declare; declared: {declared}")
        template = _ENVIRONMENT.from_string(tree)
        # What only shows when it is rendered, such as a filter with wrong arguments, shows now.
        blank = {name: one.default or "" for name, one in variables.items()}
        for _ in template.generate({**blank, **dict.fromkeys(BUILT_IN, "")}):
            pass
    except TemplateSyntaxError as error:
        raise TemplateFault(f"line {error.lineno}: {error.message}") from None
    except (TemplateError, TypeError, ValueError) as error:
        raise TemplateFault(str(error)) from None
    except (RecursionError, MemoryError, SyntaxError):
        raise TemplateFault("is nested too deeply") from None
    return template


def _faults(tree: nodes.Template) -> Iterator[tuple[int, str]]:
    for number, node in enumerate(tree.find_all(nodes.Node)):
        if number == MOST_NODES:
            yield node.lineno, f"more than {MOST_NODES} variables, filters, conditions and pieces of text"
        if not isinstance(node, _NODES):
            yield node.lineno, f"{_said(node)} is not allowed; there are text, variables, filters and if"
        if isinstance(node, nodes.Filter):
            if node.name not in _FILTERS:
                yield node.lineno, f"there is no filter '{node.name}'; there are: {', '.join(sorted(_FILTERS))}"
            if _filters(node) > MOST_FILTERS:
                yield node.lineno, f"more than {MOST_FILTERS} filters, one after the other"
            if node.name == "tojson" and (node.args or node.kwargs):
                yield node.lineno, "'tojson' takes nothing"
        if isinstance(node, nodes.Test) and node.name not in _TESTS:
            yield node.lineno, f"there is no test '{node.name}'; there are: {', '.join(sorted(_TESTS))}"


def _filters(node: nodes.Filter) -> int:
    """How many filters may come one after the other below this one, itself included."""
    return 1 + sum(_filters(found) for child in node.iter_child_nodes() for found in _outermost(child))


def _outermost(node: nodes.Node) -> Iterator[nodes.Filter]:
    if isinstance(node, nodes.Filter):
        yield node
        return
    for child in node.iter_child_nodes():
        yield from _outermost(child)


def _said(node: nodes.Node) -> str:
    """What a kind of node is to whoever writes templates."""
    words = {
        nodes.For: "a loop",
        nodes.Assign: "set",
        nodes.AssignBlock: "set",
        nodes.Macro: "a macro",
        nodes.CallBlock: "call",
        nodes.Call: "a call",
        nodes.Getattr: "an attribute",
        nodes.Getitem: "a subscript",
        nodes.Include: "include",
        nodes.Import: "import",
        nodes.FromImport: "import",
        nodes.Extends: "extends",
        nodes.Block: "a block",
        nodes.BinExpr: "arithmetic",
        nodes.Concat: "~",
    }
    return next((word for kind, word in words.items() if isinstance(node, kind)), type(node).__name__.lower())


def _check_variables(variables: Mapping[str, Variable]) -> None:
    if len(variables) > MOST_VARIABLES:
        raise TemplateFault(f"declares {len(variables)} variables; at most {MOST_VARIABLES} are allowed")
    for name, variable in variables.items():
        if _VARIABLE.fullmatch(name) is None:
            raise TemplateFault(f"'{name}' cannot be a variable: it must be 1 to 64 of A-Z a-z 0-9 _, a letter first")
        if name in BUILT_IN or name in (
            "true",
            "false",
            "none",
            "True",
            "False",
            "None",
            "not",
            "and",
            "or",
            "is",
            "in",
        ):
            raise TemplateFault(f"'{name}' cannot be declared: it has a meaning of its own")
        if not 1 <= variable.max_chars <= MOST_VALUE_CHARS:
            raise TemplateFault(f"'{name}' may have 1 to {MOST_VALUE_CHARS} characters, not {variable.max_chars}")
        if variable.default is not None and len(variable.default) > variable.max_chars:
            raise TemplateFault(f"the default of '{name}' has more than {variable.max_chars} characters")


def _named(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
