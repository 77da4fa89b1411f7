"""What is explored: small worlds that together hold every step and every fault, and the larger ones run by hand.

Each has a handful of requests and a budget of faults; within it nothing is left out. `SMALL` is searched on every run
of the tests, `LARGE` takes minutes: ``python -m tests.model`` (or with names).
"""

from __future__ import annotations

from tests.model.state import Budget, Config, Life

ONE, TWO = (1,), (2,)
QUEUE = (Life(0), Life(1))
"""Two requests in one conversation."""
CONTENTS = (Life(0, 0), Life(0, 1))
"""Two contents of one request id, in two conversations."""
CONVERSATION = ("conversation",)


def _named(*configs: Config) -> dict[str, Config]:
    return {config.name: config for config in configs}


SMALL = _named(
    Config("cancel anywhere, a death, a slow archive", Budget(ONE, crashes=1, lapses=1), cancels=(0,), is_slow=True),
    Config("two creates, a lost reply, a late copy", Budget(TWO, lost_replies=1, late=1, lapses=1)),
    Config("a cancel and a loss", Budget(ONE, losses=1), cancels=(0,), losable=("both", "records")),
    Config("two losses", Budget(ONE, losses=2), losable=CONVERSATION),
    Config("a tool, a death", Budget(ONE, crashes=1, lapses=1), has_tool=True),
    Config("a tool, a loss, a death", Budget(ONE, crashes=1, losses=1, lapses=1), has_tool=True, losable=CONVERSATION),
    Config("two creates, a loss, a death", Budget(TWO, crashes=1, losses=1), losable=CONVERSATION, rollback=False),
    Config("a loss, a pause, a trim", Budget(ONE, losses=1, lapses=1, trims=1), losable=CONVERSATION, rollback=False),
    Config("a hand-over, a late copy, a pause", Budget(ONE, hand_overs=1, late=1, lapses=1)),
    Config("two creates, a refusal, a late copy", Budget(TWO, refusals=1, late=1)),
    Config("a refusal, a lost reply, a pause", Budget(ONE, refusals=1, lost_replies=1, lapses=1)),
    Config("a queue, a lost reply", Budget((1, 1), lost_replies=1), lives=QUEUE),
    Config("a queue, a cancel", Budget((1, 1)), lives=QUEUE, cancels=(1,)),
    Config("a queue, a refusal", Budget((1, 1), refusals=1), lives=QUEUE),
    Config("a queue, everything lost", Budget((1, 1), losses=1), lives=QUEUE, losable=CONVERSATION, rollback=False),
    Config("two contents, a cancel", Budget((1, 1)), lives=CONTENTS, cancels=(0,), is_slow=True),
    Config("two contents, lost records", Budget((1, 1), losses=1), lives=CONTENTS, losable=("records",)),
)

LARGE = _named(
    Config("cancel, loss, death", Budget(ONE, crashes=1, losses=1), cancels=(0,)),
    Config("cancel, loss, pause", Budget(ONE, losses=1, lapses=1), cancels=(0,)),
    Config("cancel, two losses", Budget(ONE, losses=2), cancels=(0,), losable=("both",)),
    Config("two creates, cancel, death, pause", Budget(TWO, crashes=1, lapses=1), cancels=(0,), is_slow=True),
    Config("two creates, loss, pause", Budget(TWO, losses=1, lapses=1), losable=CONVERSATION),
    Config("hand-over, loss, pause", Budget(ONE, hand_overs=1, losses=1, lapses=1)),
    Config("late copy, loss", Budget(ONE, late=1, losses=1)),
    Config("lost reply, loss, death", Budget(ONE, crashes=1, losses=1, lost_replies=1), losable=CONVERSATION),
    Config("tool, two losses, death", Budget(ONE, crashes=1, losses=2), has_tool=True, losable=CONVERSATION),
    Config("queue, cancel, death", Budget((1, 1), crashes=1), lives=QUEUE, cancels=(1,)),
    Config("queue, loss", Budget((1, 1), losses=1), lives=QUEUE, losable=("both",)),
    Config("queue, cancel, loss", Budget((1, 1), losses=1), QUEUE, (1,), CONVERSATION, rollback=False),
    Config("queue, refusal, fail-over", Budget((1, 1), losses=1, refusals=1), QUEUE, (), CONVERSATION, flush=False),
    Config("queue, refusal, loss", Budget((1, 1), losses=1, refusals=1), QUEUE, (), CONVERSATION, rollback=False),
    Config("queue, loss, death", Budget((1, 1), crashes=1, losses=1), lives=QUEUE, losable=CONVERSATION),
    Config(
        "two contents, loss, death", Budget((1, 1), crashes=1, losses=1), lives=CONTENTS, losable=("both", "records")
    ),
)
