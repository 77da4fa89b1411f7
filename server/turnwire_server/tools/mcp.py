"""One session with one MCP server, over stdio or streamable HTTP. The only file that knows the MCP client.

The client's sessions stand on cancel scopes: a session is opened, used and closed in one task, that of `mcp_servers`.
What comes out of here are plain values and our own errors; what tools are made of it is decided in `mcp_tools`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TextIO

import anyio
import httpx2
import mcp_types as types
from mcp.client.client import Client
from mcp.client.session import IncomingMessage
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from turnwire_server.settings import McpServerSettings
from turnwire_server.settings.tools import filled_in

from .context import Progress
from .errors import ToolEffectUnknown, ToolError
from .mcp_tools import McpAnswer, McpTool

logger = logging.getLogger(__name__)

_CONNECT_S = 10.0
# How long a server may be silent in mid-answer; the time of a call is the executor's business and usually shorter.
_READ_S = 600.0
_SSE_EVENT_BYTES = 8 * 1024 * 1024
_PAGES = 20
_STDERR_BYTES = 4096
_INFO = types.Implementation(name="turnwire", version="1")


class McpUnavailable(Exception):
    """The server cannot be reached, or does not speak as it should. The text is for the operator."""


class McpSession:
    """An open session. ``ended`` is set when the server is gone; ``changed`` when it says that its tools have."""

    def __init__(self, client: Client, ended: asyncio.Event, changed: asyncio.Event) -> None:
        self._client = client
        self.ended = ended
        self.changed = changed

    async def tools(self, most: int) -> list[McpTool]:
        """The server's tools, at most so many. Raises `McpUnavailable`."""
        found: list[McpTool] = []
        cursor: str | None = None
        try:
            for _ in range(_PAGES):
                page = await self._client.list_tools(cursor=cursor)
                found += map(_tool, page.tools)
                cursor = page.next_cursor
                if cursor is None or len(found) >= most:
                    break
        except (MCPError, ValueError) as error:
            raise McpUnavailable(f"it does not list its tools: {_in_words(error)}") from error
        if len(found) > most:
            logger.warning("an MCP server lists more than %d tools; the others are left out", most)
        return found[:most]

    async def call(self, name: str, arguments: dict[str, Any], report: Progress) -> McpAnswer:
        """Call a tool. Cancelling this tells the server so. Raises `ToolError`, or `ToolEffectUnknown` when the
        server was lost."""

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            report(progress / total if total else None, message)

        try:
            result = await self._client.call_tool(name, arguments, progress_callback=on_progress)
        except MCPError as error:
            if error.code == types.CONNECTION_CLOSED:
                raise ToolEffectUnknown("the server of the tool was lost while it ran; its effect is unknown") from None
            raise ToolError(error.message) from None
        except (RuntimeError, ValueError) as error:
            logger.warning("tool %s of an MCP server answered wrongly: %s", name, error)
            raise ToolError("the tool ran to its end, but its answer is not what it should be") from None
        content = [block.model_dump(mode="json", by_alias=True, exclude_none=True) for block in result.content]
        return McpAnswer(content, result.structured_content, result.is_error)


@asynccontextmanager
async def connected(server: McpServerSettings, environ: Mapping[str, str]) -> AsyncIterator[McpSession]:
    """A session with the server, and the server itself where it is a program of ours. Stay in one task.

    Raises `McpUnavailable`, also out of the block, which is cancelled when the connection breaks. Leaving the block
    ends the program; the time that takes is bounded.
    """
    stderr = _Stderr(server.name)
    ended, changed = asyncio.Event(), asyncio.Event()

    async def on_message(message: IncomingMessage) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            changed.set()

    transport = _stdio(server, environ, stderr) if server.command is not None else _http(server, environ)
    try:
        async with Client(
            _Watched(transport, ended), client_info=_INFO, message_handler=on_message, cache=None
        ) as client:
            yield McpSession(client, ended, changed)
    except McpUnavailable:
        raise
    except Exception as error:  # also the groups in which the client's tasks raise
        said = f"; it said: {stderr.last_line}" if stderr.last_line else ""
        raise McpUnavailable(f"{_in_words(error)}{said}") from error


def _tool(tool: types.Tool) -> McpTool:
    hints = tool.annotations or types.ToolAnnotations()
    return McpTool(
        name=tool.name,
        description=tool.description or tool.title or "",
        schema=tool.input_schema,
        read_only=hints.read_only_hint,
        destructive=hints.destructive_hint,
        idempotent=hints.idempotent_hint,
    )


def _in_words(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    match error:
        case OSError(errno=int(number)):
            return os.strerror(number)
        case httpx2.HTTPError():
            return f"{type(error).__name__}: {error}"
        case MCPError():
            return error.message
    return f"{type(error).__name__}: {error}"


# --- transports ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _stdio(server: McpServerSettings, environ: Mapping[str, str], stderr: _Stderr) -> AsyncIterator[Any]:
    assert server.command is not None
    env = {name: filled_in(value.get_secret_value(), environ) for name, value in server.env.items()}
    parameters = StdioServerParameters(command=server.command, args=list(server.args), env=env)
    async with stderr.opened() as errlog, stdio_client(parameters, errlog=errlog) as streams:
        errlog.close()  # the program has its own copy: what is read ends with it
        yield streams


@asynccontextmanager
async def _http(server: McpServerSettings, environ: Mapping[str, str]) -> AsyncIterator[Any]:
    assert server.url is not None
    headers = {name: filled_in(value.get_secret_value(), environ) for name, value in server.headers.items()}
    timeout = httpx2.Timeout(_CONNECT_S, read=_READ_S)
    async with (
        httpx2.AsyncClient(headers=headers, timeout=timeout) as client,
        streamable_http_client(
            filled_in(server.url, environ), http_client=client, max_sse_event_size=_SSE_EVENT_BYTES
        ) as streams,
    ):
        yield streams


class _Watched:
    """A transport that sets ``ended`` when nothing more will come; the client itself tells nobody."""

    def __init__(self, transport: Any, ended: asyncio.Event) -> None:
        self._transport = transport
        self._ended = ended

    async def __aenter__(self) -> tuple[Any, Any]:
        read, write = await self._transport.__aenter__()
        return _WatchedStream(read, self._ended), write

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._ended.set()
        done: bool | None = await self._transport.__aexit__(kind, error, trace)
        return done


class _WatchedStream:
    def __init__(self, stream: Any, ended: asyncio.Event) -> None:
        self._stream = stream
        self._ended = ended

    @property
    def last_context(self) -> Any:
        return getattr(self._stream, "last_context", None)

    async def receive(self) -> Any:
        return await self._telling(self._stream.receive)

    async def __anext__(self) -> Any:
        return await self._telling(self._stream.__anext__)

    def __aiter__(self) -> Self:
        return self

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        done: bool | None = await self._stream.__aexit__(kind, error, trace)
        return done

    async def _telling(self, receive: Callable[[], Awaitable[Any]]) -> Any:
        try:
            return await receive()
        except (StopAsyncIteration, anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            self._ended.set()
            raise


class _Stderr(asyncio.Protocol):
    """What a program says on its standard error: to the log at level debug, where secrets are taken out."""

    def __init__(self, name: str) -> None:
        self.last_line = ""
        self._name = name
        self._rest = b""

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[TextIO]:
        reading, writing = os.pipe()
        errlog = os.fdopen(writing, "w")
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: self, os.fdopen(reading, "rb"))
        try:
            yield errlog
        finally:
            errlog.close()
            transport.close()

    def data_received(self, data: bytes) -> None:
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[-_STDERR_BYTES:]
        for line in lines:
            text = line.decode("utf-8", "replace").strip()[:_STDERR_BYTES]
            if text:
                self.last_line = text
                logger.debug("MCP server %s says: %s", self._name, text)
