"""`turnwire prompt`, without a server; beside one it is tried in `tests/e2e/test_prompts`."""

from __future__ import annotations

import getpass
from pathlib import Path

import pytest
from tests.server.cli.test_tenant import Command


@pytest.fixture
def turnwire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    Path("one.txt").write_text("Be kind to {{ customer }}.\n")
    Path("two.txt").write_text("Be {{ tone }} to {{ customer }}.\n")
    return Command(tmp_path)


def add_two(turnwire: Command) -> None:
    turnwire.does("prompt", "add", "acme", "support", "one.txt", "--variable", "customer", "--note", "first")
    turnwire.does(
        "prompt", "add", "acme", "support", "two.txt", "-v", "customer", "-v", "tone=kind", "--max-chars", "customer=80"
    )


def test_a_prompt_from_its_draft_to_its_release(turnwire: Command) -> None:
    said = turnwire.does("prompt", "add", "acme", "support", "one.txt", "-v", "customer", "--note", "first")
    assert said == "prompt support of tenant acme: version 1 is a draft\n"
    again = turnwire.does("prompt", "add", "acme", "support", "one.txt", "-v", "customer")
    assert again == "prompt support of tenant acme: version 1 is the same already\n"
    said = turnwire.does("prompt", "release", "acme", "support", "1")
    assert said == "prompt support of tenant acme: version 1 is released, on all nodes within 2 s\n"
    turnwire.does("prompt", "add", "acme", "support", "two.txt", "-v", "customer", "-v", "tone=kind")
    said = turnwire.does("prompt", "candidate", "acme", "support", "2", "--share", "10", "--actor", "carol")
    assert "version 1 is released, 10 % of the conversations get version 2, on all nodes" in said
    shown = turnwire.json("prompt", "show", "acme", "support")
    assert [one["state"] for one in shown["all"]] == ["released", "candidate"]
    assert (shown["shown"], shown["text"]) == (1, "Be kind to {{ customer }}.\n")
    assert shown["all"][1]["variables"] == {"customer": {}, "tone": {"default": "kind"}}
    said = turnwire.does("prompt", "release", "acme", "support", "2")
    assert "version 2 is released, on all nodes" in said
    (listed,) = turnwire.json("prompt", "list", "acme")
    assert (listed["released"], listed["candidate"], listed["share"], listed["versions"]) == (2, None, 0, 2)
    assert "stands so already" in turnwire.does("prompt", "release", "acme", "support", "2")
    me, moved = getpass.getuser(), {"prompt": "support", "candidate": None, "share": 0}
    assert [(entry["actor"], entry["act"], entry["details"]) for entry in turnwire.json("audit")] == [
        (me, "prompt.add", {"prompt": "support", "version": 1, "characters": 27, "variables": ["customer"]}),
        (me, "prompt.release", {**moved, "released": 1}),
        (me, "prompt.add", {"prompt": "support", "version": 2, "characters": 33, "variables": ["customer", "tone"]}),
        ("carol", "prompt.candidate", {**moved, "released": 1, "candidate": 2, "share": 10}),
        (me, "prompt.release", {**moved, "released": 2}),
    ]


def test_versions_are_shown_and_compared_as_people_read_them(turnwire: Command) -> None:
    add_two(turnwire)
    shown = turnwire.does("prompt", "show", "acme", "support", "--version", "2")
    assert "draft" in shown
    assert "customer, tone=…" in shown
    assert shown.endswith("--- version 2\nBe {{ tone }} to {{ customer }}.\n\n")
    assert turnwire.does("prompt", "diff", "acme", "support", "1", "2").splitlines() == [
        "--- version 1",
        "+++ version 2",
        "@@ -1,2 +1,3 @@",
        "-variable customer (at most 1000 characters)",
        "-Be kind to {{ customer }}.",
        "+variable customer (at most 80 characters)",
        "+variable tone=kind (at most 1000 characters)",
        "+Be {{ tone }} to {{ customer }}.",
    ]
    assert turnwire.does("prompt", "diff", "acme", "support", "2", "2") == "versions 2 and 2 are the same\n"
    assert turnwire.does("prompt", "list", "acme").split()[6:8] == ["support", "2"]
    assert turnwire.json("prompt", "list", "globex") == []


def test_a_trial_can_be_ended(turnwire: Command) -> None:
    add_two(turnwire)
    turnwire.does("prompt", "release", "acme", "support", "1")
    turnwire.does("prompt", "candidate", "acme", "support", "2", "--share", "50")
    said = turnwire.does("prompt", "candidate", "acme", "support", "2", "--share", "0")
    assert said == "prompt support of tenant acme: version 1 is released, on all nodes within 2 s\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("show acme nothing", 1, "tenant acme has no prompt nothing; it has: support"),
        ("show globex support", 1, "tenant globex has no prompt support; it has: none"),
        ("show acme support --version 7", 1, "prompt support has no version 7; the newest is 2"),
        ("diff acme support 1 7", 1, "prompt support has no version 7; the newest is 2"),
        ("release acme support 3", 1, "prompt support has no version 3; the newest is 2"),
        (
            "candidate acme support 1 --share 5",
            1,
            "no version of prompt support is released: there is nothing for the other conversations",
        ),
        ("add acme support absent.txt", 2, "absent.txt: cannot be read: No such file or directory"),
        (
            "add acme support two.txt -v customer",
            2,
            "two.txt: uses 'tone', which it does not declare; declared: customer",
        ),
        (
            "add acme support one.txt -v customer -v user",
            2,
            "one.txt: 'user' cannot be declared: it has a meaning of its own",
        ),
        ("add acme support one.txt -v customer -v customer=x", 2, "--variable customer: given twice"),
        (
            "add acme support one.txt --max-chars customer=9",
            2,
            "--max-chars customer=9: there is no --variable customer",
        ),
        ("add acme support one.txt -v customer --max-chars customer=x", 2, "--max-chars customer=x: expected NAME=N"),
        ("add a/b support one.txt", 2, "tenant a/b: a name must be 1 to 64 characters of A-Z a-z 0-9 _ - . :"),
        ("add acme a/b one.txt", 2, "prompt a/b: a name must be 1 to 64 characters of A-Z a-z 0-9 _ - . :"),
    ],
)
def test_what_is_asked_wrongly_is_said_and_changes_nothing(
    turnwire: Command, arguments: str, code: int, said: str
) -> None:
    add_two(turnwire)
    before = turnwire.json("prompt", "list", "acme")
    assert turnwire.fails("prompt", *arguments.split(), code=code) == said
    assert turnwire.json("prompt", "list", "acme") == before


def test_a_tenant_has_a_text_or_a_prompt(turnwire: Command) -> None:
    turnwire.does("tenant", "add", "acme", "prompt=support")
    assert "must have at most one of system_prompt and prompt" in turnwire.fails(
        "tenant", "set", "acme", "system_prompt=Hello", code=2
    )
    turnwire.does("tenant", "set", "acme", "prompt=", "system_prompt=Hello")
