"""The commands as a person runs them: real processes, a terminal where there is one in life."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import jwt
import pexpect

TURNWIRE = [sys.executable, "-m", "turnwire_server"]
WAIT_S = 60


def _environ(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "TURNWIRE_"))}
    return {**kept, "TERM": "xterm", "COLUMNS": "120", "NO_COLOR": "1", **more}


def _run(folder: Path, *arguments: str, typed: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TURNWIRE, *arguments],
        cwd=folder,
        env=_environ(**environ),
        input=typed,
        text=True,
        capture_output=True,
        timeout=WAIT_S,
        check=False,
    )


@contextmanager
def _serving(folder: Path, *arguments: str, port: str = "0") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`turnwire serve`, and the address it says it listens on."""
    process = subprocess.Popen(
        [*TURNWIRE, "serve", "--port", port, *arguments],
        cwd=folder,
        env=_environ(PYTHONUNBUFFERED="1"),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            found = re.search(r"ws://\S+", line)
            if found:
                yield process, found[0]
                break
        else:
            raise AssertionError("the server did not start")
    finally:
        process.kill()
        process.communicate()


def _terminal(folder: Path, url: str) -> pexpect.spawn:
    """`turnwire chat` in a terminal."""
    arguments = [*TURNWIRE[1:], "chat", url]
    return pexpect.spawn(TURNWIRE[0], arguments, cwd=folder, env=_environ(), timeout=WAIT_S, encoding="utf-8")


def test_a_wrong_configuration_stops_the_start_and_names_every_fault(tmp_path: Path) -> None:
    (tmp_path / "turnwire.toml").write_text('[server]\nport = "eighty"\n[limits]\nheartbeets_s = 3\n')
    result = _run(tmp_path, "serve")
    assert result.returncode == 2
    assert "server.port" in result.stderr
    assert "limits.heartbeets_s" in result.stderr
    assert "Traceback" not in result.stderr


def test_workers_need_redis_and_say_so(tmp_path: Path) -> None:
    result = _run(tmp_path, "serve", "--workers", "2")
    assert result.returncode == 2
    assert "Redis" in result.stderr


def test_development_mode_refuses_a_public_address(tmp_path: Path) -> None:
    result = _run(tmp_path, "serve", "--host", "0.0.0.0")
    assert result.returncode == 2
    assert "loopback" in result.stderr


def test_a_taken_port_and_taken_data_are_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with _serving(tmp_path) as (_, url):
        port = url.split(":")[2].split("/")[0]
        taken = _run(tmp_path / "other", "serve", "--port", port)
        assert (taken.returncode, "in use" in taken.stderr) == (1, True)
        assert "Traceback" not in taken.stderr
        same = _run(tmp_path, "serve", "--port", "0")
        assert (same.returncode, "in use by another turnwire" in same.stderr) == (1, True)
        assert "Traceback" not in same.stderr


def test_sigterm_ends_in_good_order(tmp_path: Path) -> None:
    with _serving(tmp_path) as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0


def test_a_token_is_printed_alone_and_is_believed(tmp_path: Path) -> None:
    result = _run(tmp_path, "token", "--user", "alice", "--tenant", "acme", "--scope", "conversations:read")
    claims = jwt.decode(result.stdout.strip(), options={"verify_signature": False})
    assert (claims["sub"], claims["tenant"], claims["scope"]) == ("alice", "acme", "conversations:read")
    with _serving(tmp_path) as (_, url):
        chat = _run(tmp_path, "chat", url, "--token", result.stdout.strip(), typed="hello\n")
        assert chat.returncode == 0
        assert "demonstration model" in chat.stdout


def test_check_tells_what_works_and_what_does_not(tmp_path: Path) -> None:
    assert _run(tmp_path, "check").returncode == 0
    broken = _run(tmp_path, "check", OPENAI_BASE_URL="http://127.0.0.1:9/v1")
    assert broken.returncode == 1
    assert "cannot be reached" in broken.stdout


def test_chat_without_a_server_or_with_a_bad_token_says_so(tmp_path: Path) -> None:
    nobody = _run(tmp_path, "chat", "ws://127.0.0.1:9/v1", typed="hello\n")
    assert (nobody.returncode, "no server" in nobody.stderr) == (1, True)
    with _serving(tmp_path) as (_, url):
        refused = _run(tmp_path, "chat", url, "--token", "nonsense", typed="hello\n")
        assert (refused.returncode, "refuses" in refused.stderr) == (1, True)
        assert "Traceback" not in refused.stderr


def test_chat_reads_lines_answers_each_and_fails_when_the_last_failed(tmp_path: Path) -> None:
    with _serving(tmp_path) as (_, url):
        well = _run(tmp_path, "chat", url, typed="hello\n\nfallback\n")
        assert well.returncode == 0
        assert 'You wrote: "hello"' in well.stdout
        assert "taken back" in well.stdout
        failed = _run(tmp_path, "chat", url, typed="fail\n")
        assert failed.returncode == 1


def test_ctrl_c_cancels_the_answer_and_a_second_one_leaves(tmp_path: Path) -> None:
    with _serving(tmp_path) as (_, url):
        chat = _terminal(tmp_path, url)
        chat.expect("you ›")
        chat.sendline("long")
        chat.expect("demonstration")
        chat.sendintr()
        chat.expect("cancelled")
        chat.expect("you ›")
        chat.sendintr()
        chat.expect(pexpect.EOF)
        chat.close()
        assert chat.exitstatus == 130


def test_an_answer_is_taken_up_again_after_the_server_was_killed(tmp_path: Path) -> None:
    with _serving(tmp_path) as (server, url):
        port = url.split(":")[2].split("/")[0]
        chat = _terminal(tmp_path, url)
        chat.expect("you ›")
        chat.sendline("hello")
        chat.expect("demonstration")
        server.kill()
        server.wait()
        chat.expect("connection lost")
        with _serving(tmp_path, port=port) as (_, again):
            assert again == url
            chat.expect("node_lost")
            chat.expect("show")  # the last word of the answer
            chat.expect("you ›")
            chat.sendeof()
            chat.expect(pexpect.EOF)
            chat.close()
            assert chat.exitstatus == 0


def test_resume_shows_the_answer_so_far_and_goes_on(tmp_path: Path) -> None:
    with _serving(tmp_path) as (_, url):
        chat = _terminal(tmp_path, url)
        chat.expect("you ›")
        chat.sendline("hello")
        chat.expect("demonstration")
        chat.close(force=True)
        with closing(sqlite3.connect(tmp_path / "data" / "turnwire.db")) as db:
            ((request_id,),) = db.execute("SELECT request FROM requests WHERE state = 'open'").fetchall()
        again = _run(tmp_path, "chat", url, "--resume", request_id)
        assert again.returncode == 0
        assert "I am Turnwire's built-in demonstration model" in again.stdout
        assert again.stdout.count("I am Turnwire's") == 1
        assert "show." in again.stdout
        ended = _run(tmp_path, "chat", url, "--resume", request_id)
        assert ended.returncode == 0
        assert ended.stdout.count("I am Turnwire's") == 1
        assert "show." in ended.stdout
        unknown = _run(tmp_path, "chat", url, "--resume", "no-such-request")
        assert (unknown.returncode, "no request" in unknown.stderr) == (1, True)
