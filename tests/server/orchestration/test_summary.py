"""What goes into a summary: whole turns, none twice, none lost."""

from __future__ import annotations

import orjson
from hypothesis import given
from hypothesis import strategies as st

from turnwire_protocol import Message, TextPart, ToolCallPart
from turnwire_server.orchestration.summary import portion, split, summary_prompt

TURNS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=12)


def talk(sizes: list[tuple[int, int]]) -> list[Message]:
    messages = []
    for number, both in enumerate(sizes):
        for role, size in zip(("user", "assistant"), both, strict=True):
            messages.append(
                Message(
                    message_id=f"{role}{number}",
                    request_id=f"r{number}",
                    role=role,  # type: ignore[arg-type]
                    parts=[TextPart(text="x" * size)],
                    status="complete",
                    created_at=1,
                    ordinal=number,
                )
            )
    return messages


def size(message: Message) -> int:
    return sum(len(part.text) for part in message.parts if isinstance(part, TextPart))


@given(TURNS, st.integers(0, 300))
def test_the_newest_turns_that_fit_stay_and_all_before_them_are_covered(
    sizes: list[tuple[int, int]], keep: int
) -> None:
    messages = talk(sizes)
    covered, stays = split(messages, keep, size)
    assert covered + stays == messages
    assert sum(map(size, stays)) <= keep
    assert len(covered) % 2 == len(stays) % 2 == 0
    if covered:
        assert sum(map(size, stays)) + sum(map(size, covered[-2:])) > keep


@given(TURNS, st.integers(1, 300))
def test_portions_are_whole_turns_in_order_and_come_to_an_end(sizes: list[tuple[int, int]], most: int) -> None:
    left = messages = talk(sizes)
    taken: list[Message] = []
    while left:
        part = portion(left, most, size)
        assert part
        assert len(part) % 2 == 0
        assert len(part) == 2 or sum(map(size, part)) <= most
        taken, left = taken + part, left[len(part) :]
    assert taken == messages


def test_what_was_said_is_data() -> None:
    call = ToolCallPart(call_id="c", name="look", where="server", arguments={}, state="completed", output="o" * 50)
    answer = Message(
        message_id="a", request_id="r", role="assistant", parts=[call, TextPart(text="so")], status="complete",
        created_at=1,
    )  # fmt: skip
    system, user = summary_prompt("before", [*talk([(3, 0)]), answer], 600, 10)
    assert "at most 360 words" in system["content"]
    assert orjson.loads(user["content"]) == {
        "record so far": "before",
        "said since": [
            {"by": "user", "text": "xxx"},
            {"by": "tool", "name": "look", "text": "o" * 10},
            {"by": "assistant", "text": "so"},
        ],
    }
