"""Finding again what was said earlier."""

from __future__ import annotations

from turnwire_protocol import Message, TextPart
from turnwire_server.gateway.usage import count_by_characters
from turnwire_server.orchestration.earlier import Earlier, Memory
from turnwire_server.orchestration.memory import EMPTY, WordIndex, words_of


def said(number: int, text: str, role: str = "user") -> Message:
    return Message(
        message_id=f"m{number}", request_id=f"r{number}", role=role, parts=[TextPart(text=text)], status="complete",  # type: ignore[arg-type]
        created_at=1, ordinal=number,
    )  # fmt: skip


def index(*texts: str) -> WordIndex:
    return EMPTY.extended(said(number, text) for number, text in enumerate(texts))


def found(among: WordIndex, question: str, most: int = 400) -> list[int]:
    return [memory.ordinal for memory in among.find(question, most, count_by_characters)]


def test_rare_words_find_and_common_ones_do_not() -> None:
    talk = [f"the weather of day {n} was fine" for n in range(100)]
    talk[7] = "the name of my cat is Mimi"
    assert found(index(*talk), "What is the name of my CAT?") == [7]
    assert found(index(*talk), "the weather was fine of what") == []
    assert found(index(*talk), "") == []


def test_what_shares_most_rare_words_comes_first() -> None:
    talk = index("red apple", "green pear", "apple pear tart", "blue")
    assert found(talk, "apple and pear") == [2, 1, 0]
    assert found(talk, "apple and pear", most=4) == [2]


def test_scripts_without_spaces_are_found_by_pairs() -> None:
    assert words_of("東京都") == {"東京", "京都"}
    assert found(index("私は東京に住んでいます", "天気がいい"), "東京の住所は？") == [0]


def test_of_a_long_text_the_place_is_shown() -> None:
    (memory,) = index(f"{'x ' * 1000}the key is under the mat {'y ' * 1000}").find("mat", 400, count_by_characters)
    assert "under the mat" in memory.text
    assert memory.text.startswith("… ")
    assert memory.text.endswith(" …")
    assert len(memory.text) < 420


def test_an_index_that_is_extended_stays_as_it_is() -> None:
    before = index("apple")
    after = before.extended([said(1, "pear")])
    assert (len(before), len(after)) == (1, 2)
    assert found(before, "pear") == []
    assert found(after, "pear apple") == [1, 0]


def test_they_stand_in_the_order_of_the_talk_and_as_many_as_fit() -> None:
    earlier = Earlier(memories=[Memory(9, "user", "second"), Memory(2, "assistant", "first")])
    block = earlier.blocks()[1]
    assert block.index("first") < block.index("second")
    assert [one.text for one in earlier.within(count_by_characters("second"), count_by_characters).memories] == [
        "second"
    ]
    assert earlier.within(0, count_by_characters).blocks() == []
