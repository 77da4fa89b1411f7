"""SPEC says what the code does: its diagram and tables are complete and current."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from turnwire_protocol import COMMANDS, EVENTS, LOG_EVENTS, CloseCode, ErrorCode
from turnwire_protocol.transitions import diagram

SPEC = (Path(__file__).parents[2] / "protocol" / "SPEC.md").read_text("utf-8")
ROWS = [line for line in SPEC.splitlines() if line.startswith("|")]
FIRST_CELLS = [row.split("|")[1].strip() for row in ROWS]
# Introduced in running text where they are explained, not in a table of their own.
ANSWERS = {name for name in EVENTS if name not in LOG_EVENTS}


def test_diagram_is_current() -> None:
    assert f"```mermaid\n{diagram()}\n```" in SPEC


@pytest.mark.parametrize("name", COMMANDS)
def test_command_stands_in_a_table_and_is_served(name: str) -> None:
    assert f"`{name}`" in FIRST_CELLS


@pytest.mark.parametrize("name", LOG_EVENTS)
def test_log_event_stands_in_a_table(name: str) -> None:
    assert f"`{name}`" in FIRST_CELLS


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_every_other_message_is_described(name: str) -> None:
    assert f"`{name}" in SPEC


@pytest.mark.parametrize("name", LOG_EVENTS)
def test_fields_of_a_log_event_are_those_of_the_model(name: str) -> None:
    # Section 10 may have a row of the same name; the fields stand in section 5, before it.
    row = next(row for row in ROWS if row.split("|")[1].strip() == f"`{name}`")
    common = {"type", "conversation_id", "request_id", "seq", "ts", "from_seq", "terminal", "length"}
    for field in set(LOG_EVENTS[name].__dataclass_fields__) - common:
        assert re.search(rf"`{field.rstrip('_')}\b", row), field


@pytest.mark.parametrize("code", ErrorCode)
def test_error_code_stands_with_whether_to_repeat(code: ErrorCode) -> None:
    (row,) = [row for row in ROWS if row.startswith(f"| `{code}` |")]
    assert row.split("|")[3].strip() == ("yes" if code.retryable else "no")


@pytest.mark.parametrize("code", CloseCode)
def test_close_code_stands_with_its_reason(code: CloseCode) -> None:
    (row,) = [row for row in ROWS if row.startswith(f"| `{int(code)}` |")]
    _, _, meaning, back, _ = (cell.strip() for cell in row.split("|"))
    assert meaning == code.reason
    assert back.startswith("yes" if code.may_return else "no")


def test_links_of_the_contents_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.removeprefix("## ").lower()).replace(" ", "-")
        for line in SPEC.splitlines()
        if line.startswith("## ")
    }
    assert set(re.findall(r"\(#([^)]+)\)", SPEC)) == headings
