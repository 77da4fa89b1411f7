"""Tells somebody else's server, signed, in one try. Who tries again, and when, is the caller's matter."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

import orjson


async def post(url: str, said: Mapping[str, Any], name: str, *, secret: str | None, timeout_s: float) -> str | None:
    """None when it was taken, else why not, in words without the address, which may hold a secret.

    ``name`` is the same for each try, so that whoever gets it twice can tell (`Turnwire-Id`).
    """
    import aiohttp  # it takes long to load, and most servers tell nobody

    body = orjson.dumps(said)
    headers = {"Content-Type": "application/json", "Turnwire-Id": name}
    if secret is not None:
        headers["Turnwire-Signature"] = f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"
    try:
        # A redirect is not followed: it would take what is said elsewhere, or become a GET without it.
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(timeout_s)) as session,
            session.post(url, data=body, headers=headers, allow_redirects=False) as response,
        ):
            return None if response.status < 300 else f"it answered {response.status}"
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        return type(error).__name__
