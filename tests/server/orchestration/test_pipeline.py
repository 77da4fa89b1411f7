"""The machine of a turn's stages: whole, and without a way that does not end."""

from __future__ import annotations

import pytest

from turnwire_server.orchestration.pipeline import FOLLOWS, Outcome, Stage, follow, resumed


def test_every_stage_but_the_last_goes_on_and_the_last_does_not() -> None:
    assert {stage for stage, _ in FOLLOWS} == set(Stage) - {Stage.RECORD}


def test_every_stage_is_reached_and_leads_to_the_record() -> None:
    reached = {Stage.CLASSIFY}
    while fresh := {after for (stage, _), after in FOLLOWS.items() if stage in reached} - reached:
        reached |= fresh
    assert reached == set(Stage)
    leading = {Stage.RECORD}
    while fresh := {stage for (stage, _), after in FOLLOWS.items() if after in leading} - leading:
        leading |= fresh
    assert leading == set(Stage)


def test_whatever_goes_round_goes_by_way_of_the_budgets() -> None:
    """`assemble` looks at the budgets: without it there is no circle."""
    paths = {
        stage: {to for (at, _), to in FOLLOWS.items() if at is stage and to is not Stage.ASSEMBLE} for stage in Stage
    }

    def walk(stage: Stage, seen: tuple[Stage, ...]) -> None:
        assert stage not in seen, f"a circle: {seen}"
        for after in paths[stage]:
            walk(after, (*seen, stage))

    for stage in Stage:
        walk(stage, ())


def test_an_outcome_that_a_stage_cannot_have_is_an_error() -> None:
    with pytest.raises(KeyError):
        follow(Stage.TOOLS, Outcome.REPAIR)


@pytest.mark.parametrize("stage", Stage)
def test_a_taker_asks_no_model_before_the_step_is_assembled(stage: Stage) -> None:
    assert resumed(stage) not in (Stage.MODEL, Stage.VALIDATE)
