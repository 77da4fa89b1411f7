"""The key of one deployment: from the environment, a file or a command; renewed while the server runs.

A file is looked at again when it may have changed, a command is run again after a time, and both when the provider has
refused the key: somebody may have changed it. Whatever was once a key is taken out of texts (`hide`) and of the log
(`telemetry.redact.learn`); it is never part of an error, an event or a representation.

Above: `gateway.providers`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import anyio

from turnwire_server.gateway.errors import ProviderError, ProviderErrorKind
from turnwire_server.telemetry.redact import hide_learned, learn

if TYPE_CHECKING:
    from turnwire_server.settings import Deployment

logger = logging.getLogger(__name__)

LOOK_S = 1.0
"""A file is looked at no more often."""
COMMAND_S = 10.0
"""A command that has said nothing by then is killed."""
_MOST_CHARS = 16_384
_KEPT = 4


class Unobtainable(Exception):
    """There is no key to be had. The text says why, and nothing of what was read."""


class Source(Protocol):
    """Where a key comes from."""

    where: str
    """For people: what to look at when a key is refused."""

    def is_due(self, now: float) -> bool:
        """Whether it may have another key by now."""

    async def read(self) -> str | None:
        """The key; None: the provider needs none. Raises `Unobtainable`."""


class FromEnvironment:
    """Read once: the environment of a process does not change."""

    def __init__(self, variable: str | None, environ: Mapping[str, str]) -> None:
        self.where = variable or ""
        self._key = environ.get(variable, "").strip() or None if variable else None

    def is_due(self, now: float) -> bool:
        return False

    async def read(self) -> str | None:
        return self._key


class FromFile:
    """The whole file, without the space around it."""

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._looked_at = float("-inf")

    def is_due(self, now: float) -> bool:
        if now - self._looked_at < LOOK_S:
            return False
        self._looked_at = now
        try:
            found = self._path.stat()
        except OSError:
            return True
        return self._stamp != (found.st_mtime_ns, found.st_ino, found.st_size)

    async def read(self) -> str | None:
        # A few bytes of a local file: quicker than a thread would be.
        try:
            found = self._path.stat()
            with self._path.open(encoding="ascii") as file:
                key = file.read(_MOST_CHARS).strip()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not plain text"
            raise Unobtainable(f"{self._path} cannot be read: {why}") from None
        if not key:
            raise Unobtainable(f"{self._path} is empty")
        self._stamp = found.st_mtime_ns, found.st_ino, found.st_size
        return key


class FromCommand:
    """What a program says on its standard output, without the space around it; run without a shell."""

    def __init__(self, command: Sequence[str], refresh_s: float) -> None:
        self.where = f"what {command[0]} says"
        self._command = tuple(command)
        self._refresh_s = refresh_s
        self._read_at = float("-inf")

    def is_due(self, now: float) -> bool:
        return now - self._read_at >= self._refresh_s

    async def read(self) -> str | None:
        program = self._command[0]
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=None
            )
        except OSError as error:
            raise Unobtainable(f"{program} cannot be run: {error.strerror}") from None
        try:
            async with asyncio.timeout(COMMAND_S):
                said, _ = await process.communicate()
        except TimeoutError:
            raise Unobtainable(f"{program} said nothing for {COMMAND_S:g} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                with anyio.move_on_after(1, shield=True):
                    await process.wait()
        if process.returncode:
            raise Unobtainable(f"{program} ended with status {process.returncode}")
        key = said.decode("ascii", "replace").strip()
        if not key or len(key) > _MOST_CHARS or not key.isascii() or not key.isprintable():
            raise Unobtainable(f"{program} did not say a key")
        self._read_at = time.monotonic()
        return key


class Credential:
    """See the module."""

    def __init__(self, name: str, source: Source) -> None:
        self._name = name
        self._source = source
        self._keys: list[str] = []  # the newest last
        self._has_read = False
        self._reads = 0
        self._reading = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Credential of {self._name} from {self._source.where or 'nowhere'}>"

    @classmethod
    def of(cls, deployment: Deployment, environ: Mapping[str, str]) -> Credential:
        """That of a deployment. Nothing is read yet but the environment."""
        source: Source
        if deployment.api_key_file is not None:
            source = FromFile(deployment.api_key_file)
        elif deployment.api_key_command is not None:
            source = FromCommand(deployment.api_key_command, deployment.api_key_refresh_s)
        else:
            source = FromEnvironment(deployment.api_key_env, environ)
        return cls(deployment.name, source)

    @property
    def where(self) -> str:
        """For people: where the key comes from; nothing where none is needed."""
        return self._source.where

    async def get(self) -> str | None:
        """The key to use now. Raises `ProviderError` when none can be had."""
        if not self._has_read or self._source.is_due(time.monotonic()):
            await self._read(self._reads)
        return self._key

    @property
    def _key(self) -> str | None:
        return self._keys[-1] if self._keys else None

    async def is_renewed(self, refused: str | None) -> bool:
        """After the provider has refused a key: whether there is another one by now."""
        if isinstance(self._source, FromEnvironment):
            return False
        if self._key == refused:
            await self._read(self._reads)
        return self._key != refused

    def hide(self, text: str) -> str:
        """The text without any key that this deployment has had, or another: one gateway may stand before several."""
        for key in self._keys:
            text = text.replace(key, "***")
        return hide_learned(text, "***")

    async def _read(self, seen: int) -> None:
        """``seen`` is how many reads the caller knew of: one that ended while it waited for its turn is as good."""
        async with self._reading:
            if self._reads != seen:
                return
            try:
                key = await self._source.read()
            except Unobtainable as error:
                logger.warning("the key of deployment %s was not renewed: %s", self._name, error)
                if self._keys:
                    return  # the one there is may still be good
                raise ProviderError(
                    ProviderErrorKind.AUTH,
                    f"The server has no key for deployment '{self._name}': {error}.",
                    retryable=False,
                ) from None
            finally:
                self._reads += 1
            self._has_read = True
            if key is not None and (not self._keys or self._keys[-1] != key):
                learn(key)
                self._keys = [*self._keys[-_KEPT + 1 :], key]
