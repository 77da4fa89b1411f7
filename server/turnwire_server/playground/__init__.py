"""The playground: the page at `/`, built from the JavaScript client (`clients/playground`) and served from memory.

Its files lie in `dist`, which is made by `make playground` and is part of the wheel; their names hold the hash of
their content, so that browsers may keep them for good, while the page itself is asked for each time. Nothing comes from
elsewhere, and the content security policy sees to that. Above is ``transport.http``; this knows neither connections
nor conversations.
"""

from __future__ import annotations

import gzip
import hashlib
import html
import mimetypes
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from importlib.resources.abc import Traversable

import orjson

ASSETS = "/assets/"
PAGE = "index.html"
HOW_TO_BUILD = "The playground has not been built: run `make playground` in the source tree and reload this page."

_ROUTES_MARK = 'name="turnwire-routes" content="[]"'
_KINDS = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8", "html": "text/html; charset=utf-8"}
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # Text of models cannot become markup or code, whatever the page does.
        "require-trusted-types-for 'script'",
    )
)
_SAFE_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}
_FOR_GOOD = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class Asset:
    """One file as it is sent. ``headers`` has all but its length and encoding."""

    plain: bytes
    packed: bytes
    kind: str
    headers: Mapping[str, str]


class Playground:
    """``routes`` are told to the page: names and whether the demonstration model answers there.

    Reads its files when they are first asked for. A page that was not there is looked for again the next time, so
    that it can be built while the server runs.
    """

    def __init__(self, routes: Iterable[tuple[str, bool]] = ()) -> None:
        self._routes = [{"name": name, "demo": demo} for name, demo in routes]

    def find(self, path: str) -> Asset | None:
        """The page for `/`, a file for its path below `/assets/`; None for what is not there. Reads files: may take
        tens of milliseconds the first time."""
        name = PAGE if path == "/" else path.removeprefix(ASSETS)
        if not _dist().joinpath(PAGE).is_file():
            return None
        return self._assets.get(name)

    @cached_property
    def _assets(self) -> dict[str, Asset]:
        files = {file.name: file.read_bytes() for file in _dist().iterdir() if file.is_file()}
        told = html.escape(orjson.dumps(self._routes).decode())
        page = files[PAGE].decode()
        assert page.count(_ROUTES_MARK) == 1, "the page has one place for the routes"
        files[PAGE] = page.replace(_ROUTES_MARK, _ROUTES_MARK.replace("[]", told)).encode()
        return {name: _asset(name, body) for name, body in files.items()}


def _asset(name: str, body: bytes) -> Asset:
    kind = _KINDS.get(name.rpartition(".")[2]) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    headers = {"Cache-Control": _FOR_GOOD, **_SAFE_HEADERS, "Vary": "Accept-Encoding"}
    if name == PAGE:
        headers |= {"Cache-Control": "no-cache", "ETag": f'"{hashlib.sha256(body).hexdigest()[:20]}"'}
    return Asset(body, gzip.compress(body, mtime=0), kind, headers)


def _dist() -> Traversable:
    return resources.files(__package__).joinpath("dist")
