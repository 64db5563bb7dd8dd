"""The forecast of requests against what a scripted study really asks."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tutelage.study.write.forecast import forecast
from tutelage.study.write.labelling import Labeller
from tutelage.study.write.planning import Planner
from tutelage.study.write.writing import Writer


@pytest.mark.parametrize("two_steps", [False, True])
@pytest.mark.parametrize("ask", ["family", "task"])
@pytest.mark.parametrize("each", [30, None])
def test_forecasts_come_near(brain: Any, study: Any, helpers: Any, ask: str, two_steps: bool, each: int | None) -> None:
    def hook(kind: str, value: Any, seed: int) -> Any:
        # Stories as long as stories are expected to be, on several lines.
        if "texts" in value and "story" in asked[0]:
            return {"texts": ["\n".join([f"{text} " * 15] * 2) for text in value["texts"]]}
        return value

    asked = [""]
    usual = brain.value
    brain.value = lambda text, seed: (asked.__setitem__(0, text), usual(text, seed))[1]
    brain.hook = hook
    settings = study(
        writing={"words": 12_000, "examples_per_task": each},
        labelling={"ask": ask, "votes": 2},
        teacher={"two_steps": two_steps},
    )
    teacher = helpers.Scripted(brain)
    plan = Planner(teacher, settings).plan()
    texts = list(Writer(teacher, settings, plan).examples())
    assert list(Labeller(teacher, settings, plan).examples(texts))
    found = Counter(request.purpose.partition("/")[0] for request in teacher.asked.values())
    before, after = forecast(settings), forecast(settings, plan)
    assert before["plan"] == found["plan"]
    assert after["plan"] == 0
    for stage in ("write", "label"):
        assert before[stage] == after[stage] == pytest.approx(found[stage], rel=0.5)


@pytest.mark.parametrize("ask", ["family", "task"])
@pytest.mark.parametrize("names", [("mood",), ("mood", "pos"), ("follows",), None])
def test_only_tasks_that_are_labelled_are_forecast(
    brain: Any, study: Any, plan: Any, helpers: Any, ask: str, names: tuple[str, ...] | None
) -> None:
    # Nothing but texts of tasks with labels, whose form is known.
    lessons = tuple(lesson for lesson in plan.lessons if lesson.kind != "generation")
    plan = plan.model_copy(update={"lessons": lessons})
    settings = study(writing={"words": 12_000}, labelling={"ask": ask, "tasks": names})
    teacher = helpers.Scripted(brain)
    texts = list(Writer(teacher, settings, plan).examples())
    before = len(teacher.asked)
    assert list(Labeller(teacher, settings, plan).examples(texts))
    assert forecast(settings, plan)["label"] == len(teacher.asked) - before
    if names is not None:
        assert (
            forecast(settings)["label"] <= forecast(study(writing={"words": 12_000}, labelling={"ask": ask}))["label"]
        )
