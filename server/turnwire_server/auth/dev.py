"""Authentication for development: everybody on this machine is let in.

Safe only on loopback, which the settings enforce. To try several users and tenants, `turnwire token` signs
tokens with a secret that lies in the data directory, readable by its owner alone.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from turnwire_server.auth.jwt_tokens import JwtAuthenticator
from turnwire_server.auth.keys import FixedKey
from turnwire_server.auth.principal import Principal

DEV_USER = "dev"
DEV_TENANT = "default"
SECRET_FILE = "dev-secret"  # noqa: S105 - a file name
_SECRET_CHARS = 43  # 32 random bytes in base64url


class DevAuthenticator:
    """Without a token: user `dev` of tenant `default`. With one: as the token says, if this machine's
    development secret has signed it. Makes the secret when absent."""

    def __init__(self, data_dir: Path, *, now: Callable[[], float] = time.time) -> None:
        self._signed = JwtAuthenticator(FixedKey(dev_secret(data_dir)), ("HS256",), now=now)

    def __repr__(self) -> str:
        return "DevAuthenticator()"

    async def authenticate(self, token: str | None) -> Principal:
        """See Authenticator."""
        if token is None:
            return Principal(tenant_id=DEV_TENANT, user_id=DEV_USER)
        return await self._signed.authenticate(token)


def dev_secret(data_dir: Path) -> str:
    """The development secret of `data_dir`, made at the first call. Any number of processes may call it at
    once and all get the same. Raises OSError, and ValueError when the file is damaged."""
    path = data_dir / SECRET_FILE
    if not path.exists():
        _create(path)
    secret = path.read_text(encoding="ascii").strip()
    if len(secret) < _SECRET_CHARS:
        raise ValueError(f"{path} is damaged: delete it, and a new secret is made")
    return secret


def _create(path: Path) -> None:
    """Writes a new secret beside `path` and links it into place: the file appears whole or not at all, and
    who comes second keeps what the first has made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{SECRET_FILE}-{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
