"""The playground: a page that speaks the wire protocol itself, to try a server and to watch the wire.

Written as a page, a style and a few scripts; served as one document with all of them inside, so that it loads in
one answer and needs nothing from elsewhere. The content security policy names exactly these scripts and this style by
their digests. Above is ``transport.http``; this knows neither connections nor conversations.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

# In this order: a later one uses what an earlier one defines.
SCRIPTS = (
    "tools.js",
    "fold.js",
    "wire.js",
    "markdown.js",
    "turn.js",
    "inspector.js",
    "app.js",
    "drawing.js",
    "controls.js",
)
_STYLE_MARK = "/* the style */"
_SCRIPT_MARK = "/* the scripts */"


@dataclass(frozen=True, slots=True)
class Page:
    """``body`` is the document; ``policy`` the content security policy it is to be served with."""

    body: bytes
    policy: str


@cache
def page() -> Page:
    """The page, put together once."""
    style = _read("style.css")
    script = "\n".join(_read(name) for name in SCRIPTS)
    document = _read("index.html")
    assert document.count(_STYLE_MARK) == document.count(_SCRIPT_MARK) == 1, "index.html has one place for each"
    before, _, after = document.partition(_SCRIPT_MARK)
    return Page((before.replace(_STYLE_MARK, style) + script + after).encode(), _policy(style, script))


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")


def _policy(style: str, script: str) -> str:
    """Only this script and this style run, and they may talk to their own server and nothing else."""
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src '{_digest(script)}'",
            f"style-src '{_digest(style)}'",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
