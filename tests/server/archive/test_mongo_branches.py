"""The walk down a branch shows what a plain look at the whole tree would show, however little it is told at once."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from turnwire_server.archive.mongo_branches import BranchWalk, Outline


def turn(number: int, parent: str | None, answer_bytes: int | None = 10) -> Outline:
    return Outline(f"r{number}", number, parent, f"u{number}", f"a{number}", 10, answer_bytes)


def walked(
    turns: Sequence[Outline],
    leaf: str | None,
    *,
    limit: int = 100,
    max_bytes: int = 10**6,
    below: bool = False,
    up_to_ordinal: int | None = None,
    without: Sequence[str] = (),
    at_once: int = 1,
) -> tuple[list[str], str | None, int]:
    """The page, newest first, its ``next``, and how often the walk had to ask."""
    walk = BranchWalk(leaf, limit=limit, max_bytes=max_bytes, below=below, up_to_ordinal=up_to_ordinal, without=without)
    asked = 0
    while (wanted := walk.advance()) is not None:
        asked += 1
        found = next((one for one in turns if wanted in (one.input_id, one.answer_id)), None)
        if found is None:
            break
        walk.add(one for one in turns if found.ordinal - at_once < one.ordinal <= found.ordinal)
    return [message.message_id for message in walk.chosen], walk.next, asked


@st.composite
def trees(draw: st.DrawFn) -> list[Outline]:
    turns: list[Outline] = []
    for number in range(draw(st.integers(1, 12))):
        parents = [None, *(name for one in turns for name in (one.input_id, one.answer_id))]
        turns.append(turn(number, draw(st.sampled_from(parents)), draw(st.sampled_from([None, 5, 50]))))
    return turns


def plain(turns: Sequence[Outline], leaf: str, without: Sequence[str], up_to: int) -> list[str]:
    """Everything shown from the leaf to the root."""
    messages = {one.input_id: (one, one.parent, True) for one in turns}
    messages |= {one.answer_id: (one, one.input_id, one.answer_bytes is not None) for one in turns}
    shown: list[str] = []
    at: str | None = leaf
    while at is not None:
        one, parent, stands = messages[at]
        if stands and one.request_id not in without and one.ordinal <= up_to:
            shown.append(at)
        at = parent
    return shown


@given(st.data(), trees(), st.integers(1, 5), st.sampled_from([1, 20, 60, 1000]), st.integers(1, 6))
def test_pages_put_together_are_the_whole_branch(
    data: st.DataObject, turns: list[Outline], limit: int, max_bytes: int, at_once: int
) -> None:
    leaf = data.draw(st.sampled_from([name for one in turns for name in (one.input_id, one.answer_id)]))
    without = data.draw(st.lists(st.sampled_from([one.request_id for one in turns]), max_size=3))
    up_to = data.draw(st.integers(0, len(turns)))
    at: str | None = leaf
    seen: list[str] = []
    while at is not None:
        page, following, _ = walked(
            turns,
            at,
            limit=limit,
            max_bytes=max_bytes,
            below=bool(seen),
            up_to_ordinal=up_to,
            without=without,
            at_once=at_once,
        )
        assert len(page) <= limit
        assert following in (None, *page[-1:])
        seen, at = seen + page, following
    assert seen == plain(turns, leaf, without, up_to)


def test_a_straight_branch_is_asked_for_once_in_a_window() -> None:
    turns = [turn(number, f"a{number - 1}" if number else None) for number in range(100)]
    page, following, asked = walked(turns, "a99", limit=20, at_once=20)
    assert (len(page), following, asked) == (20, "u90", 1)


def test_a_message_that_cannot_be_shown_ends_the_branch() -> None:
    assert walked([turn(5, "lost")], "a5")[:2] == (["a5", "u5"], None)


def test_a_ring_does_not_hang_the_reader() -> None:
    assert walked([turn(1, "a2"), turn(2, "a1")], "a2")[:2] == (["a2", "u2", "a1", "u1"], None)
