"""`@tool`: what is made of a function, and every declaration that is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field
from tests.server.tools.kit import made, run

from turnwire_server.tools import ToolContext, ToolDeclarationError, tool
from turnwire_server.tools.declare import declared
from turnwire_server.tools.errors import InvalidArguments


class Address(BaseModel):
    street: str
    number: int = 1


@tool
async def order(
    context: ToolContext,
    item: Annotated[str, Field(description="What to order.")],
    count: Annotated[int, Field(ge=1, le=10)] = 1,
    to: Address | None = None,
    title: Literal["mr", "ms"] = "ms",
) -> str:
    """Orders something.

    It is sent the same day.
    """
    return f"{context.user_id} {count} {item} {to.street if to else '-'} {title}"


def test_the_schema_is_that_of_the_parameters() -> None:
    declared_tool = made(order)
    schema = declared_tool.parameters
    assert declared_tool.name == "order"
    assert declared_tool.description == "Orders something.\n\nIt is sent the same day."
    assert schema["type"] == "object"
    assert schema["required"] == ["item"]
    assert schema["additionalProperties"] is False
    assert list(schema["properties"]) == ["item", "count", "to", "title"], "and not the context"
    assert schema["properties"]["item"] == {"description": "What to order.", "type": "string"}
    assert schema["properties"]["count"] == {"default": 1, "maximum": 10, "minimum": 1, "type": "integer"}
    assert schema["properties"]["title"] == {"default": "ms", "enum": ["mr", "ms"], "type": "string"}
    assert "title" not in schema["$defs"]["Address"], "titles made of names cost tokens"


def test_a_tool_without_parameters_has_the_schema_of_an_empty_object() -> None:
    @tool
    def now() -> str:
        """The time."""
        return ""

    assert made(now).parameters == {"type": "object", "properties": {}, "additionalProperties": False}
    assert made(now).offer()["function"]["name"] == "now"


async def test_a_function_stays_one_and_arguments_become_what_they_are_annotated_as() -> None:
    context = ToolContext("acme", "bob", "talk", "req", "call")
    assert await order(context, "tea") == "bob 1 tea - ms"
    result = await run(order, {"item": "tea", "to": {"street": "Main"}, "count": "3"})
    assert result.output == "alice 3 tea Main ms"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "item: missing"),
        ({"item": "x", "colour": 1}, "colour: there is no such parameter"),
        ({"item": "x", "count": 99}, "count: Input should be less than or equal to 10; it was 99"),
        ({"item": "x", "to": {"street": "y", "number": "z"}}, "to.number: Input should be a valid integer"),
        ({"item": ["long"] * 100}, "…"),
    ],
)
def test_a_model_is_told_where_and_what_was_expected(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArguments) as caught:
        made(order).validate(arguments)
    assert text in str(caught.value)
    assert len(str(caught.value)) < 500


def test_what_is_declared_is_what_the_tool_has() -> None:
    @tool(
        name="send-it",
        description="Sends.",
        side_effect=True,
        idempotent=True,
        interruptible=True,
        timeout_s=5,
        retries=2,
        max_concurrency=3,
        approval="always",
        approval_timeout_s=60,
        tenants=["acme"],
        scopes=["mail:send", "mail:read"],
    )
    async def send() -> None: ...

    sent = made(send)
    assert (sent.name, sent.description) == ("send-it", "Sends.")
    assert (sent.timeout_s, sent.retries, sent.max_concurrency) == (5, 2, 3)
    assert (sent.approval, sent.approval_timeout_s) == ("always", 60)
    assert sent.is_permitted("acme", {"mail:send", "mail:read", "more"})
    assert not sent.is_permitted("acme", {"mail:send"}), "all scopes are needed"
    assert not sent.is_permitted("other", {"mail:send", "mail:read"})
    assert sent.may_run_again


def test_a_function_that_is_not_marked_is_no_tool() -> None:
    assert declared(test_a_function_that_is_not_marked_is_no_tool) is None
    assert declared(3) is None


async def described() -> None:
    """Is described."""


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"name": "no spaces"}, "none that providers accept"),
        ({"name": "x" * 65}, "none that providers accept"),
        ({"name": "line\n"}, "none that providers accept"),
        ({"retries": 1}, "retries need a tool that may run twice"),
        ({"retries": -1, "side_effect": False}, "retries must be"),
        ({"retries": True, "side_effect": False}, "retries must be"),
        ({"timeout_s": 0}, "timeout_s must be"),
        ({"timeout_s": float("nan")}, "timeout_s must be"),
        ({"max_concurrency": 0}, "max_concurrency must be"),
        ({"approval": "sometimes"}, "approval must be"),
        ({"approval_timeout_s": 5}, 'needs approval="always"'),
        ({"tenants": "acme"}, "tenants must be a list"),
        ({"side_effect": None}, "side_effect must be True or False"),
        ({"description": "x" * 5000}, "longer than 4096"),
    ],
)
def test_wrong_options_are_refused_by_name(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ToolDeclarationError, match=text) as caught:
        tool(**options)(described)
    assert "test_declare.described" in str(caught.value), "whose declaration it is"


async def not_described(x: int) -> None: ...


async def not_annotated(x) -> None:  # type: ignore[no-untyped-def]
    """Text."""


async def many(*x: int) -> None:
    """Text."""


async def unknown(x: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Text."""


async def no_schema(x: asyncio.Event) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Text."""


async def yields() -> AsyncIterator[int]:
    """Text."""
    yield 1


async def two(a: ToolContext, b: ToolContext) -> None:
    """Text."""


async def odd(x: object = object) -> None:
    """Text."""


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (not_described, "needs a description"),
        (not_annotated, "'x' needs an annotation"),
        (many, "'x' has no name"),
        (unknown, "annotations cannot be read"),
        (no_schema, "annotations cannot be read"),
        (yields, "does not yield"),
        (two, "only one parameter"),
        (3, "is no function"),
    ],
)
def test_wrong_functions_are_refused(function: Any, text: str) -> None:
    with pytest.raises(ToolDeclarationError, match=text):
        tool(function)


def test_a_parameter_of_a_kind_that_json_does_not_have_is_refused() -> None:
    class Engine: ...

    async def start(engine: Engine) -> None:
        """Starts."""

    start.__annotations__["engine"] = Engine
    with pytest.raises(ToolDeclarationError, match="cannot be described"):
        tool(start)
