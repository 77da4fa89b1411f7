"""`@tool`: makes a tool of a function, from its annotations and its docstring.

The function stays what it is and can be called as before; what was declared hangs on it and is found by `modules`.
Everything that can be wrong with a declaration is told at once, when the module is imported.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar, Union, overload

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo

from .context import ToolContext
from .errors import InvalidArguments, ToolDeclarationError
from .registry import Run, RunInThread, Tool, Validate, is_tool_name

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__turnwire_tool__"
_SHOWN_FAULTS = 5
_SHOWN_CHARS = 60
_MAX_RETRIES = 10
_DESCRIPTION_CHARS = 4096


@overload
def tool(function: F, /) -> F: ...


@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    side_effect: bool = True,
    idempotent: bool = False,
    interruptible: bool = False,
    timeout_s: float | None = None,
    retries: int = 0,
    max_concurrency: int | None = None,
    approval: Literal["never", "always"] = "never",
    approval_timeout_s: float | None = None,
    tenants: Iterable[str] | None = None,
    scopes: Iterable[str] | None = None,
) -> Callable[[F], F]: ...


def tool(function: Any = None, /, **options: Any) -> Any:
    """Declare a function as a tool that models may call.

    An async function runs in the event loop and must not block; a plain one runs in a thread. Every parameter needs an
    annotation; a model sees the parameters' JSON Schema and the docstring. A parameter annotated `ToolContext` is
    given the context of the call and is not seen by the model.

    `name`, `description`: instead of the function's own name and docstring.
    `side_effect` (True): whether it changes anything. `idempotent` (False): whether running it twice with the same
    `ToolContext.idempotency_key` is as good as once. Both decide what happens when a node dies while it runs.
    `interruptible` (False): whether it may be cancelled when the user starts to speak.
    `timeout_s`: seconds for one run; absent: `limits.tool_timeout_s`.
    `retries` (0): further runs after `RetryableToolError`, a connection error or a time-out; only for tools without
    side effects or that are idempotent.
    `max_concurrency`: runs at once in this process; others wait for at most `limits.tool_queue_s`.
    `approval` ("never"): "always" when a person must approve each call, within `approval_timeout_s` seconds.
    `tenants`: who is offered it; absent: all. `scopes`: what the user's token must have, all of them.

    Raises ToolDeclarationError when something of this is wrong.
    """
    if function is not None:
        setattr(function, _MARK, _declare(function, {}))
        return function

    def decorate(decorated: F) -> F:
        setattr(decorated, _MARK, _declare(decorated, options))
        return decorated

    return decorate


def declared(value: object) -> Tool | None:
    """The tool that was made of a function, None for anything else."""
    found = getattr(value, _MARK, None) if inspect.isroutine(value) else None
    return found if isinstance(found, Tool) else None


def _declare(function: Any, options: Mapping[str, Any]) -> Tool:
    if not inspect.isroutine(function):
        raise ToolDeclarationError(f"@tool: {function!r} is no function")
    source = f"{function.__module__}.{function.__qualname__}"

    def refuse(text: str) -> ToolDeclarationError:
        return ToolDeclarationError(f"{source}: {text}")

    name = options.get("name") or function.__name__
    if not isinstance(name, str) or not is_tool_name(name):
        raise refuse(f"the name {name!r} is none that providers accept: 1 to 64 of A-Z a-z 0-9 _ -; give @tool a name=")
    description = options.get("description") or inspect.getdoc(function)
    if not isinstance(description, str) or not description.strip():
        raise refuse("a model needs a description: write a docstring, or give @tool a description=")
    if len(description) > _DESCRIPTION_CHARS:
        raise refuse(f"the description is longer than {_DESCRIPTION_CHARS} characters; give @tool a shorter one")
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise refuse("a tool returns its result, it does not yield; report what comes before with ToolContext.progress")
    _check_options(options, refuse)
    model, context_name = _model_of(function, refuse)
    run, run_in_thread = _runners(function, context_name)
    given = {key: value for key, value in options.items() if key not in ("name", "description", "tenants", "scopes")}
    return Tool(
        name=name,
        description=description.strip(),
        parameters=_schema_of(model, refuse),
        validate=_validator(model),
        run=run,
        run_in_thread=run_in_thread,
        source=source,
        tenants=None if options.get("tenants") is None else frozenset(options["tenants"]),
        scopes=frozenset(options.get("scopes") or ()),
        **given,
    )


# --- the options --------------------------------------------------------------------------------------------------


def _check_options(options: Mapping[str, Any], refuse: Callable[[str], ToolDeclarationError]) -> None:
    for key in ("side_effect", "idempotent", "interruptible"):
        if not isinstance(options.get(key, False), bool):
            raise refuse(f"{key} must be True or False")
    for key in ("timeout_s", "approval_timeout_s"):
        value = options.get(key)
        if value is not None and not (_is_number(value) and 0 < value <= 31_536_000):
            raise refuse(f"{key} must be a number of seconds above 0, or None")
    retries, places = options.get("retries", 0), options.get("max_concurrency")
    if not _is_number(retries, int) or not 0 <= retries <= _MAX_RETRIES:
        raise refuse(f"retries must be a whole number from 0 to {_MAX_RETRIES}")
    if places is not None and not (_is_number(places, int) and places >= 1):
        raise refuse("max_concurrency must be a whole number of at least 1, or None")
    if retries and options.get("side_effect", True) and not options.get("idempotent", False):
        raise refuse(
            "retries need a tool that may run twice: declare side_effect=False, or idempotent=True when a repeated "
            "ToolContext.idempotency_key is recognised"
        )
    if options.get("approval", "never") not in ("never", "always"):
        raise refuse('approval must be "never" or "always"')
    if options.get("approval_timeout_s") is not None and options.get("approval", "never") == "never":
        raise refuse('approval_timeout_s needs approval="always"')
    for key in ("tenants", "scopes"):
        names = options.get(key)
        if names is not None and (isinstance(names, str) or not all(isinstance(name, str) for name in names)):
            raise refuse(f"{key} must be a list of texts")


def _is_number(value: object, kind: Any = int | float) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


# --- the parameters -----------------------------------------------------------------------------------------------


def _model_of(function: Any, refuse: Callable[[str], ToolDeclarationError]) -> tuple[type[BaseModel], str | None]:
    """A model whose fields are the function's parameters, and the name of the parameter for the context."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception as error:
        raise refuse(f"its annotations cannot be read: {error}") from None
    fields: dict[str, Any] = {}
    context_name: str | None = None
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise refuse(
                f"the parameter '{parameter.name}' has no name that a model could give: *, ** and / are not possible"
            )
        annotation = hints.get(parameter.name)
        if annotation is None and parameter.name not in hints:
            raise refuse(f"the parameter '{parameter.name}' needs an annotation")
        if _is_context(annotation):
            if context_name is not None:
                raise refuse("only one parameter can be the ToolContext")
            context_name = parameter.name
            continue
        if parameter.name.startswith("_"):
            raise refuse(f"the parameter '{parameter.name}' must not begin with _")
        default = parameter.default
        fields[parameter.name] = (annotation, ... if default is inspect.Parameter.empty else default)
        if isinstance(default, FieldInfo) and default.alias is not None:
            raise refuse(f"the parameter '{parameter.name}' cannot have an alias")
    # The fields' own names may be any; attributes of BaseModel ("copy", "json") are shadowed by them on purpose.
    config = ConfigDict(extra="forbid", protected_namespaces=(), arbitrary_types_allowed=False)
    try:
        return _quietly(lambda: create_model("Arguments", __config__=config, **fields)), context_name
    except (PydanticUserError, TypeError, NameError, ValueError) as error:
        raise refuse(f"its parameters cannot be described: {_first_line(error)}") from None


def _quietly(make: Callable[[], type[BaseModel]]) -> type[BaseModel]:
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*shadows an attribute.*", category=UserWarning)
        return make()


def _is_context(annotation: Any) -> bool:
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return any(_is_context(part) for part in typing.get_args(annotation))
    return annotation is ToolContext


def _schema_of(model: type[BaseModel], refuse: Callable[[str], ToolDeclarationError]) -> dict[str, Any]:
    try:
        schema = model.model_json_schema()
    except PydanticUserError as error:
        raise refuse(f"a parameter has no JSON Schema: {_first_line(error)}") from None
    plain = _without_titles(schema)
    assert isinstance(plain, dict), "made of a table"
    return {"type": "object", "properties": {}, **plain}


def _without_titles(schema: Any, *, is_names: bool = False) -> Any:
    """Without the titles that pydantic makes of names: they cost tokens and say nothing. ``is_names``: the table's
    keys are names of parameters, of which one may be called "title"."""
    if isinstance(schema, list):
        return [_without_titles(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: value
        if key in ("default", "const", "enum", "examples") and not is_names
        else _without_titles(value, is_names=key in ("properties", "$defs") and not is_names)
        for key, value in schema.items()
        if is_names or key != "title" or not isinstance(value, str)
    }


def _validator(model: type[BaseModel]) -> Validate:
    def validate(arguments: Mapping[str, Any]) -> dict[str, Any]:
        try:
            valid = model.model_validate(arguments)
        except ValidationError as error:
            raise InvalidArguments(_in_words(error)) from None
        # Not model_dump: parameters that are models are handed over as models. Defaults included.
        return {name: valid.__dict__[name] for name in model.model_fields}

    return validate


def _in_words(error: ValidationError) -> str:
    details = error.errors(include_url=False, include_context=False)
    lines = []
    for each in details[:_SHOWN_FAULTS]:
        path = ".".join(map(str, each["loc"])) or "arguments"
        match each["type"]:
            case "missing":
                lines.append(f"{path}: missing")
            case "extra_forbidden":
                lines.append(f"{path}: there is no such parameter")
            case _:
                shown = repr(each["input"])
                shown = shown if len(shown) <= _SHOWN_CHARS else f"{shown[:_SHOWN_CHARS]}…"
                lines.append(f"{path}: {each['msg']}; it was {shown}")
    if len(details) > _SHOWN_FAULTS:
        lines.append(f"and {len(details) - _SHOWN_FAULTS} more")
    return "the arguments are not valid: " + "; ".join(lines)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _runners(function: Any, context_name: str | None) -> tuple[Run | None, RunInThread | None]:
    def call(arguments: dict[str, Any], context: ToolContext) -> Any:
        if context_name is not None:
            return function(**arguments, **{context_name: context})
        return function(**arguments)

    if not inspect.iscoroutinefunction(function):
        return None, call

    async def run(arguments: dict[str, Any], context: ToolContext) -> Any:
        return await call(arguments, context)

    return run, None
