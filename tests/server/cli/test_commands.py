"""`turnwire token`, `check` and `chat` as a person runs them: real processes, a terminal where there is one in life."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import jwt
from tests.server.cli.commands import CTRL_C, CTRL_D, serving, terminal, turnwire


async def test_a_token_is_printed_alone_and_is_believed(tmp_path: Path) -> None:
    result = await turnwire(tmp_path, "token", "--user", "alice", "--tenant", "acme", "--scope", "conversations:read")
    token = result.out.strip()
    claims = jwt.decode(token, options={"verify_signature": False})
    assert (claims["sub"], claims["tenant"], claims["scope"]) == ("alice", "acme", "conversations:read")
    async with serving(tmp_path) as server:
        chat = await turnwire(tmp_path, "chat", server.url, "--token", token, typed="hello\n")
        assert chat.code == 0
        assert "demonstration model" in chat.out


async def test_check_tells_what_cannot_be_reached(tmp_path: Path) -> None:
    broken = await turnwire(tmp_path, "check", OPENAI_BASE_URL="http://127.0.0.1:9/v1")
    assert broken.code == 1
    assert "cannot be reached" in broken.out


async def test_chat_without_a_server_or_with_a_bad_token_says_so(tmp_path: Path) -> None:
    nobody = await turnwire(tmp_path, "chat", "ws://127.0.0.1:9/v1", typed="hello\n")
    assert (nobody.code, "no server" in nobody.err) == (1, True)
    async with serving(tmp_path) as server:
        refused = await turnwire(tmp_path, "chat", server.url, "--token", "nonsense", typed="hello\n")
        assert (refused.code, "refuses" in refused.err) == (1, True)
        assert "Traceback" not in refused.err


async def test_chat_reads_lines_answers_each_and_fails_when_the_last_failed(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        well = await turnwire(tmp_path, "chat", server.url, typed="hello\n\nfallback\n")
        assert well.code == 0
        assert 'You wrote: "hello"' in well.out
        assert "taken back" in well.out
        failed = await turnwire(tmp_path, "chat", server.url, typed="fail\n")
        assert failed.code == 1


async def test_ctrl_c_cancels_the_answer_and_a_second_one_leaves(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, terminal(tmp_path, "chat", server.url) as screen:
        await screen.shows("you ›")
        screen.enter("long")
        await screen.shows("demonstration")
        screen.type(CTRL_C)
        await screen.shows("cancelled")
        await screen.shows("you ›")
        screen.type(CTRL_C)
        assert await screen.gone() == 130


async def test_an_answer_is_taken_up_again_after_the_server_was_killed(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, terminal(tmp_path, "chat", server.url) as screen:
        await screen.shows("you ›")
        screen.enter("hello")
        await screen.shows("demonstration")
        server.signal(signal.SIGKILL)
        await server.gone()
        await screen.shows("connection lost")
        async with serving(tmp_path, port=server.port) as again:
            assert again.url == server.url
            await screen.shows("node_lost")
            await screen.shows("show")  # the last word of the answer
            await screen.shows("you ›")
            screen.type(CTRL_D)
            assert await screen.gone() == 0


async def test_resume_shows_the_answer_so_far_and_goes_on(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        async with terminal(tmp_path, "chat", server.url) as screen:
            await screen.shows("you ›")
            screen.enter("hello")
            await screen.shows("demonstration")
        with closing(sqlite3.connect(tmp_path / "data" / "turnwire.db")) as db:
            ((request_id,),) = db.execute("SELECT request FROM requests WHERE state = 'open'").fetchall()
        for _ in ("while it is written", "after its end"):
            shown = await turnwire(tmp_path, "chat", server.url, "--resume", request_id)
            assert shown.code == 0
            assert shown.out.count("I am Turnwire's built-in demonstration model") == 1
            assert "show." in shown.out
        unknown = await turnwire(tmp_path, "chat", server.url, "--resume", "no-such-request")
        assert (unknown.code, "no request" in unknown.err) == (1, True)
