"""The socket that clients connect to: WebSocket through ``websockets``, everything else through `http`.

Compression is off (deltas are small and a window per connection costs 300 kB), and so is the library's keepalive: the
protocol has its own heartbeat, which also notices a client whose page is frozen.

Inside `sharing_port` the socket is opened with SO_REUSEPORT: the kernel then spreads new connections over all processes
that listen on the port that way.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import NegotiationError
from websockets.typing import Subprotocol

from turnwire_protocol import SUBPROTOCOLS, codec_for
from turnwire_server.auth import bearer_token

from .frontend import Frontend
from .http import HttpFront
from .session import Session

# Answers to a closing handshake and to an opening one are either quick or never.
_CLOSE_TIMEOUT_S = 2
# Frames read ahead of the session: enough to hide the wait for one command.
_READ_AHEAD = 8

# Not an argument of the way from the command line to here, nor a setting: only `turnwire serve --workers` may ask.
_shares_port: ContextVar[bool] = ContextVar("shares_port", default=False)


@contextmanager
def sharing_port() -> Iterator[None]:
    """Servers started inside the block, tasks included, share their port with other processes that do the same."""
    token = _shares_port.set(True)
    try:
        yield
    finally:
        _shares_port.reset(token)


@asynccontextmanager
async def listening(front: Frontend) -> AsyncIterator[Server]:
    """Accept connections inside the block. Raises OSError when the port cannot be had."""
    settings = front.settings

    async def handler(connection: ServerConnection) -> None:
        await _session(front, connection).run()

    async with serve(
        handler,
        settings.server.host,
        settings.server.port,
        # None and not False: platforms without the option refuse even that.
        reuse_port=_shares_port.get() or None,
        select_subprotocol=_select,
        process_request=HttpFront(front).process,
        compression=None,
        ping_interval=None,
        open_timeout=settings.limits.hello_timeout_s,
        close_timeout=_CLOSE_TIMEOUT_S,
        max_size=settings.limits.frame_bytes,
        max_queue=_READ_AHEAD,
        write_limit=settings.limits.send_buffer_bytes // 2,
        server_header=None,
        logger=logging.getLogger("turnwire_server.websockets"),
    ) as server:
        front.port = next(iter(server.sockets)).getsockname()[1]
        yield server


def _session(front: Frontend, connection: ServerConnection) -> Session:
    assert connection.request is not None, "set by the opening handshake"
    front.services.metrics.connection_opened()
    return Session(front, connection, codec_for(connection.subprotocol), _token(connection))


def _token(connection: ServerConnection) -> str | None:
    assert connection.request is not None, "set by the opening handshake"
    return bearer_token(connection.request.headers.get("Authorization"))


def _select(connection: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """The client's first choice that we speak; none when it offers none (that is JSON)."""
    if not offered:
        return None
    for name in offered:
        if name in SUBPROTOCOLS:
            return name
    raise NegotiationError(f"this server speaks {' and '.join(SUBPROTOCOLS)}")
