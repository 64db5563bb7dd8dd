"""Lengths become steps; what cannot be is refused before anything trains."""

from dataclasses import dataclass
from typing import Any

import pytest

from tutelage import recipe
from tutelage.base.errors import UserError
from tutelage.recipe.load import recipe_from_text
from tutelage.training.plan import Plan, plan

WORDS_PER_TOKEN = 0.75


@dataclass
class Rows:
    """As much of a source as a plan asks about: 1000 tokens a step."""

    tokens_per_epoch: int = 20_500
    steps_per_epoch: float = 20.5


def plan_of(schedule: Any = None, span: Any = None, temperature: Any = 1.0, steps: int = 101) -> Plan:
    distill = {"weight": 0.6, "temperature": temperature, **({"schedule": schedule} if schedule else {})}
    taught = {"teachers": ["t"], "objectives": {"next_token": 0.4, "distill": distill}}
    stages = [{"span": span, **taught}, {}] if span is not None else [taught]
    model = recipe.Model.model_validate({"preset": "llama-1m", "steps": steps, "stages": stages})
    return plan("m", model, Rows(), WORDS_PER_TOKEN)


@pytest.mark.parametrize(
    ("written", "steps"),
    [(17, 17), ("17%", 17), ("16.6%", 17), ("17K tokens", 17), ("17400 tokens", 17), ("12K words", 16), ("99.6%", 101)],
)
def test_lengths(written: Any, steps: int) -> None:
    if steps < 101:
        assert plan_of(span=written).ends == (steps, 101)
    assert plan_of({"kind": "linear", "over": written}).taught_until(0) == steps


def test_a_schedule_counts_from_its_stage_and_ends_with_it_unless_told() -> None:
    text = """
name: x
models:
  t: {preset: llama-1m, steps: 3}
  m:
    preset: llama-1m
    steps: 101
    stages:
      - {span: 10}
      - {span: 40, teachers: [t], objectives: {next_token: 0.4, distill: {weight: 0.6, schedule: linear}}}
      - {span: 20, teachers: [t], objectives: {next_token: 0.4, distill: {schedule: {kind: step, over: 5}}}}
      - {}
"""
    made = plan("m", recipe_from_text(text).models["m"], Rows(), WORDS_PER_TOKEN)
    assert made.ends == (10, 50, 70, 101)
    assert [made.taught_until(stage) for stage in range(4)] == [10, 50, 55, 101]
    assert [made.share_at(step) for step in (9, 10, 30, 49, 50, 54, 55, 69, 70)] == pytest.approx(
        [1, 1, 0.5, 1 / 40, 1, 1, 0, 0, 1]
    )
    assert [made.phase_at(step) for step in (9, 10, 54, 55, 70)] == [
        (0, True), (1, True), (2, True), (2, False), (3, True)
    ]  # fmt: skip


def test_a_temperature_lasts_as_long_as_the_teachers_unless_told() -> None:
    made = plan_of({"kind": "linear", "over": 50}, temperature={"start": 4, "end": 1})
    assert [made.temperature_at(step) for step in (0, 25, 50)] == [4, 2.5, 1]
    assert plan_of().temperature_at(0) is None


@pytest.mark.parametrize(
    ("schedule", "span", "message"),
    [
        ({"kind": "linear", "over": 102}, None, r"over=102 is 102 steps, but the stage has only 101, .*never end"),
        ({"kind": "cosine", "over": "30%"}, 20, r"models\.m\.stages\.0\.objectives\.distill\.schedule\.over=30% is 30"),
        ({"kind": "linear", "over": "300 tokens"}, None, "less than one of 101 steps"),
        ({"kind": "step", "over": "100%"}, None, "never ends"),
        ({"kind": "step", "over": 101}, None, "never ends"),
        ({"kind": "wsd", "over": 50, "warmup": 30, "decay": 21}, None, "warmup of 30 steps and a decay of 21 overlap"),
        ({"kind": "wsd", "over": 50, "warmup": 41}, None, "decay of 10 overlap"),
        ({"kind": "wsd", "over": 50, "decay": 51}, None, r"decay=51 is 51 steps, but `over` has only 50"),
    ],
)
def test_schedules_that_cannot_be(schedule: Any, span: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_of(schedule, span)


def test_a_temperature_beyond_the_teachers_is_refused() -> None:
    with pytest.raises(UserError, match=r"temperature\.over=60 is 60 steps, .* teach has only 50"):
        plan_of({"kind": "linear", "over": 50}, temperature={"start": 4, "end": 1, "over": 60})


def test_a_step_may_end_where_its_stage_does() -> None:
    assert plan_of({"kind": "step", "over": 20}, span=20).taught_until(0) == 20
