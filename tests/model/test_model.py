"""The design holds in every small world, and every mistake that could be made in it is found.

The second half tests the first: a model in which a forgotten rule breaks nothing would prove nothing. Each mistake
switches one rule off (or two that stand in for each other) and names the guarantee that must break.
"""

from __future__ import annotations

from dataclasses import fields

import pytest
from tests.model.configurations import LARGE, SMALL
from tests.model.explore import Explored, canonical, explore, swapped
from tests.model.log_model import Model
from tests.model.rules import Rules

# Not below these: an exploration that shrinks silently finds nothing any more.
LEAST = {
    "cancel anywhere, a death, a slow archive": 13_000,
    "two creates, a lost reply, a late copy": 26_000,
    "a cancel and a loss": 22_500,
    "two losses": 10_500,
    "a tool, a death": 650,
    "a tool, a loss, a death": 41_000,
    "two creates, a loss, a death": 5_500,
    "a loss, a pause, a trim": 3_600,
    "a hand-over, a late copy, a pause": 13_000,
    "two creates, a refusal, a late copy": 2_900,
    "a refusal, a lost reply, a pause": 950,
    "a queue, a lost reply": 3_000,
    "a queue, a cancel": 13_500,
    "a queue, a refusal": 1_700,
    "a queue, everything lost": 77_000,
    "two contents, a cancel": 2_700,
    "two contents, lost records": 1_200,
}

SLOW = "cancel anywhere, a death, a slow archive"
REPLIES = "two creates, a lost reply, a late copy"
CANCEL_LOSS = "a cancel and a loss"
LOSSES = "two losses"
TOOL_DEATH = "a tool, a death"
TOOL_LOSS = "a tool, a loss, a death"
CREATES_LOSS = "two creates, a loss, a death"
TRIM = "a loss, a pause, a trim"
HAND_OVER = "a hand-over, a late copy, a pause"
REFUSAL = "two creates, a refusal, a late copy"
REPLY = "a refusal, a lost reply, a pause"
QUEUE_REPLY = "a queue, a lost reply"
QUEUE_LOSS = "a queue, everything lost"
QUEUE_REFUSAL_LOSS = "queue, refusal, fail-over"
CONTENTS = "two contents, a cancel"
CONTENTS_LOSS = "two contents, lost records"

# (the rules that are forgotten, the configuration that shows it, the guarantee that breaks)
MISTAKES = [
    # reserve
    ("reserve_compares", CONTENTS, "5: the archive has `completed`"),
    # claim
    ("claim_finds_first", REPLIES, "1: a request goes back"),
    ("claim_looks_again", SLOW, "5: "),
    ("doubt_refuses_claims", CREATES_LOSS, "2: what was seen is lost"),
    ("claim_names_its_fence append_compares_owner", REPLY, "3: "),
    # the archive
    ("archive_is_unique", CONTENTS_LOSS, "3: events of a request that the archive does not own"),
    ("archive_orders", QUEUE_LOSS, "1: two requests have one place"),
    ("archive_before_append", TOOL_DEATH, "3: events of a request that the archive does not own"),
    ("end_once", TOOL_LOSS, "4: the archive's ending is changed"),
    # append
    ("append_fenced", SLOW, "3: a node writes after it was taken over"),
    ("append_compares_owner", LOSSES, "3: a node writes after it was taken over"),
    ("append_skips", REPLIES, "1: an event is in the log twice"),
    # post
    ("post_stores", SLOW, "5: "),
    ("post_settles", SLOW, "5: "),
    ("cancel_writes_first", SLOW, "5: "),
    ("cancel_is_archived", CANCEL_LOSS, "5: "),
    # seal
    ("seal_hears", SLOW, "5: "),
    # finish
    ("finish_asks_archive", TOOL_LOSS, "4: what is published is not the archive's ending"),
    ("finish_promotes", QUEUE_REPLY, "4: something never ends"),
    ("finish_recognised", QUEUE_REPLY, "1: an event is in the log twice"),
    # release
    ("release_own", REFUSAL, "4: a create that is being acknowledged loses its turn"),
    ("release_own release_unshown", REFUSAL, "2: a request that was shown vanishes"),
    ("release_strange", CREATES_LOSS, "4: something never ends"),
    ("release_buries", REFUSAL, "3: a create that was refused is carried out"),
    # hand over
    ("hand_over_fenced", HAND_OVER, "3: a turn is taken from a node that lives"),
    # take over
    ("take_over_waits", SLOW, "3: a turn is taken from a node that lives"),
    ("take_over_raises", HAND_OVER, "3: a turn is taken from a node that lives"),
    ("take_over_asks", LOSSES, "3: a node writes after it was taken over"),
    ("take_over_own", LOSSES, "4: something never ends"),
    ("taker_looks", SLOW, "5: "),
    # loss and re-entry
    ("loss_is_noticed", LOSSES, "1: what lies below a seq changes"),
    ("reenter_new_epoch", LOSSES, "1: what lies below a seq changes"),
    ("reenter_yields", LOSSES, "3: a node writes after it was taken over"),
    ("reenter_in_doubt", TRIM, "3: a node writes after it was taken over"),
    ("reenter_asks", TRIM, "3: a node writes after it was taken over"),
    ("reenter_asks_again", LOSSES, "3: a node writes after it was taken over"),
    ("reenter_shown", QUEUE_LOSS, "2: what was seen is lost"),
    ("reenter_one_floor", QUEUE_REFUSAL_LOSS, "3: two turns have the floor"),
    # rebuild
    ("rebuild_waits", LOSSES, "2: what was seen is lost although its owner lives"),
    ("rebuild_leaves_known", TRIM, "3: a turn is taken from a node that lives"),
    ("rebuild_leaves_known", TRIM, "4: a request that has ended begins again"),
    ("doubt_sweeps", LOSSES, "4: something never ends"),
    # tools
    ("effect_marked", TOOL_LOSS, "11: "),
    ("effect_marked effect_told", TOOL_DEATH, "11: "),
]


def found_without(forgotten: str, name: str, guarantee: str) -> Explored:
    rules = Rules(**dict.fromkeys(forgotten.split(), False))
    return explore(Model((SMALL | LARGE)[name], rules), most=100_000, only=guarantee)


@pytest.mark.parametrize("name", SMALL)
def test_every_guarantee_holds_in_every_state(name: str) -> None:
    found = explore(Model(SMALL[name]))
    assert found.counterexample is None, str(found.counterexample)
    assert found.is_complete
    assert found.states >= LEAST[name]


@pytest.mark.parametrize(("forgotten", "name", "guarantee"), MISTAKES)
def test_a_mistake_is_found(forgotten: str, name: str, guarantee: str) -> None:
    found = found_without(forgotten, name, guarantee)
    assert found.counterexample is not None
    assert found.counterexample.what.startswith(guarantee)


def test_every_rule_has_its_mistake() -> None:
    tried = {rule for forgotten, _, _ in MISTAKES for rule in forgotten.split()}
    assert tried == {rule.name for rule in fields(Rules)}


def test_a_counterexample_is_the_same_every_time_and_told_step_by_step() -> None:
    first, second = (found_without("append_skips", REPLIES, "1: ") for _ in range(2))
    assert first.counterexample == second.counterexample
    assert str(first.counterexample).splitlines() == [
        "breaks 1: an event is in the log twice",
        "  1 a client sends create 0 to A",
        "  2 A's reserve of request 0: done",
        "  3 A's claim of request 0: running",
        "  4 A's look of request 0: no cancel is recorded",
        "  5 A's archive of request 0: open",
        "  6 A's created of request 0: written, but the reply is lost",
        "  7 A's created of request 0: written",
    ]


def test_the_names_of_the_nodes_do_not_matter() -> None:
    model = Model(SMALL[SLOW])
    state = model.config.start()
    for _ in range(12):  # somewhere into a life, always by the last move there is
        state = list(model.moves(state))[-1].state
        assert swapped(swapped(state)) == state
        assert canonical(swapped(state)) == canonical(state)
