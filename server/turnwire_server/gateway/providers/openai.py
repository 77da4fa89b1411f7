"""Any server that speaks the OpenAI chat protocol, through the openai SDK and its aiohttp transport.

The SDK makes the request, the credentials and the headers; its own stream is not used. The raw bytes are
split and decoded here, which costs a tenth (DESIGN: the hot path), and nothing underneath retries: attempts
are counted by the turn. One HTTP client per deployment, shared by its streams.

Above: `gateway.router`. Beside: `chat_chunks` decodes, `openai_faults` names what went wrong.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import anyio
import httpx2
import openai
import openai.resources.chat.chat  # the SDK would load it at the first request, while everybody else waits
from openai import AsyncOpenAI, DefaultAioHttpClient

from turnwire_server.gateway.credentials import Credential
from turnwire_server.gateway.deadline import Deadline
from turnwire_server.gateway.errors import ProviderError, ProviderErrorKind
from turnwire_server.gateway.provider import Chunk, ChunkStream, ModelRequest, Take, Usage, pull
from turnwire_server.gateway.providers.chat_chunks import ChatDecoder
from turnwire_server.gateway.providers.openai_faults import Faults
from turnwire_server.gateway.providers.pushed import PushedBody
from turnwire_server.settings import Deployment

OPENAI_URL = "https://api.openai.com/v1"

KEEPALIVE_S = 4.0
"""Unused connections are dropped before the server drops them (uvicorn does after 5 s): a request sent into a
connection that is just being closed is lost, and nothing here sends it again."""

USAGE_WAIT_S = 2.0
"""After the finish reason only the usage is missing; a server that leaves it out must not hold the answer."""

DRAIN_S = 0.1
"""After `[DONE]` the end of the body is already on its way; with it the connection can be used again."""

CLOSE_S = 1.0
"""Closing a socket does not wait for the other side; this only bounds what a library might do besides."""


class OpenAIProvider:
    """A deployment at an OpenAI-compatible server. Close it with `aclose` when no stream is open any more."""

    def __init__(self, deployment: Deployment, credential: Credential) -> None:
        self._deployment = deployment
        self._credential = credential
        self._faults = Faults(deployment.name, credential)
        self._client = client_for(deployment)
        base_url = deployment.base_url or OPENAI_URL
        # OpenAI's newer models refuse the old name, most other servers know no other.
        self._limit_field = "max_completion_tokens" if _is_openai(base_url) else "max_tokens"

    def __repr__(self) -> str:
        return f"OpenAIProvider({self._deployment.name!r}, model={self._deployment.model!r})"

    @property
    def deployment(self) -> Deployment:
        return self._deployment

    def stream(self, request: ModelRequest) -> ChunkStream:
        """As `Provider.stream`."""
        return _ChatStream(self._client, self._deployment, self._credential, self._faults, self._arguments_for(request))

    async def aclose(self) -> None:
        """As `Provider.aclose`."""
        await self._client.close()

    def _arguments_for(self, request: ModelRequest) -> dict[str, Any]:
        body: dict[str, Any] = {"messages": request.messages}
        if request.tools:
            body["tools"] = request.tools
        if request.max_output_tokens is not None:
            body[self._limit_field] = request.max_output_tokens
        if request.output_schema is not None:
            schema = {"name": "answer", "schema": request.output_schema}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        if request.user is not None:
            body["user"] = request.user
        return {
            "model": self._deployment.model,
            "stream": True,
            "stream_options": {"include_usage": True},
            # The SDK walks every message of an argument through its type hints, 0.1 ms each, and changes
            # nothing; what is in `extra_body` it takes as it is.
            "messages": [],
            "extra_body": body,
        }


class _ChatStream:
    """One call: a context manager around the connection, and the iterator of its chunks."""

    def __init__(
        self,
        client: AsyncOpenAI,
        deployment: Deployment,
        credential: Credential,
        faults: Faults,
        arguments: dict[str, Any],
    ) -> None:
        self._client = client
        self._deployment = deployment
        self._credential = credential
        self._faults = faults
        self._arguments = arguments
        self._exit = AsyncExitStack()
        self._failure: ProviderError | None = None
        self._anything_came = False
        self._is_answering = False
        self._idle_s = deployment.idle_timeout_s
        self._at_end = False
        # Set when entered:
        self._deadline: Deadline
        self._decoder: ChatDecoder
        self._body: PushedBody | None
        self._more: Callable[[], Awaitable[bytes]]
        self._total_at = 0.0
        self._wait_until = 0.0

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except BaseException:
            await self._exit.aclose()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._exit.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Chunk]:
        while True:
            if self._failure is not None:
                raise self._failure
            if self._at_end:
                raise StopAsyncIteration
            if chunks := self._decoded(await self._in_time(self._more) or None):
                return chunks

    async def pump(self, take: Take) -> bool:
        """As `provider.pump`. While nothing else has to be waited for, no task is woken for what comes."""
        while self._body is not None:
            if self._body.has_news or self._at_end or self._failure is not None:
                chunks = await anext(self, None)
                if chunks is None or not take(chunks):
                    return chunks is None
            elif not await self._push(self._body, take):
                return False
        return await pull(self, take)

    async def _push(self, body: PushedBody, take: Take) -> bool:
        """Until somebody has to look: False when ``take`` wants no more."""
        raised: Exception | None = None
        goes_on = True

        def taken(data: bytes) -> bool:
            nonlocal raised, goes_on
            try:
                if chunks := self._decoded(data):
                    goes_on = take(chunks)
            except Exception as error:
                raised = error
                return False
            return goes_on and not self._at_end and self._failure is None

        async def pushed() -> bytes:
            await body.push(taken)
            return b"more"

        if await self._in_time(pushed) is None and (chunks := self._decoded(None)):
            goes_on = take(chunks)
        if raised is not None:
            raise raised
        return goes_on

    def _decoded(self, data: bytes | None) -> list[Chunk]:
        """What the next bytes say, or the end."""
        decoder = self._decoder
        if data is not None:
            chunks = decoder.feed(data)
            self._anything_came = True
        else:
            chunks = decoder.end()
            self._at_end = True
        if chunks:
            self._note_progress(chunks)
        if data is None or decoder.finished or decoder.done or decoder.failure is not None:
            self._judge()
        return chunks

    async def _open(self) -> None:
        limits = self._deployment
        self._deadline = Deadline()
        self._exit.callback(self._deadline.close)
        now = self._deadline.now()
        self._total_at = now + limits.total_timeout_s
        self._wait_until = now + limits.first_token_timeout_s
        response = await self._send(min(self._wait_until, self._total_at))
        content_type = response.headers.get("content-type", "")
        self._decoder = ChatDecoder(is_json=content_type.startswith("application/json"))
        self._body = _body_of(response)
        self._more = self._body.read if self._body is not None else _decompressed(response)
        self._exit.push_async_callback(self._close, response)  # no await since the response came

    async def _send(self, until: float) -> httpx2.Response:
        key = await self._credential.get()
        # Said with each request, so that no key from the environment gets in its place.
        self._arguments["extra_headers"] = {"Authorization": f"Bearer {key}" if key else openai.Omit()}
        try:
            return await self._request(until)
        except ProviderError as error:
            if error.kind is ProviderErrorKind.AUTH and await self._credential.is_renewed(key):
                error.retryable = True  # with another key it may be taken
            raise

    async def _request(self, until: float) -> httpx2.Response:
        # Left open here on purpose: `_close` closes the response that it returns.
        sending = self._client.chat.completions.with_streaming_response.create(**self._arguments)
        self._deadline.begin(until)
        try:
            response: httpx2.Response = (await sending.__aenter__()).http_response
            return response
        except asyncio.CancelledError:
            if self._deadline.is_mine():
                raise self._too_late() from None
            raise
        except Exception as error:
            timeout_s = self._deployment.connect_timeout_s
            raise self._faults.from_opening(error, connect_timeout_s=timeout_s) from error
        finally:
            self._deadline.end()

    async def _in_time(self, wait: Callable[[], Awaitable[bytes]]) -> bytes | None:
        """What ``wait`` gives, if it does in time. Once the answer is whole, every failure is its end: None."""
        self._deadline.begin(min(self._wait_until, self._total_at))
        try:
            return await wait()
        except asyncio.CancelledError:
            if not self._deadline.is_mine():
                raise
            error = self._too_late()
        except Exception as failure:
            error = self._faults.from_reading(failure)
            error.__cause__ = failure
        finally:
            self._deadline.end()
        if self._decoder.finished:
            return None
        raise error

    def _note_progress(self, chunks: list[Chunk]) -> None:
        """Moves the time limit. Only what the model says counts: a comment that keeps the connection alive,
        or an empty first delta, is not a token."""
        if self._decoder.finished:
            until = self._deadline.now() + min(USAGE_WAIT_S, self._deployment.idle_timeout_s)
        elif chunks[0].__class__ is not Usage or any(chunk.__class__ is not Usage for chunk in chunks):
            until = self._deadline.now() + self._idle_s
            self._is_answering = True
        else:
            return
        self._wait_until = until
        self._deadline.move(until if until < self._total_at else self._total_at)

    def _judge(self) -> None:
        """Decides whether the stream is over, and how."""
        decoder = self._decoder
        if decoder.done:
            self._at_end = True
        if decoder.finished:
            self._at_end = self._at_end or decoder.failure is not None
        elif decoder.failure is not None:
            self._failure = self._faults.from_stream(decoder.failure)
        elif self._at_end:
            self._failure = self._faults.cut(anything_came=self._anything_came)

    def _too_late(self) -> ProviderError:
        if self._deadline.now() >= self._total_at:
            return self._faults.timed_out("did not finish", self._deployment.total_timeout_s)
        if not self._is_answering:
            return self._faults.timed_out("did not send a first token", self._deployment.first_token_timeout_s)
        return self._faults.timed_out("fell silent and sent no token", self._idle_s)

    async def _close(self, response: httpx2.Response) -> None:
        """Gives the connection back when the body has been read to its end, else closes the socket.

        The transport drops the connection before it awaits anything, so a cancelled caller closes it too.
        """
        with anyio.move_on_after(CLOSE_S, shield=True):
            if self._decoder.done:
                await self._drain()
            await response.aclose()

    async def _drain(self) -> None:
        with anyio.move_on_after(DRAIN_S):
            try:
                while await self._more():
                    pass
            except Exception:  # noqa: S110 the answer is whole; what comes after it changes nothing
                pass


def _body_of(response: httpx2.Response) -> PushedBody | None:
    """What gives the bytes of a body as they come; None when they are compressed, which was not asked for.

    Between the socket and an answer's iterator lie three generators, which cost more per token than the socket does:
    they are passed by.
    """
    if response.headers.get("content-encoding", "identity") != "identity":
        return None
    below: Any = response.stream
    return PushedBody(below._stream._aiohttp_response.content)


def _decompressed(response: httpx2.Response) -> Callable[[], Awaitable[bytes]]:
    pieces = response.aiter_bytes()

    async def read() -> bytes:
        return await anext(pieces, b"")

    return read


def client_for(deployment: Deployment) -> AsyncOpenAI:
    base_url = deployment.base_url or OPENAI_URL
    # Every wait but connecting is timed here, by `Deadline`.
    timeout = httpx2.Timeout(None, connect=deployment.connect_timeout_s, pool=deployment.connect_timeout_s)
    # How many calls there are at once is the router's to say. To aiohttp 0 is no limit, and None its own of 100.
    limits = httpx2.Limits(max_connections=0, keepalive_expiry=KEEPALIVE_S)
    client = AsyncOpenAI(
        # The key goes with each request. Given none here, the SDK falls back to OPENAI_API_KEY and would send OpenAI's
        # key elsewhere.
        api_key="",
        base_url=base_url,
        max_retries=0,
        timeout=timeout,
        default_headers={"Accept-Encoding": "identity"},  # compression would hold tokens back
        http_client=DefaultAioHttpClient(timeout=timeout, limits=limits, verify=_trusted()),
        _enforce_credentials=False,
    )
    if not _is_openai(base_url):
        client.organization = client.project = None  # read from the environment, meant for OpenAI alone
    return client


@functools.cache
def _trusted() -> ssl.SSLContext:
    """Whom TLS connections trust. All deployments share it: to read the system's certificates costs some 30 ms of a
    core and 0.8 MB, each time."""
    return httpx2.create_ssl_context()


def _is_openai(base_url: str) -> bool:
    host = urlsplit(base_url).hostname or ""
    return host == "api.openai.com" or host.endswith(".api.openai.com")


__all__ = ["OpenAIProvider"]
