"""Whether answers fit, and what is said of those that do not."""

from __future__ import annotations

import pytest

from turnwire_server.orchestration.validation import misfit, to_repair

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "array", "items": {"type": "integer"}}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"city": "Ulm"}', None),
        (' {"city": "Ulm", "days": [1, 2]}\n', None),
        ("Ulm", "it is no JSON"),
        ("", "it is no JSON"),
        ('```json\n{"city": "Ulm"}\n```', "it is no JSON"),
        ('{"city": 3}', "at city: 3 is not of type 'string'"),
        ('{"days": []}', "'city' is a required property"),
        ('{"city": "Ulm", "days": [1, "x"]}', "at days/1: 'x' is not of type 'integer'"),
        ('{"city": "Ulm", "extra": 1}', "Additional properties are not allowed"),
    ],
)
def test_what_does_not_fit_is_told_in_words(text: str, why: str | None) -> None:
    found = misfit(text, SCHEMA)
    assert found is None if why is None else found is not None and why in found


def test_the_reason_is_short_however_long_the_answer_is() -> None:
    reason = misfit('{"city": ["%s"]}' % ("x" * 100_000), SCHEMA)
    assert reason is not None
    assert len(reason) <= 500


def test_a_model_that_answers_again_is_shown_what_it_said() -> None:
    prompt = to_repair([{"role": "user", "content": "Where?"}], "Ulm", "it is no JSON")
    assert [message["role"] for message in prompt] == ["user", "assistant", "user"]
    assert "it is no JSON" in prompt[-1]["content"]


def test_nothing_said_leaves_no_empty_message() -> None:
    assert [m["role"] for m in to_repair([{"role": "user", "content": "Where?"}], "", "it is no JSON")] == ["user"]
