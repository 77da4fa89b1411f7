"""A server that speaks MongoDB's protocol, as a child of the tests: to be killed, stopped and started again.

It is `secantusd-py` from the environment `.venv-mongo` that `make test` makes; it is never imported and never
shipped. `running_mongo` gives a server of one's own, whose data outlives its process; `fresh_database` gives an
empty database on one server that all tests of a run share, which costs milliseconds.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pymongo
from pymongo.errors import PyMongoError
from tests.support.redis import data_root, die_with_parent, free_port

PROGRAM = Path(__file__).parents[2] / ".venv-mongo" / "bin" / "secantusd-py"
_START_S = 30.0


class MongoServer:
    """One server on one folder and port, over all its starts."""

    def __init__(self, folder: Path) -> None:
        if not PROGRAM.exists():
            raise RuntimeError("the tests need a MongoDB server: run `make test`, or `make .venv-mongo/.installed`")
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"mongodb://127.0.0.1:{self.port}/"

    @property
    def log(self) -> str:
        """What the server has said."""
        return (self._folder / "server.log").read_text(errors="replace")

    def start_nowait(self) -> None:
        """Start the process; it answers some time later."""
        assert self._process is None, "it runs already"
        arguments = ["--host", "127.0.0.1", "--port", str(self.port), "--log-level", "WARNING"]
        # Without this an acknowledged write may be lost with the process, which MongoDB's journal does not allow.
        arguments += ["--sync-on-commit", "--cache-size", "128M", "--enable-test-commands"]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [PROGRAM, *arguments, "--storage-path", self._folder / "data"],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,
            )

    def wait_until_it_answers(self) -> None:
        options: dict[str, Any] = {"serverSelectionTimeoutMS": _START_S * 1000, "connectTimeoutMS": 1000}
        try:
            with pymongo.MongoClient[dict[str, Any]](self.url, **options) as client:
                client.admin.command("ping")
        except PyMongoError as error:
            raise RuntimeError(f"the MongoDB server did not start: {self.log[-2000:]}") from error

    async def start(self) -> None:
        """Start it, on the data it had, and wait until it answers."""
        self.start_nowait()
        await asyncio.to_thread(self.wait_until_it_answers)

    async def kill(self) -> None:
        """`kill -9`, and wait until it is gone."""
        await asyncio.to_thread(self.kill_and_wait)

    def kill_and_wait(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def stop(self) -> None:
        """SIGSTOP: connections stay open and nothing answers, as with a machine that is cut off or overloaded."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT after `stop`; it then carries out what came meanwhile."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    @contextmanager
    def failing(self, command: str, *, times: int | None = None, **how: Any) -> Iterator[None]:
        """Inside the block the server answers ``command`` as ``how`` says, that many times or always.

        As in MongoDB's own tests: ``errorCode=…``, ``closeConnection=True`` (without having done it), or
        ``writeConcernError={…}`` (after having done it).
        """
        mode: Any = "alwaysOn" if times is None else {"times": times}
        with pymongo.MongoClient[dict[str, Any]](self.url) as client:
            client.admin.command(
                "configureFailPoint", "failCommand", mode=mode, data={"failCommands": [command], **how}
            )
            try:
                yield
            finally:
                client.admin.command("configureFailPoint", "failCommand", mode="off")


@asynccontextmanager
async def running_mongo() -> AsyncIterator[MongoServer]:
    """A server of one's own that answers; killed at the end of the block."""
    with tempfile.TemporaryDirectory(dir=data_root()) as folder:
        server = MongoServer(Path(folder))
        try:
            await server.start()
            yield server
        finally:
            await server.kill()


@functools.cache
def shared_mongo() -> MongoServer:
    """The server that all tests of this run share; started by the first, killed at the end of the process."""
    folder = Path(tempfile.mkdtemp(dir=data_root()))
    server = MongoServer(folder)

    def end() -> None:
        server.kill_and_wait()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)
    server.start_nowait()
    server.wait_until_it_answers()
    return server


@asynccontextmanager
async def fresh_database() -> AsyncIterator[tuple[str, str]]:
    """Address and name of an empty database on the shared server; dropped at the end of the block."""
    server = shared_mongo()  # not in a thread: the child would die with it, see `die_with_parent`
    name = f"test-{uuid.uuid4().hex}"
    try:
        # Retryable writes make this server slow after some 10,000 of them; what they do is tested in faults.
        yield f"{server.url}?retryWrites=false", name
    finally:
        await asyncio.to_thread(_drop, server.url, name)


def _drop(url: str, name: str) -> None:
    with pymongo.MongoClient[dict[str, Any]](url, serverSelectionTimeoutMS=5000) as client:
        client.drop_database(name)
