"""`turnwire eval` as it is run: a real server, a real WebSocket, a scripted model over HTTP."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from tests.server.cli.commands import CTRL_C, Result, terminal, turnwire

EXAMPLE = Path(__file__).parents[3] / "examples" / "evaluation" / "suite.yaml"
_ENDED = """
name: desk
turn_limit_s: 10
cases:
  - name: greets
    answers: [{answer}]
    turns: [{{say: Hello, expect: [{{equals: Hello}}]}}]
"""


def _suite(folder: Path, text: str) -> None:
    (folder / "suite.yaml").write_text(text)


async def _report(folder: Path, *options: str) -> tuple[Result, dict[str, Any]]:
    result = await turnwire(folder, "eval", "suite.yaml", "--json", "report.json", *options)
    return result, json.loads((folder / "report.json").read_text())


async def test_the_example_passes_and_its_report_says_what_was_played(tmp_path: Path) -> None:
    result = await turnwire(tmp_path, "eval", str(EXAMPLE), "--json", "report.json", "--repeat", "2")
    assert (result.code, result.err) == (0, "")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["suite_sha256"] == hashlib.sha256(EXAMPLE.read_bytes()).hexdigest()
    assert (report["suite"], report["candidate"], report["complete"]) == ("travel desk", None, True)
    assert {case["name"]: len(case["runs"]) for case in report["cases"]} == dict.fromkeys(
        (
            "greets",
            "repairs-what-does-not-fit",
            "keeps-what-was-heard",
            "stops-when-told",
            "survives-a-lost-connection",
            "looks-the-weather-up",
        ),
        2,
    )
    greeting = report["cases"][0]["runs"][0]["turns"][0]
    assert greeting["cost_usd"] > 0
    assert all(case["name"] in result.out for case in report["cases"])


async def test_a_regression_against_a_baseline_fails_and_the_same_again_does_not(tmp_path: Path) -> None:
    _suite(tmp_path, _ENDED.format(answer="Hello"))
    options = ("--baseline", "baseline.json")
    assert (await turnwire(tmp_path, "eval", "suite.yaml", *options, "--write-baseline")).code == 0
    assert (await turnwire(tmp_path, "eval", "suite.yaml", *options)).code == 0
    _suite(tmp_path, _ENDED.format(answer="Good day"))
    result, report = await _report(tmp_path, *options)
    assert result.code == 1
    assert "greets: passed in the baseline and fails now" in result.err
    assert "the suite has changed" in result.err
    assert report["cases"][0]["runs"][0]["turns"][0]["text"] == "Good day"


DISTURBED = """
name: disturbed
turn_limit_s: 20
cases:
  - name: interrupted
    answers: [["One two three", {stall: true}], "Yes."]
    turns:
      - {say: Count, interrupt_after: 13, presented: 7}
      - {say: "Stopped?"}
  - name: cancelled
    answers: [["One two", {stall: true}]]
    turns: [{say: Count, cancel_after: first_token}]
  - name: reconnected
    answers: [["One", {pause_s: 0.2}, " two", {pause_s: 0.2}, " three"]]
    turns: [{say: Count, reconnect_after: 3}]
  - name: too-short
    answers: ["One"]
    turns: [{say: Count, cancel_after: 100}]
  - name: cut
    answers: [["One", {cut: true}]]
    turns: [{say: Count}]
  - name: asks-too-often
    turns: [{say: Count, expect: [{ending: completed}]}]
  - name: asks-too-seldom
    answers: [One, two]
    turns: [{say: Count}]
configuration:
  routes: [{name: default, deployments: [mini], max_attempts: 1}]
  deployments: [{name: mini, model: m}]
"""


async def test_a_disturbed_conversation_gives_the_transcript_that_is_true(tmp_path: Path) -> None:
    _suite(tmp_path, DISTURBED)
    result, report = await _report(tmp_path)
    assert result.code == 1
    runs = {case["name"]: case["runs"][0] for case in report["cases"]}
    found = {name: [(turn["ending"], turn["text"]) for turn in run["turns"]] for name, run in runs.items()}
    assert found["interrupted"] == [("interrupted", "One two"), ("completed", "Yes.")]
    assert found["cancelled"] == [("cancelled", "One two")]
    assert found["reconnected"] == [("completed", "One two three")]
    assert {name: run["turns"][0]["reconnects"] for name, run in runs.items() if run["turns"][0]["reconnects"]} == {
        "reconnected": 1
    }
    assert "ended before cancel_after" in runs["too-short"]["turns"][0]["fault"]
    assert found["cut"][0][0] in ("failed", "incomplete")
    assert found["asks-too-often"][0][0] == "failed"
    assert runs["asks-too-seldom"]["fault"] == "1 answers of the scripted model were never asked for"
    passed = {case["name"] for case in report["cases"] if case["passed"]}
    assert passed == {"interrupted", "cancelled", "reconnected", "cut"}


async def test_a_turn_that_hangs_is_a_failed_case_and_the_next_is_played(tmp_path: Path) -> None:
    _suite(
        tmp_path,
        "name: s\nturn_limit_s: 1\ncases:\n"
        "  - {name: hangs, answers: [[One, {stall: true}]], turns: [{say: Count}, {say: never said}]}\n"
        "  - {name: goes-on, answers: [Two], turns: [{say: Count, expect: [{equals: Two}]}]}\n",
    )
    result, report = await _report(tmp_path)
    assert result.code == 1
    hangs, goes_on = report["cases"]
    (turn,) = hangs["runs"][0]["turns"]
    assert (turn["fault"], turn["ending"], hangs["score"]) == ("no end within 1 s", None, 0)
    assert goes_on["passed"]


async def test_ctrl_c_ends_it_without_a_report(tmp_path: Path) -> None:
    _suite(tmp_path, "name: s\ncases: [{name: hangs, answers: [[One, {stall: true}]], turns: [{say: Count}]}]\n")
    async with terminal(tmp_path, "eval", "suite.yaml", "--json", "report.json") as screen:
        await screen.shows("playing hangs")
        screen.type(CTRL_C)
        await screen.shows("stopped")
        assert await screen.gone() == 130
        assert "Traceback" not in screen.text
    assert not (tmp_path / "report.json").exists()


async def test_one_case_can_be_played_alone(tmp_path: Path) -> None:
    _suite(tmp_path, DISTURBED)
    result, report = await _report(tmp_path, "--only", "cancelled")
    assert result.code == 0
    assert ([case["name"] for case in report["cases"]], report["complete"]) == (["cancelled"], False)


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("name: s\ncases: []\n", (), "suite.yaml:2: cases"),
        ("name: s\nconfiguration: none.toml\ncases: [{name: a, turns: [{say: a}]}]\n", (), "none.toml cannot be read"),
        ("name: s\nconfiguration: {limit: {}}\ncases: [{name: a, turns: [{say: a}]}]\n", (), "limit"),
        ("name: s\ncases: [{name: a, turns: [{say: a}]}]\n", ("--only", "b"), "there is no case b"),
        ("name: s\ncases: [{name: a, turns: [{say: a}]}]\n", ("--baseline", "none.json"), "none.json: cannot be read"),
        ("name: s\ncases: [{name: a, turns: [{say: a}]}]\n", ("--baseline", "suite.yaml"), "not a report"),
        ("name: s\ncases: [{name: a, turns: [{say: a}]}]\n", ("--write-baseline",), "wants --baseline"),
        ("name: s\ncases: [{name: a, turns: [{say: a}]}]\n", ("--candidate", "desk:3"), "TENANT/NAME:VERSION"),
        ("name: s\ncases: [{name: a, turns: [{say: a}]}]\n", ("--candidate", "acme/desk:3"), "does not answer"),
    ],
)
async def test_what_cannot_be_evaluated_is_no_regression(
    tmp_path: Path, text: str, options: tuple[str, ...], said: str
) -> None:
    _suite(tmp_path, text)
    result = await turnwire(tmp_path, "eval", "suite.yaml", *options)
    assert result.code == 2
    assert said in result.err


async def test_configured_deployments_are_asked_and_the_environment_sets_nothing(tmp_path: Path) -> None:
    _suite(
        tmp_path,
        "name: s\nmodel: configured\nconfiguration: {deployments: [{name: shown, kind: demo}]}\n"
        "cases: [{name: asks, turns: [{say: Hello, expect: [{contains: demonstration model}]}]}]\n",
    )
    result = await turnwire(
        tmp_path, "eval", "suite.yaml", TURNWIRE_SERVER__PORT="nonsense", TURNWIRE_STORAGE__REDIS_URL="redis://x"
    )
    assert (result.code, result.err) == (0, "")


async def test_a_tool_without_a_result_is_a_fault_and_a_failing_one_is_told_to_the_model(tmp_path: Path) -> None:
    _suite(
        tmp_path,
        "name: s\nturn_limit_s: 10\ncases:\n"
        "  - name: fails\n    answers: [[{tool: {name: map}}], No map.]\n"
        "    turns:\n"
        "      - {say: Where, tools: [{name: map, error: torn}], expect: [{equals: No map.}, {tool_called: map}]}\n"
        "  - name: unknown\n    answers: [[{tool: {name: compass}}], Lost.]\n"
        "    turns: [{say: Where, tools: [{name: map, output: 1}], expect: [{tool_called: map}]}]\n",
    )
    result, report = await _report(tmp_path)
    assert result.code == 1
    fails, unknown = report["cases"]
    assert fails["passed"]
    assert not unknown["passed"]


_DESK = """
name: desk
turn_limit_s: 10
cases:
  - name: greets
    answers: [{answer}]
    turns: [{{say: Hello, variables: {variables}, expect: [{{equals: Hello}}]}}]
"""


async def test_a_prompt_is_released_by_the_report_that_was_made_with_it(tmp_path: Path) -> None:
    async def does(*arguments: str, code: int = 0) -> Result:
        result = await turnwire(tmp_path, *arguments, "--config", "turnwire.toml")
        assert result.code == code, result.err
        return result

    (tmp_path / "turnwire.toml").write_text("[tenants.default]\n[tenants.acme]\nrelease_by_report = true\n")
    (tmp_path / "kind.txt").write_text("Be kind to {{ customer }}.\n")
    await does("prompt", "add", "acme", "desk", "kind.txt", "--variable", "customer")
    assert "give the report" in (await does("prompt", "release", "acme", "desk", "1", code=1)).err
    made = ("eval", "suite.yaml", "--json", "report.json", "--candidate", "acme/desk:1")
    released = ("prompt", "release", "acme", "desk", "1", "--report", "report.json")

    # It is played with the version itself: without what that asks for nothing is answered.
    _suite(tmp_path, _DESK.format(answer="Hello", variables="{}"))
    assert "variables" in (await does(*made, code=1)).out
    assert "greets: failed" in (await does(*released, code=1)).err
    _suite(tmp_path, _DESK.format(answer="Hello", variables="{customer: Bo}"))
    await does(*made)
    assert json.loads((tmp_path / "report.json").read_text())["candidate"] == "acme/desk:1"
    assert (
        "the report is of acme/desk:1"
        in (await does("prompt", "release", "acme", "desk", "2", "--report", "report.json", code=1)).err
    )
    assert "version 1 is released" in (await does(*released)).out
    assert "has no version 7" in (await does(*made[:-1], "acme/desk:7", code=2)).err
