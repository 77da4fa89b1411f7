"""Which messages of a branch make a page: the decisions, without the database.

MongoDB has no recursive query that can be told where to stop, so a branch is walked here. The walk is fed with
outlines of turns (ids, parent and sizes, no texts), goes from the leaf towards the root as far as it knows them, and
says which message it must be shown next. Only what it has chosen is read in full afterwards. No I/O; `mongo` feeds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outline:
    """A turn as the walk sees it; ``answer_bytes`` is None while its answer does not stand."""

    request_id: str
    ordinal: int
    parent: str | None
    input_id: str
    answer_id: str
    input_bytes: int
    answer_bytes: int | None


@dataclass(frozen=True, slots=True)
class Chosen:
    """A message that belongs on the page."""

    request_id: str
    message_id: str
    is_answer: bool


class BranchWalk:
    """One page of a branch. Call `add` with outlines and `advance` until it asks for nothing more."""

    def __init__(
        self,
        leaf: str | None,
        *,
        limit: int,
        max_bytes: int,
        below: bool,
        up_to_ordinal: int | None,
        without: Sequence[str],
    ) -> None:
        self._at = leaf
        self._limit = limit
        self._bytes_left = max_bytes
        self._skip_next = below
        self._up_to_ordinal = up_to_ordinal
        self._without = frozenset(without)
        self._turns: dict[str, Outline] = {}
        self._passed: set[str] = set()
        self._chosen: list[Chosen] = []
        self._more = False
        self._ordinal: int | None = None

    def __repr__(self) -> str:
        return f"<BranchWalk at={self._at} chosen={len(self._chosen)} known={len(self._turns)}>"

    @property
    def chosen(self) -> Sequence[Chosen]:
        """The messages of the page, newest first."""
        return self._chosen

    @property
    def next(self) -> str | None:
        """Where the page with older messages begins, None at the root."""
        return self._chosen[-1].message_id if self._more else None

    def add(self, turns: Iterable[Outline]) -> None:
        """Turns of the conversation that may lie on the branch."""
        for turn in turns:
            self._turns[turn.input_id] = self._turns[turn.answer_id] = turn

    def advance(self) -> str | None:
        """Go on as far as is known: the id of a message that must be shown first, or None when the page is done.

        A message that was asked for and cannot be shown is a hole, see `go_on_at`; as a leaf it is an empty branch.
        """
        while self._at is not None and not self._more:
            turn = self._turns.get(self._at)
            if turn is None:
                return self._at
            self._pass(turn, self._at)
        return None

    @property
    def ordinal(self) -> int | None:
        """The ordinal of the last turn that was passed, None before the first."""
        return self._ordinal

    def go_on_at(self, message_id: str) -> None:
        """What was asked for is not there: go on with the answer of the newest turn below `ordinal` instead."""
        self._at = message_id

    def _pass(self, turn: Outline, message_id: str) -> None:
        is_answer = message_id == turn.answer_id
        if self._is_shown(turn, is_answer):
            self._choose(turn, Chosen(turn.request_id, message_id, is_answer))
        self._skip_next = False
        self._ordinal = turn.ordinal
        self._passed.add(message_id)
        parent = turn.input_id if is_answer else turn.parent
        # Parents are older than their children, so a branch has no ring; a damaged one must not hang the reader.
        self._at = None if parent in self._passed else parent

    def _is_shown(self, turn: Outline, is_answer: bool) -> bool:
        return not (
            self._skip_next
            or (is_answer and turn.answer_bytes is None)
            or turn.request_id in self._without
            or (self._up_to_ordinal is not None and turn.ordinal > self._up_to_ordinal)
        )

    def _choose(self, turn: Outline, message: Chosen) -> None:
        self._bytes_left -= (turn.answer_bytes or 0) if message.is_answer else turn.input_bytes
        if self._chosen and (len(self._chosen) == self._limit or self._bytes_left < 0):
            self._more = True
        else:
            self._chosen.append(message)
