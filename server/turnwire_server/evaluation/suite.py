"""The file of a suite: what is said, how the turns are disturbed, and what must come of them.

Read whole before anything is started. `SuiteError` names the file, the line and the key of every fault, so that a
typing error is never taken for a failing model.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

Moment = Annotated[int, Field(ge=1)] | Literal["first_token"]
"""How much of the answer has been shown, in characters; `first_token`: anything of it."""
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(gt=0, le=3600)]


class SuiteError(Exception):
    """The suite cannot be played; the text has a line for each fault."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Similar(_Part):
    """See `score.similarity`."""

    text: str
    at_least: Share


class Judge(_Part):
    """A model of the suite's own server is asked and answers with a number from 0 to 10."""

    question: str
    at_least: Annotated[float, Field(ge=0, le=10)]
    route: str | None = None


class Expectation(_Part):
    """One scorer with what it is given; exactly one key is set."""

    equals: str | None = None
    contains: str | None = None
    matches: str | None = None
    json_schema: dict[str, Any] | None = Field(None, alias="schema")
    similar: Similar | None = None
    judge: Judge | None = None
    ending: Literal["completed", "cancelled", "interrupted", "merged", "incomplete", "failed"] | None = None
    tool_called: str | None = None
    most_tokens: Annotated[int, Field(ge=0)] | None = None
    most_cost_usd: Annotated[float, Field(ge=0)] | None = None
    most_seconds: Seconds | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise ValueError("one scorer each, as `- equals: Hello`")
        if self.value is None:
            raise ValueError("the scorer is given nothing")
        if self.matches is not None:
            try:
                re.compile(self.matches)
            except re.error as error:
                raise ValueError(f"matches: not a regular expression: {error}") from None
        if self.json_schema is not None:
            try:
                Draft202012Validator.check_schema(self.json_schema)
            except SchemaError as error:
                raise ValueError(f"schema: not a JSON Schema: {error.message}") from None
        return self

    @property
    def field(self) -> str:
        (name,) = self.model_fields_set
        return name

    @property
    def scorer(self) -> str:
        return "schema" if self.field == "json_schema" else self.field

    @property
    def value(self) -> Any:
        return getattr(self, self.field)


class ToolAnswer(_Part):
    """A tool that the client offers with the turn, and its result."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object"})
    output: Any = None
    error: str | None = None


class Turn(_Part):
    """One request and what happens to it."""

    say: Annotated[str, Field(min_length=1)]
    route: str | None = None
    variables: dict[str, str] = Field(default_factory=dict)
    """For the tenant's prompt."""
    interrupt_after: Moment | None = None
    cancel_after: Moment | None = None
    reconnect_after: Moment | None = None
    presented: Annotated[int, Field(ge=0)] | None = None
    """Characters of the answer that the user has seen or heard, reported with the interrupt."""
    tools: tuple[ToolAnswer, ...] = ()
    expect: tuple[Expectation, ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.interrupt_after is not None and self.cancel_after is not None:
            raise ValueError("a turn is interrupted or cancelled, not both")
        if self.presented is not None and self.interrupt_after is None:
            raise ValueError("presented is reported with an interrupt: interrupt_after is missing")
        return self


class ScriptedCall(_Part):
    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class Deed(_Part):
    """What the scripted model does besides writing; exactly one key is set."""

    pause_s: Seconds | None = None
    stall: Literal[True] | None = None
    """Say nothing more and keep the connection until the server closes it."""
    cut: Literal[True] | None = None
    """Close the connection in the middle of the answer."""
    tool: ScriptedCall | None = None
    error: Annotated[int, Field(ge=400, le=599)] | None = None
    """Refuse the call with this HTTP status; alone in its answer."""

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise ValueError("one of pause_s, stall, cut, tool, error")
        return self


Answer = str | tuple[str | Deed, ...]


class Case(_Part):
    """One conversation."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    answers: tuple[Answer, ...] = ()
    """What the scripted model says, one for each call of it."""
    turns: Annotated[tuple[Turn, ...], Field(min_length=1)]


class Suite(_Part):
    """A file."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    configuration: Path | dict[str, Any] = Field(default_factory=dict)
    model: Literal["scripted", "configured"] = "scripted"
    turn_limit_s: Seconds = 60
    """A turn that has not ended by then is a failure of its case."""
    cases: Annotated[tuple[Case, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        names = [case.name for case in self.cases]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two cases are called {', '.join(twice)}")
        if self.model == "configured" and (scripted := [case.name for case in self.cases if case.answers]):
            raise ValueError(f"answers are for `model: scripted`; {', '.join(scripted)} has some")
        return self


@dataclass(frozen=True, slots=True)
class SuiteFile:
    """A suite and the file it came from."""

    suite: Suite
    path: Path
    sha256: str
    """Of the file; a report names it, so that a verdict belongs to one text."""


def read_suite(path: Path) -> SuiteFile:
    """Raises `SuiteError`."""
    import yaml  # only here: no other command needs it

    try:
        data = path.read_bytes()
        root = yaml.compose(data, Loader=yaml.SafeLoader)
        tree = yaml.safe_load(data)
    except OSError as error:
        raise SuiteError(f"{path}: cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise SuiteError(f"{path}: not valid YAML: {error}") from None
    try:
        suite = Suite.model_validate(tree)
    except ValidationError as error:
        faults = [(fault["loc"], fault["msg"].removeprefix("Value error, ")) for fault in _told(error.errors())]
        lines = [f"{path}:{_line(root, loc)}: {_key(tree, loc)}: {said}" for loc, said in faults]
        raise SuiteError("\n".join(lines)) from None
    return SuiteFile(suite, path, hashlib.sha256(data).hexdigest())


def _told(faults: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """Without those that only follow from others: a list is too short for pydantic when what is in it is wrong."""
    places = [fault["loc"] for fault in faults]
    return [
        fault
        for fault in faults
        if fault["type"] != "too_short"
        or not any(len(place) > len(fault["loc"]) and place[: len(fault["loc"])] == fault["loc"] for place in places)
    ]


def _line(node: Any, loc: Sequence[int | str]) -> int:
    """The line of the innermost node on the way that the file has."""
    line = 1
    for step in (None, *loc):
        found = node if step is None else _below(node, step)
        if found is None:
            continue  # a branch of a union that pydantic names, or a key that is missing
        node = found
        line = node.start_mark.line + 1
    return line


def _below(node: Any, step: int | str) -> Any:
    if isinstance(step, int):
        inside = node.value if node.id == "sequence" else ()
        return inside[step] if step < len(inside) else None
    pairs = node.value if getattr(node, "id", None) == "mapping" else ()
    return next((value for key, value in pairs if key.value == step), None)


def _key(tree: Any, loc: Sequence[int | str]) -> str:
    """The path of a fault, with cases by their names."""
    steps = [str(step) for step in loc]
    if len(loc) > 1 and loc[0] == "cases" and isinstance(loc[1], int):
        case = tree["cases"][loc[1]]
        if isinstance(case, dict) and isinstance(case.get("name"), str):
            steps[:2] = [f"case {case['name']}"]
    return ".".join(steps) or "suite"
