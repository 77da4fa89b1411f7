"""Faults of a suite are told with the line and the case, all at once, before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from turnwire_server.evaluation.suite import SuiteError, read_suite

_BEGIN = "name: s\ncases:\n  - name: one\n    turns:\n      - say: Hello\n"


def _fault(tmp_path: Path, text: str) -> str:
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    with pytest.raises(SuiteError) as raised:
        read_suite(path)
    return str(raised.value).replace(f"{path}", "suite.yaml")


@pytest.mark.parametrize(
    ("more", "line", "said"),
    [
        ("        route: 3\n", 6, "case one.turns.0.route"),
        ("        expects: []\n", 6, "case one.turns.0.expects: Extra inputs"),
        ("        expect:\n          - equals: a\n            contains: b\n", 7, "one scorer each"),
        ("        expect:\n          - equals: a\n          - matches: '('\n", 8, "not a regular expression"),
        ("        expect:\n          - schema: {type: strong}\n", 7, "not a JSON Schema"),
        ("        expect:\n          - equals:\n", 7, "is given nothing"),
        ("        expect:\n          - ending: exploded\n", 7, "ending"),
        ("        presented: 3\n", 5, "interrupt_after is missing"),
        ("        interrupt_after: 3\n        cancel_after: 4\n", 5, "not both"),
        ("        cancel_after: 0\n", 6, "cancel_after"),
        ("    answers:\n      - [{stall: true, cut: true}]\n", 7, "one of pause_s, stall, cut, tool, error"),
        ("  - name: one\n    turns: [{say: a}]\n", 1, "two cases are called one"),
        ("model: configured\n  \n", 1, "cases"),
    ],
)
def test_a_fault_names_its_line_and_what_is_wrong(tmp_path: Path, more: str, line: int, said: str) -> None:
    if more.startswith("model"):
        fault = _fault(tmp_path, more + "name: s\ncases: []\n")
        line = 4
    else:
        fault = _fault(tmp_path, _BEGIN + more)
    assert f"suite.yaml:{line}: " in fault
    assert said in fault


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    fault = _fault(tmp_path, _BEGIN + "        route: 3\n        nonsense: 1\n")
    assert len(fault.splitlines()) == 2


def test_answers_without_a_scripted_model_are_a_fault(tmp_path: Path) -> None:
    assert "model: scripted" in _fault(tmp_path, "model: configured\n" + _BEGIN + "    answers: [a]\n")


@pytest.mark.parametrize("text", ["", "- 1\n", "name: [", "3\n"])
def test_what_is_no_suite_is_a_fault(tmp_path: Path, text: str) -> None:
    assert _fault(tmp_path, text)


def test_a_file_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="cannot be read"):
        read_suite(tmp_path / "none.yaml")
