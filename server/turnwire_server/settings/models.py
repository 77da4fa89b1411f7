"""`[[deployments]]`, `[[routes]]` and `[tenants.*]`: which models there are and who gets which.

A deployment is a model at a provider with its limits and prices, a route an ordered choice of deployments,
a tenant picks a route. Keys of providers are never in the configuration, only where they are: in an
environment variable, in a file, or with a program. Whether names fit together is judged in `checks`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from turnwire_server.settings.section import Count, HttpAddress, Name, Seconds, Section
from turnwire_server.settings.tools import ToolName

Weight = Annotated[int, Field(ge=0, le=1_000)]
Price = Annotated[Decimal, Field(ge=0, le=1_000_000)]
Budget = Annotated[Decimal, Field(gt=0, le=1_000_000_000)]


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"must be a regular expression: {error}") from None
    return value


Pattern = Annotated[str, Field(min_length=1, max_length=1_000), AfterValidator(_pattern)]

Tokenizer = Literal["cl100k_base", "o200k_base", "o200k_harmony", "llama3", "qwen3", "characters"]

DEMO_MODEL = "turnwire-demo"


class Deployment(Section):
    """One model at one provider."""

    name: Name
    """Name used by routes, in events and in metrics."""
    kind: Literal["openai", "demo"] = "openai"
    """`openai`: any server that speaks the OpenAI chat protocol. `demo`: the built-in demonstration model."""
    model: Annotated[str, Field(min_length=1, max_length=256)]
    """Model name as the provider knows it. Required, except for `demo`."""
    base_url: HttpAddress | None = None
    """Address of the provider up to and including `/v1`; absent: OpenAI's own."""
    api_key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    """Name of the environment variable with the provider's key. Without it, a file and a command the provider needs
    none."""
    api_key_file: Path | None = None
    """File with the provider's key. It is read again when it has changed, and when the provider refuses the key."""
    api_key_command: Annotated[tuple[str, ...], Field(min_length=1, max_length=64)] | None = None
    """Program, with its arguments, that prints the provider's key, as `["vault", "read", "-field=key", "secret/x"]`;
    run without a shell, at the first call, after `api_key_refresh_s`, and when the provider refuses the key."""
    api_key_refresh_s: Seconds = 300
    """Seconds after which `api_key_command` is run again."""
    structured_output: bool = True
    """Whether the provider holds an answer to a JSON Schema (`response_format`). If not, the schema of a route with
    `output_schema` stands in the prompt."""
    region: Name | None = None
    """Where the provider computes. A tenant with `regions` is served from those alone."""
    features: tuple[Name, ...] = ()
    """Features that a tenant needs, all of them, for its requests to be answered by this deployment."""
    context_tokens: Count | None = None
    """Tokens the model takes, prompt and answer together. A prompt that one model finds too long goes to deployments
    that are known to take more."""
    tokenizer: Tokenizer = "cl100k_base"
    """Vocabulary that tokens are counted with where the provider does not tell them, as after a cancel; `characters`:
    none. The model's own is exact (`o200k_base` for OpenAI's models since GPT-4o) and costs 60 MB of memory. With
    another one the counts are put right by what the provider has told of earlier answers."""
    input_usd_per_mtok: Price | None = None
    """Price in US dollars per million input tokens, as a text (`"0.15"`), so that no digit is lost."""
    output_usd_per_mtok: Price | None = None
    """Price in US dollars per million output tokens."""
    cached_usd_per_mtok: Price | None = None
    """Price in US dollars per million input tokens from the provider's cache; absent: as other input."""
    max_concurrency: Count = 200
    """Streams open at once at this deployment by this process; past that the next deployment is asked, or requests
    wait, tenants in turn."""
    connect_timeout_s: Seconds = 5
    """Seconds to connect to the provider."""
    first_token_timeout_s: Seconds = 60
    """Seconds from the request to the first token; reasoning models think before they write."""
    idle_timeout_s: Seconds = 30
    """Seconds between two pieces of a stream, after which it counts as stalled."""
    total_timeout_s: Seconds = 600
    """Seconds for one whole model call."""
    breaker_failures: Count = 3
    """Failed calls in `breaker_window_s`, at least half of all in it, after which the deployment is left alone. Refused
    credentials and a request to wait (`retry-after`, a rate limit) do so at once."""
    breaker_window_s: Seconds = 30
    """Seconds that failed calls are remembered."""
    breaker_open_s: Seconds = 10
    """Seconds it is left alone at first, then one call probes it; a request that has no other deployment probes
    sooner."""
    breaker_open_most_s: Seconds = 120
    """Seconds it is left alone at most, after several probes have failed."""

    @model_validator(mode="before")
    @classmethod
    def _demo_has_one_model(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("kind") == "demo":
            return {"model": DEMO_MODEL, **data}
        return data

    @model_validator(mode="after")
    def _has_one_key(self) -> Self:
        sources = (self.api_key_env, self.api_key_file, self.api_key_command)
        if sum(source is not None for source in sources) > 1:
            raise ValueError("must have at most one of api_key_env, api_key_file and api_key_command")
        return self

    def api_key(self, environ: Mapping[str, str]) -> str | None:
        """The key that stands in the environment; None where none is needed or it comes from elsewhere. Never keep it
        in anything that is printed."""
        if self.api_key_env is None:
            return None
        return environ.get(self.api_key_env, "").strip() or None


class Route(Section):
    """An ordered choice of deployments."""

    name: Name
    """Name used by tenants and by `request.create`."""
    deployments: Annotated[tuple[Name, ...], Field(min_length=1, max_length=32)]
    """Names of deployments in the order in which they are tried."""
    weights: dict[Name, Weight] = Field(default_factory=dict)
    """Shares by which the first deployment is drawn anew for each step, `{a = 3, b = 1}`; the others, and those with 0,
    follow in their order. Absent: always in their order."""
    features: tuple[Name, ...] = ()
    """Features that a tenant needs, all of them, to use this route."""
    max_attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """Provider calls of one step, the first included; no library underneath repeats by itself."""
    budget_s: Seconds = 120
    """Seconds from a step's beginning in which its calls may begin: waits for a free place, for back-off and for
    `retry-after` count, and past it the step fails with its last error. A call that has begun has the limits of its
    deployment."""
    backoff_s: Seconds = 0.5
    """Seconds before a deployment that failed is asked again by the same step, doubled each time and drawn between half
    and all of it; another deployment is asked at once. A longer `retry-after` counts instead."""
    backoff_most_s: Seconds = 10
    """Seconds of that wait at most."""
    midstream: Literal["restart", "continue", "fail"] = "restart"
    """What happens when a stream breaks after its first token: begin the step again and take back its text, have the
    next deployment go on with it (a step that has begun a tool call is begun again), or end the turn as failed."""
    hedge_after_ms: Annotated[int, Field(ge=1, le=600_000)] | None = None
    """Milliseconds without a first token after which a second deployment is asked as well, if one has room: whoever
    speaks first answers, the other is closed and accounted as `hedge_lost`. Both count for `max_attempts`."""
    matches: Annotated[tuple[Pattern, ...], Field(max_length=1000)] = ()
    """Regular expressions (Python's, case does not matter): a request of a tenant with `classify` whose text one of
    them is found in takes this route."""
    purpose: Annotated[str, Field(max_length=2_000)] | None = None
    """What requests belong here, in words for the model that classifies them (`tenants.*.classifier`)."""
    tools: Annotated[tuple[ToolName, ...], Field(max_length=1000)] | None = None
    """Names of the tools that models may call on this route, of those that the tenant may use and of the client's own;
    absent: all, `[]`: none."""
    steps: Count | None = None
    """Model calls of a turn at most; absent: `limits.steps_per_turn`."""
    retrieval: Literal["never", "optional", "required"] = "never"
    """Whether the tenant's documents are searched before a model is asked. When they cannot be: `optional`: it is asked
    all the same, and told so; `required`: the turn ends `message.failed` with `unavailable`."""
    retrieval_tokens: Count = 2_000
    """Tokens of passages that go into a prompt at most."""
    guards: Annotated[tuple[Name, ...], Field(max_length=64)] = ()
    """Names of the guards that look at what goes in and out, in this order."""
    output_schema: dict[str, Any] | None = None
    """A JSON Schema (2020-12) that an answer on this route has to fit, as JSON. The provider is told of it where its
    deployment has `structured_output`, and the answer is checked in any case."""
    repairs: Annotated[int, Field(ge=0, le=5)] = 1
    """How often a model is asked again whose answer does not fit `output_schema`; what it said is taken back."""
    fallback: Annotated[str, Field(min_length=1, max_length=20_000)] | None = None
    """The answer in place of one that a guard has refused or that does not fit; absent: the turn ends without."""

    @field_validator("output_schema")
    @classmethod
    def _is_a_schema(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None:
            # Imported here: most configurations have no schema, and it takes a tenth of a second.
            from jsonschema import Draft202012Validator
            from jsonschema.exceptions import SchemaError

            try:
                Draft202012Validator.check_schema(value)
            except SchemaError as error:
                raise ValueError(f"must be a JSON Schema: {error.message}") from None
        return value


class GuardSettings(Section):
    """What may not be said. Routes name the guards that look at what goes in and out."""

    name: Name
    """Name used by routes and in events."""
    kind: Literal["length", "pattern", "secrets", "injection", "language", "python"]
    """What is looked for: a text longer than `max_chars`, one of `patterns`, keys and tokens as providers make them,
    the usual beginnings of prompt injections (English; a sign, not a proof), a text in none of `languages`, or what the
    function `python` finds."""
    on: Annotated[tuple[Literal["input", "output", "tools"], ...], Field(min_length=1)] = ("input", "output")
    """Where it looks: at what the user says, at what the model answers, at what tools return. An answer that a guard
    looks at is shown when it is complete, not while it is written."""
    action: Literal["refuse", "redact"] = "refuse"
    """`refuse`: the turn ends `message.incomplete` with reason `content_filter`; of a tool's output the model sees
    nothing. `redact`: what was found is blotted out."""
    max_chars: Count | None = None
    """Characters at most, of kind `length`."""
    patterns: Annotated[tuple[Pattern, ...], Field(max_length=1000)] = ()
    """Regular expressions (Python's, case does not matter), of kind `pattern`."""
    languages: Annotated[tuple[Annotated[str, Field(pattern=r"^[a-z]{2,3}$")], ...], Field(max_length=100)] = ()
    """Codes of ISO 639 (`en`, `de`), of kind `language`. A text of less than 20 letters, or that may well be in one of
    them, passes. Needs the package's extra `language`, and some 70 MB."""
    python: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] | None = None
    """`module:function`, of kind `python`: it is given the text and returns where (begin, end) something was found. It
    is called in the server's one thread and has to be quick; if it raises, the text is refused."""

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> Self:
        for kind, key in (
            ("length", "max_chars"),
            ("pattern", "patterns"),
            ("language", "languages"),
            ("python", "python"),
        ):
            if self.kind == kind and not getattr(self, key):
                raise ValueError(f"must have {key}, being of kind {kind}")
            if self.kind != kind and getattr(self, key):
                raise ValueError(f"must have {key} only with kind {kind}")
        return self


class Tenant(Section):
    """What a tenant gets. An absent key means: no system prompt, the first route, all tools, no limit of its own."""

    system_prompt: Annotated[str, Field(max_length=200_000)] | None = None
    """Text that stands before every conversation of the tenant."""
    release_by_report: bool = False
    """Whether a version of a prompt is released only with a report of `turnwire eval` that was made with it and in
    which every case has passed."""
    prompt: Name | None = None
    """Name of a prompt of the registry (`turnwire prompt`) that stands there instead of `system_prompt`, by version and
    with variables."""
    route: Name | None = None
    """Name of the tenant's route; absent: the first."""
    routes: tuple[Name, ...] | None = None
    """Names of the routes that `request.create` may choose besides `route`; absent: all that the tenant's `features`
    open, `[]`: none."""
    classify: Annotated[tuple[Name, ...], Field(max_length=32)] = ()
    """Names of the routes among which a request is sorted that asks for none: the first whose `matches` fit, else by
    the `classifier`, else `route`. It may use them all."""
    classifier: Name | None = None
    """Name of the route whose model sorts a request that no rule fits, by the `purpose` of the routes in `classify`;
    absent: rules alone."""
    regions: tuple[Name, ...] = ()
    """Regions whose deployments may serve the tenant; `[]`: all deployments, also those without a region."""
    max_context_tokens: Count | None = None
    """Tokens of prompt at most; older turns are left out first."""
    max_output_tokens: Count | None = None
    """Tokens of answer at most, per model call."""
    tools: Annotated[tuple[ToolName, ...], Field(max_length=1000)] | None = None
    """Names of the tools of the server that the tenant's models may call; absent: all that are permitted to it,
    `[]`: none. It takes away only: what a tool's own declaration does not permit stays forbidden."""
    features: tuple[Name, ...] = ()
    """Names that open deployments and routes, and are handed to the tenant's clients in `welcome.features`."""
    requests_per_minute: Count | None = None
    """New requests per minute, of all users together on all nodes; absent: no limit. Repeats cost nothing."""
    tokens_per_minute: Count | None = None
    """Tokens per minute, prompt and answer together, of all users on all nodes; absent: no limit."""
    budget_usd_per_day: Budget | None = None
    """US dollars per day (UTC) that models may cost, as a text (`"25.00"`); absent: no limit."""
    budget_usd_per_month: Budget | None = None
    """US dollars per month (UTC) that models may cost; absent: no limit."""
    connections: Count | None = None
    """Connections of the tenant to one process; absent: `limits.connections_per_tenant`."""
    connections_per_user: Count | None = None
    """Connections of one of its users to one process; absent: `limits.connections_per_user`."""
    redact: Annotated[tuple[Annotated[str, Field(max_length=256)], ...], Field(max_length=32)] = ()
    """What is hidden in the tenant's traces besides keys and tokens: `email`, `phone`, `card`, `ip`, `iban`, and
    regular expressions of your own, as `re:…`. A turn keeps what was set when it was requested."""
    suspended: bool = False
    """Refuses the tenant: its connections are closed with 4503, and its running turns end before their next model
    call."""

    @model_validator(mode="after")
    def _has_one_prompt(self) -> Self:
        if self.prompt is not None and self.system_prompt is not None:
            raise ValueError("must have at most one of system_prompt and prompt")
        return self

    @field_validator("redact")
    @classmethod
    def _can_be_used(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        # Loaded only where it is used: most configurations have none.
        from turnwire_server.telemetry.tracing.policy import check

        for entry in entries:
            if (fault := check(entry)) is not None:
                raise ValueError(f"{entry!r} {fault}")
        return entries
