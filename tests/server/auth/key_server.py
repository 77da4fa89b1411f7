"""A signer for tests: keys of its own, tokens signed with them, and a real HTTP key set endpoint.

Unlike a real one it can be told to fail, to stall, or to forget keys, and counts how often it was asked.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
_ALGORITHMS = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}


def new_key(algorithm: str) -> PrivateKey:
    match algorithm:
        case "RS256":
            return rsa.generate_private_key(65537, 2048)
        case "ES256":
            return ec.generate_private_key(ec.SECP256R1())
        case _:
            return ed25519.Ed25519PrivateKey.generate()


class KeyServer:
    """Holds the private keys; `url` is where their public halves are."""

    def __init__(self) -> None:
        self.url = ""
        self.keys: dict[str, tuple[str, PrivateKey]] = {}
        self.entries: list[dict[str, Any]] = []
        """What the endpoint serves; change it freely."""
        self.body: bytes | None = None
        """Served in place of `entries`."""
        self.status = 200
        self.requests = 0
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    def add(self, kid: str, algorithm: str = "ES256", **fields: Any) -> None:
        key = new_key(algorithm)
        self.keys[kid] = (algorithm, key)
        # Each class wants a key of its own kind, which the type checker cannot follow.
        implementation: Any = _ALGORITHMS[algorithm]
        entry = json.loads(implementation.to_jwk(key.public_key()))
        self.entries.append({**entry, "kid": kid, "use": "sig", **fields})

    def sign(self, kid: str, claims: dict[str, Any], *, header: dict[str, Any] | None = None) -> str:
        algorithm, key = self.keys[kid]
        return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": kid, **(header or {})})

    async def handle(self, request: web.Request) -> web.Response:
        self.requests += 1
        self.asked.set()
        await self.may_answer.wait()
        body = self.body if self.body is not None else json.dumps({"keys": self.entries}).encode()
        return web.Response(status=self.status, body=body)


@asynccontextmanager
async def running_key_server() -> AsyncIterator[KeyServer]:
    server = KeyServer()
    app = web.Application()
    app.router.add_get("/jwks", server.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        server.url = f"http://127.0.0.1:{port}/jwks"
        yield server
    finally:
        await runner.cleanup()
