"""`turnwire chat`: a conversation in the terminal.

Shows text as it comes, tools with their state, and what a fallback took back. Ctrl-C cancels the running turn, a second
one (or one at the prompt) leaves. A lost connection is taken up again from the cursor, so nothing is shown twice. The
connection is in `chat_client`, what is drawn in `chat_view`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import uuid
from typing import Annotated

import typer
from rich.console import Console

from turnwire_server.cli.chat_client import ChatClient, Refused
from turnwire_server.cli.chat_view import View
from turnwire_server.cli.common import fail


def chat(
    url: Annotated[str, typer.Argument(help="Where the server listens.")] = "ws://127.0.0.1:8787/v1",
    token: Annotated[str | None, typer.Option(envvar="TURNWIRE_TOKEN", help="A token, where one is needed.")] = None,
    conversation: Annotated[str | None, typer.Option(help="The conversation; a new one by default.")] = None,
    resume: Annotated[str | None, typer.Option(help="Go on watching this request, then chat on.")] = None,
) -> None:
    """Talk to a model through a server. Ctrl-C cancels an answer, a second Ctrl-C leaves."""
    try:
        code = asyncio.run(_Chat(url, token, conversation, resume).run())
    except Refused as error:
        fail(str(error))
    except KeyboardInterrupt:
        code = 130
    raise typer.Exit(code)


class _Chat:
    def __init__(self, url: str, token: str | None, conversation: str | None, resume: str | None) -> None:
        self._console = Console(highlight=False)
        self._view = View(self._console)
        self._client = ChatClient(url, token, self._view)
        self._conversation = conversation
        self._resume = resume
        self._running: str | None = None
        self._cancelled = False
        self._main: asyncio.Task[int] | None = None
        self._cancelling: asyncio.Task[None] | None = None

    async def run(self) -> int:
        self._main = asyncio.current_task()
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._interrupted)
        failed = False
        async with self._client:
            try:
                if self._resume is not None:
                    self._view.watch(self._resume)
                    self._conversation = await self._client.resume(self._resume)
                    failed = not await self._watch(self._resume)
                self._conversation = self._conversation or f"chat-{uuid.uuid4().hex[:12]}"
                await self._client.follow(self._conversation)
                self._view.begin(self._conversation, is_terminal=sys.stdin.isatty())
                while (line := await self._read_line()) is not None:
                    if line.strip():
                        failed = not await self._ask(line)
            except asyncio.CancelledError:
                self._view.leave(self._running)
                return 130
        return 1 if failed and not sys.stdin.isatty() else 0

    async def _ask(self, text: str) -> bool:
        assert self._conversation is not None, "set before anything is asked"
        request_id = f"req-{uuid.uuid4().hex}"
        self._running, self._cancelled = request_id, False
        self._view.watch(request_id)
        try:
            await self._client.create(request_id, self._conversation, text)
        except Refused as error:
            self._running = None
            self._view.error(str(error))
            return False
        return await self._watch(request_id)

    async def _watch(self, request_id: str) -> bool:
        self._running, self._cancelled = request_id, False
        try:
            return await self._client.ended(request_id)
        finally:
            if not self._main or not self._main.cancelling():
                self._running = None

    async def _read_line(self) -> str | None:
        self._view.prompt(is_terminal=sys.stdin.isatty())
        line = await asyncio.to_thread(sys.stdin.readline)
        return line.rstrip("\n") if line else None

    def _interrupted(self) -> None:
        assert self._main is not None, "installed by run"
        if self._running is None or self._cancelled:
            self._main.cancel()
            # The thread that waits for a line cannot be told to stop; nothing is lost by ending without it.
            asyncio.get_running_loop().call_later(1.0, _leave_now)
            return
        self._cancelled = True
        self._cancelling = asyncio.ensure_future(self._client.cancel(self._running))


def _leave_now() -> None:
    sys.stdout.flush()
    os._exit(130)
