"""Plain HTTP on the WebSocket's port (SPEC section 9): health, readiness, metrics, one request, the playground.

Runs before the WebSocket handshake. `Host` and `Origin` are checked here for everything, so that no web page elsewhere
can talk to a developer's server, not even under a name of its own that leads to this machine.
"""

from __future__ import annotations

import http
import logging
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

import anyio.to_thread
import orjson
from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers, MultipleValuesError
from websockets.http11 import Request, Response

from turnwire_protocol import CommandError, ErrorCode, is_id, to_wire
from turnwire_server.archive.base import ArchiveUnavailable
from turnwire_server.auth import AuthError, AuthUnavailable, bearer_token
from turnwire_server.eventlog.base import LogUnavailable
from turnwire_server.playground import ASSETS, HOW_TO_BUILD, Playground
from turnwire_server.settings import Settings

from .frontend import Frontend

logger = logging.getLogger(__name__)

WEBSOCKET_PATH = "/v1"
_JSON = "application/json"
_STATUS = {
    ErrorCode.NOT_FOUND: http.HTTPStatus.NOT_FOUND,
    ErrorCode.FORBIDDEN: http.HTTPStatus.FORBIDDEN,
    ErrorCode.UNAVAILABLE: http.HTTPStatus.SERVICE_UNAVAILABLE,
}


class HttpFront:
    """Answers plain requests; `process` is the listener's ``process_request``."""

    def __init__(self, front: Frontend) -> None:
        self._front = front
        self._playground = Playground(_routes(front.settings))

    async def process(self, connection: ServerConnection, request: Request) -> Response | None:
        """The answer, or None when the request is to become a WebSocket."""
        try:
            return await self._process(request)
        except MultipleValuesError:
            return _error(http.HTTPStatus.BAD_REQUEST, "a header came twice that may come once")
        except (LogUnavailable, ArchiveUnavailable) as error:
            logger.warning("%s was not answered: %s", request.path, error)
            return _error(http.HTTPStatus.SERVICE_UNAVAILABLE, "the storage does not answer")

    async def _process(self, request: Request) -> Response | None:
        server, headers = self._front.settings.server, request.headers
        path = urlsplit(request.path).path
        if path == "/healthz":  # asked by machines under any name; says nothing about anything
            return _response(http.HTTPStatus.OK, b'{"status":"ok"}', _JSON)
        if not server.allows_host(headers.get("Host"), self._front.port):
            return _error(http.HTTPStatus.MISDIRECTED_REQUEST, "this server does not answer under that name")
        if not server.allows_origin(headers.get("Origin"), self._front.port):
            return _error(http.HTTPStatus.FORBIDDEN, "pages of this origin may not use this server")
        if path == WEBSOCKET_PATH:
            return self._admit(headers)
        match path:
            case "/readyz":
                return await self._ready()
            case "/metrics":
                # In a thread: with several workers it reads the files of all (1 ms each).
                kind, body = await anyio.to_thread.run_sync(self._front.services.metrics.render)
                return _response(http.HTTPStatus.OK, body, kind)
        if server.playground and (path == "/" or path.startswith(ASSETS)):
            return await self._page(path, headers)
        if path.startswith("/v1/requests/"):
            return await self._request(unquote(path.removeprefix("/v1/requests/")), headers)
        return _error(http.HTTPStatus.NOT_FOUND, "there is nothing here")

    def _admit(self, headers: Headers) -> Response | None:
        if "websocket" not in headers.get("Upgrade", "").lower():
            response = _error(http.HTTPStatus.UPGRADE_REQUIRED, "this is a WebSocket endpoint")
            response.headers["Upgrade"] = "websocket"
            return response
        if len(self._front.sessions) >= self._front.settings.limits.connections:
            return _error(http.HTTPStatus.SERVICE_UNAVAILABLE, "too many connections", {"Retry-After": "5"})
        if self._front.hub.is_draining:
            return _error(http.HTTPStatus.SERVICE_UNAVAILABLE, "this server is going away", {"Retry-After": "1"})
        return None

    async def _page(self, path: str, headers: Headers) -> Response:
        # In a thread: the first time it reads and packs files.
        asset = await anyio.to_thread.run_sync(self._playground.find, path)
        if asset is None:
            said = HOW_TO_BUILD if path == "/" else "there is nothing here"
            return _response(http.HTTPStatus.NOT_FOUND, said.encode(), "text/plain; charset=utf-8")
        if headers.get("If-None-Match") == asset.headers.get("ETag", ""):
            return _response(http.HTTPStatus.NOT_MODIFIED, b"", asset.kind, asset.headers)
        if "gzip" in headers.get("Accept-Encoding", ""):
            return _response(
                http.HTTPStatus.OK, asset.packed, asset.kind, {**asset.headers, "Content-Encoding": "gzip"}
            )
        return _response(http.HTTPStatus.OK, asset.plain, asset.kind, asset.headers)

    async def _ready(self) -> Response:
        services = self._front.services
        checks = {"log": services.log.ping, "archive": services.archive.ping}
        found: dict[str, str] = {}
        for name, ping in checks.items():
            try:
                # A part that is away takes its conversations with it, but must not make every node leave the balancer.
                found[name] = "ok" if not (away := await ping()) else f"ok, but {'; '.join(away)}"
            except (LogUnavailable, ArchiveUnavailable) as error:
                found[name] = str(error)
            services.metrics.readiness.labels(name).set(int(found[name].startswith("ok")))
        backend = "redis" if services.log.is_shared else "sqlite"
        services.metrics.log_available.labels(backend).set(int(found["log"].startswith("ok")))
        if self._front.hub.is_draining:
            found["server"] = "draining"
        ready = all(state.startswith("ok") for state in found.values())
        status = http.HTTPStatus.OK if ready else http.HTTPStatus.SERVICE_UNAVAILABLE
        return _response(status, orjson.dumps({"ready": ready, "checks": found}), _JSON)

    async def _request(self, request_id: str, headers: Headers) -> Response:
        try:
            principal = await self._front.authenticator.authenticate(bearer_token(headers.get("Authorization")))
            await self._front.tenant(principal)
        except AuthUnavailable as error:
            return _error(http.HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        except AuthError as error:
            return _error(http.HTTPStatus.UNAUTHORIZED, str(error), {"WWW-Authenticate": "Bearer"})
        except CommandError as error:
            return _error(_STATUS[error.code], error.message)
        try:
            if not is_id(request_id):
                raise CommandError(ErrorCode.NOT_FOUND, "no such request")
            found = await self._front.requests.find(principal, request_id)
        except CommandError as error:
            return _error(_STATUS.get(error.code, http.HTTPStatus.BAD_REQUEST), error.message)
        body = to_wire(found.state)
        if found.answer is not None:
            body["message"] = to_wire(found.answer)
        return _response(http.HTTPStatus.OK, orjson.dumps(body), _JSON)


def _routes(settings: Settings) -> list[tuple[str, bool]]:
    """What the playground may offer to choose, the usual one first: only in development, since it asks for no token."""
    if settings.auth.mode != "dev":
        return []
    demo = {deployment.name for deployment in settings.deployments if deployment.kind == "demo"}
    tenant = settings.tenants.get("default")
    usual = (tenant and tenant.route) or settings.routes[0].name
    routes = [(route.name, set(route.deployments) <= demo) for route in settings.routes]
    return sorted(routes, key=lambda route: route[0] != usual)


def _error(status: http.HTTPStatus, message: str, extra: Mapping[str, str] | None = None) -> Response:
    return _response(status, orjson.dumps({"error": message}), _JSON, extra)


def _response(status: http.HTTPStatus, body: bytes, kind: str, extra: Mapping[str, str] | None = None) -> Response:
    headers = Headers(
        {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Connection": "close",
            **(extra or {}),
        }
    )
    return Response(int(status), status.phrase, headers, body)
