"""What can go wrong with a provider, in five kinds, and whose fault it is.

Each provider maps its own failures to these kinds in its own file; above it nobody sees a status code
or an exception of an HTTP library. The values are the `provider_*` codes of `message.failed` (SPEC, events
of a request).
"""

from __future__ import annotations

from enum import Enum, StrEnum


class ProviderErrorKind(StrEnum):
    """The kinds; the value is the code on the wire."""

    AUTH = "provider_auth"
    """The provider refused the credentials."""

    RATE_LIMITED = "provider_rate_limited"
    """The provider, or the deployment's own limit, asks to wait."""

    TIMEOUT = "provider_timeout"
    """One of the deployment's time limits passed."""

    CUT = "provider_cut"
    """The stream ended before the model had finished."""

    ERROR = "provider_error"
    """Everything else: unreachable, refused the request, answered nonsense."""


class Blame(Enum):
    """Whose fault it is, which decides who is asked next (`plan`) and what is thought of the deployment (`breaker`)."""

    DEPLOYMENT = "deployment"
    """Another deployment may well answer the same request."""

    REQUEST = "request"
    """The request is wrong: nobody would answer it."""

    CONTEXT = "context_too_long"
    """The prompt does not fit: only a model with a larger context helps."""

    CONTENT = "content_refused"
    """The provider will not answer this content: it is not carried from door to door."""


class ProviderError(Exception):
    """A model call failed.

    `message` is written for a person who can act on it and holds no secrets. `retryable` says whether the
    same request may succeed later at the same deployment; `retry_after_s` is how long the provider asked to wait.
    """

    def __init__(
        self,
        kind: ProviderErrorKind,
        message: str,
        *,
        retryable: bool,
        retry_after_s: float | None = None,
        blame: Blame = Blame.DEPLOYMENT,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.blame = blame

    @property
    def reason(self) -> str:
        """Why a deployment was left, for `step.failed` and for metrics: few values, all known beforehand."""
        return self.blame.value if self.blame in (Blame.CONTEXT, Blame.CONTENT) else self.kind.value

    def __repr__(self) -> str:
        return f"ProviderError({self.kind.value}, {self.message!r}, retryable={self.retryable})"
