"""Log lines: their two forms, and that no secret gets into either."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from turnwire_server.auth import make_token
from turnwire_server.telemetry import configure_logging, redactor
from turnwire_server.telemetry.logs import OWN_LOGGERS

TOKEN = make_token("a secret of at least thirty-two bytes", "ann", "acme")
KEY = "sk-proj-abcdefghijklmnop0123"
logger = logging.getLogger("turnwire_server.test")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(logging.NOTSET)


def log_line(stream: io.StringIO) -> dict[str, Any]:
    (line,) = stream.getvalue().splitlines()
    parsed: dict[str, Any] = json.loads(line)
    return parsed


def test_a_terminal_gets_text() -> None:
    stream = Terminal()
    configure_logging(stream=stream)
    logger.info("listening on %s", "127.0.0.1:8787", extra={"node_id": "n-1"})
    assert stream.getvalue().endswith("INFO    turnwire_server.test: listening on 127.0.0.1:8787 node_id=n-1\n")


def test_anything_else_gets_one_json_object_a_line() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream)
    logger.warning("two\nlines %d", 7, extra={"request_id": "r-1", "count": 2**70, "sizes": (1, 2.5, None)})
    line = log_line(stream)
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "warning",
        "logger": "turnwire_server.test",
        "message": "two\nlines 7",
        "request_id": "r-1",
        "count": str(2**70),
        "sizes": [1, 2.5, None],
    }


def test_the_level_is_ours_and_libraries_are_heard_from_warning_on() -> None:
    stream = io.StringIO()
    configure_logging("debug", stream=stream)
    logger.debug("ours")
    logging.getLogger("openai").info("what a user wrote")
    logging.getLogger("openai").warning("retrying")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["ours", "retrying"]


def test_a_higher_level_holds_for_libraries_too() -> None:
    stream = io.StringIO()
    configure_logging("error", stream=stream)
    logging.getLogger("openai").warning("x")
    logger.warning("x")
    assert stream.getvalue() == ""


def test_a_second_call_replaces_the_first() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure_logging(stream=first)
    configure_logging(stream=second)
    logger.info("once")
    assert first.getvalue() == ""
    assert log_line(second)["message"] == "once"


@pytest.mark.parametrize("stream_type", [io.StringIO, Terminal])
def test_no_way_into_a_line_carries_a_secret(stream_type: type[io.StringIO]) -> None:
    stream = stream_type()
    configure_logging(stream=stream, secrets=["correct horse battery"])
    texts = [f"Bearer {TOKEN}", KEY, "correct horse battery"]
    for text in texts:
        logger.info("message %s", text)
        logger.info(text)
        logger.info("extra", extra={"header": text, "nested": {"deep": [text]}})
        logger.info("object", extra={"thing": ValueError(text)})
        try:
            raise RuntimeError(text)
        except RuntimeError:
            logger.exception("failed")
        logger.info("stack", stack_info=True)
    logged = stream.getvalue()
    for secret in (TOKEN, TOKEN.split(".")[1], KEY, "correct horse battery"):
        assert secret not in logged
    assert logged.count("[hidden]") >= 5 * len(texts)
    assert "RuntimeError" in logged


def test_values_under_secret_names_are_hidden_in_json() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream)
    logger.info("x", extra={"api_key": "0123456789abc", "headers": {"Authorization": "opaque0123456"}})
    line = log_line(stream)
    assert (line["api_key"], line["headers"]) == ("[hidden]", {"Authorization": "[hidden]"})


def test_a_line_that_cannot_be_made_does_not_print_its_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    class Unprintable:
        def __str__(self) -> str:
            raise ValueError(KEY)

    stream = io.StringIO()
    handler = configure_logging(stream=stream)
    record = logger.makeRecord(logger.name, logging.INFO, "file", 7, "%s %s", (Unprintable(), KEY), None)
    handler.handle(record)
    assert stream.getvalue() == ""
    shown = capsys.readouterr().err
    assert shown == "a log line from turnwire_server.test:7 was lost: ValueError\n"


def test_a_lone_surrogate_costs_no_line() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream)
    logger.info("half a pair: \ud83d")
    assert log_line(stream)["message"] == "half a pair: ?"


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {TOKEN}",
        f"authorization=bearer   {TOKEN}",
        f'{{"type": "hello", "token": "{TOKEN}"}}',
        f"{{'token': '{TOKEN}'}}",
        f"eyJ0 wrapped {TOKEN}, and more",
        "Authorization: Basic dXNlcjpwYXNzd29yZA==",
        "Bearer opaque-token-of-somebody",
        f"Incorrect API key provided: {KEY}. You can find it",
        "sk_live_0123456789abcdef",
        "gsk_0123456789abcdefghij",
        "AIzaSyA0123456789abcdefghijklmnop",
        "api_key=0123456789abcdef",
        'OPENAI_API_KEY="0123456789abcdef"',
        "jwt_secret: 0123456789abcdef",
        "client_secret = '0123456789abcdef'",
        "redis://:0123456789abcdef@host:6379/0",
        "https://user:0123456789abcdef@host/v1",
        r"{\"password\": \"0123456789abcdef\"}",
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str) -> None:
    shown = redactor()(text)
    assert "[hidden]" in shown
    for part in (*TOKEN.split("."), "dXNlcjpwYXNzd29yZA", KEY, "0123456789", "opaque-token"):
        assert part not in shown


@pytest.mark.parametrize(
    "text",
    [
        "input_tokens=1200 output_tokens=3400",
        "max_output_tokens: 12345678901",
        "the token has expired",
        "deployment sk-mini answered 429",
        "request 01J9ZQ4YB3N6T8V5W2X7C0D1E2 of conversation desk-top-publishing-123456",
        "http://127.0.0.1:8787/v1",
        "turnwire_server.conversations.conversation",
        "{'seq': 12, 'epoch': 'k3j4h5g6.1'}",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert redactor(["short"])(text) == text


def test_the_longer_of_two_known_secrets_is_hidden_whole() -> None:
    assert redactor(["password1", "password1-and-more"])("x password1-and-more y") == "x [hidden] y"
