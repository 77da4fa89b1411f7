"""Processes that are there at once: each is forked from one that has imported the server already.

    process = await born([settings, environ], log=file)       a `cluster_node`, that long before it listens
    await process.line()                                      what it printed first
    process.pid, process.exit_code                            None while it lives; negative: the signal
    await process.gone()
    child = await forked("turnwire_server", ["check"], (stdin, stdout, stderr), environ=…, folder=…)
                                                              any `python -m`, see also `program`

To import everything takes a process one to two seconds of a core; tests start hundreds. A child shares nothing with the
nursery but the code: no loop, thread or socket is made there before the fork. All of them die with the process that
asked first. Unrealistic in that modules are there which the program itself would load later, or never.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import fcntl
import functools
import gc
import importlib
import io
import json
import os
import random
import runpy
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn, cast

from tests.support.redis import die_with_parent

_REPO = Path(__file__).parents[2]
_MOST = 1024 * 1024
_START_S = 60.0
# Not the commands themselves: some look at their terminal when they are loaded.
_LOADED_LATE = (
    *(
        "anyio._backends._asyncio",
        "encodings.idna",
        "httpcore2",
        "pydantic.networks",
        "rich.table",
        "tempfile",
        "typer",
    ),
    *("uvloop", "websockets.asyncio.client", "websockets.proxy"),
)


class Child:
    """One child. Made by `forked`."""

    def __init__(self, pid: int, status: socket.socket) -> None:
        self.pid = pid
        self.exit_code: int | None = None
        self._status = status
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(status, self._has_ended)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.pid} exit_code={self.exit_code}>"

    async def gone(self) -> int:
        """Wait for its end; the exit code."""
        await self._ended.wait()
        assert self.exit_code is not None, "set before the event"
        return self.exit_code

    def _has_ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._status)
        with self._status:
            told = self._status.recv(64)
        self.exit_code = int(told) if told else -signal.SIGKILL  # the nursery died, and all its children with it
        self._ended.set()


async def forked(
    module: str,
    arguments: Sequence[str],
    files: tuple[int, int, int],
    *,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
    group: bool = False,
    terminal: bool = False,
) -> Child:
    """``python -m module arguments`` on these standard input, output and error.

    ``group``: in a process group of its own; ``terminal``: in a session of its own, whose terminal is ``files``.
    """
    nursery = _nursery()  # not in a thread: it would die with that
    status, its_status = socket.socketpair()
    asked = {
        "module": module,
        "arguments": list(arguments),
        "environ": None if environ is None else dict(environ),
        "folder": None if folder is None else str(folder),
        "group": group,
        "terminal": terminal,
    }
    with its_status:
        socket.send_fds(nursery, [json.dumps(asked).encode()], [*files, its_status.fileno()])
    status.setblocking(False)
    async with asyncio.timeout(_START_S):
        pid = int(await asyncio.get_running_loop().sock_recv(status, 64))
    return Child(pid, status)


class Process:
    """A node. Made by `born`."""

    def __init__(self, child: Child, output: socket.socket) -> None:
        self.pid = child.pid
        self._child = child
        self._output = output

    def __repr__(self) -> str:
        return f"<Process {self.pid} exit_code={self.exit_code}>"

    @property
    def exit_code(self) -> int | None:
        return self._child.exit_code

    async def line(self) -> str:
        """The first line that it prints; empty when it ends without one."""
        loop, text = asyncio.get_running_loop(), b""
        with self._output:
            while not text.endswith(b"\n"):
                more = await loop.sock_recv(self._output, 4096)
                if not more:
                    return ""
                text += more
        return text.decode()

    async def gone(self) -> int:
        """Wait for its end; the exit code."""
        code = await self._child.gone()
        self._output.close()
        return code


async def born(arguments: Sequence[str], *, log: IO[bytes]) -> Process:
    """A new node, which writes its log to ``log``."""
    output, its_output = socket.socketpair()
    output.setblocking(False)
    with its_output, open(os.devnull, "rb") as nothing:
        files = (nothing.fileno(), its_output.fileno(), log.fileno())
        return Process(await forked("tests.support.cluster_node", arguments, files), output)


@functools.cache
def _nursery() -> socket.socket:
    mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MOST)
    with its:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.nursery", str(its.fileno())],
            cwd=_REPO,
            stdin=subprocess.DEVNULL,
            pass_fds=[its.fileno()],
            preexec_fn=die_with_parent,
        )

    def end() -> None:
        mine.close()
        process.kill()
        process.wait()

    atexit.register(end)
    return mine


# --- the nursery itself ----------------------------------------------------------------------------------------


def _keep(control: socket.socket) -> None:
    """Fork whatever is asked for, tell how children end, until nobody can ask any more."""
    woken, wakes = socket.socketpair()
    woken.setblocking(False)
    wakes.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    children: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([control, woken], [], [])
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                woken.recv(4096)
            _tell_ends(children)
        if control in ready:
            data, files, _, _ = socket.recv_fds(control, _MOST, 4)
            if not data:
                return
            status = files.pop()
            pid = os.fork()
            if pid == 0:
                inherited = [control.fileno(), woken.fileno(), wakes.fileno(), status]
                _live(json.loads(data), files, inherited + [other.fileno() for other in children.values()])
            for file in files:
                os.close(file)
            children[pid] = socket.socket(fileno=status)
            children[pid].send(b"%d" % pid)


def _tell_ends(children: dict[int, socket.socket]) -> None:
    while children:
        pid, how = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with children.pop(pid) as status, contextlib.suppress(OSError):
            status.send(b"%d" % os.waitstatus_to_exitcode(how))


def _live(asked: dict[str, Any], files: list[int], inherited: list[int]) -> NoReturn:
    """The child's whole life."""
    die_with_parent()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for fd in inherited:
        os.close(fd)
    code = 1
    try:
        _settle(asked, files)
        if any("clock_s" in last for last in asked["arguments"][-1:]):  # its modules must not have found the right one
            os.execv(sys.executable, [sys.executable, "-m", asked["module"], *asked["arguments"]])
        sys.argv = ["", *asked["arguments"]]
        runpy.run_module(asked["module"], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as ending:
        code = _code_of(ending)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
    finally:
        _leave(code)


def _settle(asked: dict[str, Any], files: list[int]) -> None:
    """Where and as whom it lives."""
    if asked["terminal"]:
        os.setsid()
        fcntl.ioctl(files[0], termios.TIOCSCTTY, 0)
    elif asked["group"]:
        os.setpgid(0, 0)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    if asked["folder"] is not None:
        os.chdir(asked["folder"])
    if asked["environ"] is not None:
        os.environ.clear()
        os.environ.update(asked["environ"])
    # As the interpreter makes them; those from before the fork know other files.
    sys.stdin = _file(0, "r", "strict")
    sys.stdout = _file(1, "w", "strict", at_once="PYTHONUNBUFFERED" in os.environ)
    sys.stderr = _file(2, "w", "backslashreplace", at_once=True)
    random.seed()


def _file(number: int, mode: str, errors: str, *, at_once: bool = False) -> io.TextIOWrapper:
    raw = cast(io.BufferedWriter, open(number, f"{mode}b", closefd=False))  # noqa: SIM115 - for as long as it lives
    by_line = at_once or os.isatty(number)
    return io.TextIOWrapper(raw, encoding="utf-8", errors=errors, line_buffering=by_line, write_through=at_once)


def _code_of(ending: SystemExit) -> int:
    if ending.code is None or isinstance(ending.code, int):
        return ending.code or 0
    print(ending.code, file=sys.stderr)
    return 1


def _leave(code: int) -> NoReturn:
    """What the interpreter does at its end, but for taking everything apart."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _load() -> None:
    """What the children need, with what the server itself loads only where it is used."""
    for name in (*_LOADED_LATE, "turnwire_server.app", "turnwire_server.clustered"):
        importlib.import_module(name)
    from turnwire_server.gateway.providers import openai
    from turnwire_server.gateway.usage import TokenCounter

    openai._trusted()
    TokenCounter.load()
    gc.collect()
    gc.freeze()  # what all children have in common is not looked at, and so not copied, by their collections


if __name__ == "__main__":
    _load()
    _keep(socket.socket(fileno=int(sys.argv[1])))
