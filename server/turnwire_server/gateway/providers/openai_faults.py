"""Maps what can go wrong with an OpenAI-compatible server to the five kinds of `ProviderError`.

The one place that knows status codes and the exceptions of the HTTP libraries. Messages name the deployment
and say what can be done about it; they quote the server's own words, trimmed, with anything that looks like a
key taken out, because some servers repeat the key they were given.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import httpx2
import openai

from turnwire_server.gateway.credentials import Credential
from turnwire_server.gateway.errors import Blame, ProviderError, ProviderErrorKind
from turnwire_server.gateway.providers.chat_chunks import ErrorInStream, MalformedStream

logger = logging.getLogger(__name__)

QUOTE_CHARS = 300
_KEY = re.compile(r"\b(?:sk|pk|key|gsk|xai)[-_][\w*.-]{6,}|(?i:\bbearer\s+)\S+", re.ASCII)
_AUTH = (401, 403)


class Faults:
    """Makes the errors of one deployment."""

    def __init__(self, name: str, credential: Credential) -> None:
        self._name = name
        self._credential = credential

    def timed_out(self, limit: str, seconds: float) -> ProviderError:
        """One of the time limits of the deployment passed; `limit` says for what it was."""
        return ProviderError(
            ProviderErrorKind.TIMEOUT,
            f"The model at deployment '{self._name}' {limit} within {seconds:g} s. Please try again.",
            retryable=True,
        )

    def cut(self, *, anything_came: bool) -> ProviderError:
        what = "stopped in the middle of its answer" if anything_came else "sent an empty answer"
        return ProviderError(
            ProviderErrorKind.CUT,
            f"The model at deployment '{self._name}' {what}. Please try again.",
            retryable=True,
        )

    def from_stream(self, failure: MalformedStream | ErrorInStream) -> ProviderError:
        """For what the decoder found inside an answer that had begun with status 200."""
        if isinstance(failure, ErrorInStream):
            return self._reported(failure.error)
        return ProviderError(
            ProviderErrorKind.ERROR,
            f"The model at deployment '{self._name}' sent a malformed stream ({failure}). Please try again.",
            retryable=True,
        )

    def from_opening(self, error: BaseException, *, connect_timeout_s: float) -> ProviderError:
        """For an exception before the answer had begun."""
        if isinstance(error, openai.APIStatusError):
            status, headers = error.status_code, error.response.headers
            return self._from_status(status, error.body or error.response.text, headers)
        causes = list(_chain(error))
        # The transport reports a lost connection as a timeout as well: only what aiohttp raised tells.
        if any(isinstance(cause, aiohttp.ServerTimeoutError | asyncio.TimeoutError) for cause in causes):
            return self.timed_out("could not be connected to", connect_timeout_s)
        if any(isinstance(cause, aiohttp.ClientConnectorError) for cause in causes):
            return self._unreachable("could not be connected to")
        if any(isinstance(cause, aiohttp.ClientError | httpx2.HTTPError | OSError) for cause in causes):
            return self._unreachable("closed the connection before it answered")
        return self._unexpected(error)

    def from_reading(self, error: BaseException) -> ProviderError:
        """For an exception after the answer had begun."""
        causes = list(_chain(error))
        if any(isinstance(cause, httpx2.DecodingError) for cause in causes):
            return self.from_stream(MalformedStream("its compression is broken"))
        if any(isinstance(cause, aiohttp.ClientError | httpx2.HTTPError | OSError) for cause in causes):
            return self.cut(anything_came=True)
        return self._unexpected(error)

    def _unreachable(self, what: str) -> ProviderError:
        return ProviderError(
            ProviderErrorKind.ERROR,
            f"The model at deployment '{self._name}' {what}. Please try again.",
            retryable=True,
        )

    def _unexpected(self, error: BaseException) -> ProviderError:
        logger.error("deployment %s failed unexpectedly", self._name, exc_info=error)
        return ProviderError(
            ProviderErrorKind.ERROR,
            f"The call of the model at deployment '{self._name}' failed unexpectedly "
            f"({type(error).__name__}); the server's log says more.",
            retryable=True,
        )

    def _reported(self, error: Any) -> ProviderError:
        """An error object inside a stream: it has no status, but often a code that says the same."""
        status = _status_of(error)
        return self._from_status(status, error, {})

    def _from_status(self, status: int | None, body: Any, headers: Mapping[str, str]) -> ProviderError:
        said = self._quote(body)
        shown = f" (HTTP {status}){said}" if status is not None else said
        if status in _AUTH:
            where = f" Check the key in {self._credential.where}." if self._credential.where else ""
            return ProviderError(
                ProviderErrorKind.AUTH,
                f"The provider of deployment '{self._name}' refused the credentials{shown}.{where}",
                retryable=False,
            )
        if status == 429:
            return self._rate_limited(shown, body, headers)
        if status == 408:
            return ProviderError(
                ProviderErrorKind.TIMEOUT,
                f"The provider of deployment '{self._name}' ran out of time{shown}. Please try again.",
                retryable=True,
            )
        if status is not None and 400 <= status < 500:
            return ProviderError(
                ProviderErrorKind.ERROR,
                f"The provider of deployment '{self._name}' refused the request{shown}.",
                retryable=False,
                blame=_blame(status, body),
            )
        return ProviderError(
            ProviderErrorKind.ERROR,
            f"The provider of deployment '{self._name}' failed{shown}. Please try again.",
            retryable=True,
            retry_after_s=retry_after(headers),
        )

    def _rate_limited(self, shown: str, body: Any, headers: Mapping[str, str]) -> ProviderError:
        after = retry_after(headers)
        # An exhausted account stays exhausted, however long one waits.
        exhausted = isinstance(body, dict) and "insufficient_quota" in (body.get("code"), body.get("type"))
        wait = "" if exhausted else f" Try again in {after:g} s." if after else " Please try again later."
        return ProviderError(
            ProviderErrorKind.RATE_LIMITED,
            f"The provider of deployment '{self._name}' takes no more requests for now{shown}.{wait}",
            retryable=not exhausted,
            retry_after_s=after,
        )

    def _quote(self, body: Any) -> str:
        text = " ".join(_words_of(body).split())
        text = _KEY.sub("***", self._credential.hide(text))
        if len(text) > QUOTE_CHARS:
            text = text[: QUOTE_CHARS - 1] + "…"
        return f": {text.rstrip('.')}" if text else ""


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that the headers ask to wait, from any of the three spellings in use."""
    try:
        if (ms := headers.get("retry-after-ms")) is not None:
            return max(0.0, float(ms) / 1000)
        value = headers.get("retry-after")
        if value is None:
            return None
        if value.strip().replace(".", "", 1).isdigit():
            return float(value)
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _words_of(body: Any) -> str:
    """The sentence in an error body; servers put it in different places."""
    for _ in range(3):
        if not isinstance(body, dict):
            break
        body = body.get("message") or body.get("error") or body.get("detail") or ""
    return body if isinstance(body, str) else ""


_STATUS_WORDS = {
    "rate_limit": 429,
    "insufficient_quota": 429,
    "too_many_requests": 429,
    "authentication": 401,
    "invalid_api_key": 401,
    "permission": 403,
    "timeout": 408,
    "invalid_request": 400,
    "context_length": 400,
    "content_filter": 400,
    "server_error": 500,
    "overloaded": 503,
}


def _status_of(error: Any) -> int | None:
    """The HTTP status that an error object would have had, had it come in time."""
    if not isinstance(error, dict):
        return None
    for field in ("status", "code", "status_code"):
        value = error.get(field)
        if isinstance(value, str) and value.isdigit():
            value = int(value)
        if isinstance(value, int) and 400 <= value < 600:
            return value
    words = f"{error.get('code')} {error.get('type')}".lower()
    return next((status for word, status in _STATUS_WORDS.items() if word in words), None)


# Of a model that is not there, an address that is wrong, a method that is not known: another deployment has others.
_OF_THE_DEPLOYMENT = (402, 404, 405, 409, 410, 421, 423, 424, 425, 426)
_TOO_LONG = re.compile(
    r"context_length|context length|context window|maximum context|too many tokens|prompt is too long|input is too long"
    r"|reduce the length|exceeds? the (?:model'?s )?(?:maximum|limit of) .*tokens",
    re.IGNORECASE,
)
_REFUSED = re.compile(
    r"content_filter|content_policy|content management policy|content policy|responsible_?ai|safety_violation"
    r"|moderation",
    re.IGNORECASE,
)


def _blame(status: int, body: Any) -> Blame:
    """Whose fault a refused request is. Servers that speak the same protocol agree on few codes, so their words are
    looked at as well; what is not understood is taken for the request's own fault, which asks nobody else."""
    if status == 413:
        return Blame.CONTEXT
    if status in _OF_THE_DEPLOYMENT:
        return Blame.DEPLOYMENT
    said = f"{_code_of(body)} {_words_of(body)}"
    if _TOO_LONG.search(said):
        return Blame.CONTEXT
    return Blame.CONTENT if _REFUSED.search(said) else Blame.REQUEST


def _code_of(body: Any) -> str:
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        body = body["error"]
    if not isinstance(body, dict):
        return ""
    inner = body.get("innererror")
    return f"{body.get('code')} {body.get('type')} {inner.get('code') if isinstance(inner, dict) else ''}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
