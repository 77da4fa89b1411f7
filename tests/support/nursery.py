"""Nodes that are there at once: each is forked from a process that has imported the server already.

    process = await born([settings, environ], log=file)       a `cluster_node`, that long before it listens
    await process.line()                                      what it printed first
    process.pid, process.exit_code                            None while it lives; negative: the signal
    await process.gone()

To import everything takes a node one to two seconds of a core; tests that kill nodes start hundreds. A node shares
nothing with the nursery but the code: no loop, thread or socket is made there before the fork. All of them die with the
process that asked first.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import gc
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from tests.support.redis import die_with_parent

_REPO = Path(__file__).parents[2]
_MOST = 1024 * 1024
_START_S = 60.0


class Process:
    """One child. Made by `born`."""

    def __init__(self, pid: int, status: socket.socket, output: socket.socket) -> None:
        self.pid = pid
        self.exit_code: int | None = None
        self._status = status
        self._output = output
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(status, self._has_ended)

    def __repr__(self) -> str:
        return f"<Process {self.pid} exit_code={self.exit_code}>"

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
        await self._ended.wait()
        assert self.exit_code is not None, "set before the event"
        return self.exit_code

    def _has_ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._status)
        with self._status:
            told = self._status.recv(64)
        self._output.close()
        self.exit_code = int(told) if told else -signal.SIGKILL  # the nursery died, and all its children with it
        self._ended.set()


async def born(arguments: Sequence[str], *, log: IO[bytes]) -> Process:
    """A new node, which writes its log to ``log``."""
    nursery = _nursery()  # not in a thread: it would die with that
    output, its_output = socket.socketpair()
    status, its_status = socket.socketpair()
    with its_output, its_status:
        files = [log.fileno(), its_output.fileno(), its_status.fileno()]
        socket.send_fds(nursery, [json.dumps(arguments).encode()], files)
    output.setblocking(False)
    status.setblocking(False)
    async with asyncio.timeout(_START_S):
        pid = int(await asyncio.get_running_loop().sock_recv(status, 64))
    return Process(pid, status, output)


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
            data, files, _, _ = socket.recv_fds(control, _MOST, 3)
            if not data:
                return
            log, output, status = files
            pid = os.fork()
            if pid == 0:
                inherited = [control.fileno(), woken.fileno(), wakes.fileno(), status]
                _live(json.loads(data), log, output, inherited + [other.fileno() for other in children.values()])
            os.close(log)
            os.close(output)
            children[pid] = socket.socket(fileno=status)
            children[pid].send(b"%d" % pid)


def _tell_ends(children: dict[int, socket.socket]) -> None:
    while children:
        pid, how = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with children.pop(pid) as status, contextlib.suppress(OSError):
            status.send(b"%d" % os.waitstatus_to_exitcode(how))


def _live(arguments: list[str], log: int, output: int, inherited: list[int]) -> None:
    """The child's whole life."""
    die_with_parent()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for fd in inherited:
        os.close(fd)
    os.dup2(output, 1)
    os.dup2(log, 2)
    os.close(output)
    os.close(log)
    random.seed()
    code = 1
    try:
        if "clock_s" in arguments[-1]:  # its modules must not have found the right one
            os.execv(sys.executable, [sys.executable, "-m", "tests.support.cluster_node", *arguments])
        from tests.support import cluster_node

        cluster_node.main(arguments)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _load() -> None:
    """What the children need, with what the server itself loads only where it is used."""
    import anyio._backends._asyncio
    import httpcore2
    import uvloop

    import turnwire_server.app
    import turnwire_server.clustered
    from turnwire_server.gateway.providers import openai
    from turnwire_server.gateway.usage import TokenCounter

    openai._trusted()
    TokenCounter.load()
    del anyio, httpcore2, uvloop, turnwire_server
    gc.collect()
    gc.freeze()  # what all children have in common is not looked at, and so not copied, by their collections


if __name__ == "__main__":
    _load()
    _keep(socket.socket(fileno=int(sys.argv[1])))
