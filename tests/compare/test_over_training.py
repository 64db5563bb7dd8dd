"""Who is whose control, when a student reaches its control's loss, and how far apart both are on the way."""

from __future__ import annotations

from html import unescape
from typing import Any

import numpy as np
import pytest

from tutelage.compare.comparisons import student_and_control, with_comparisons
from tutelage.compare.cost import cost_of
from tutelage.compare.over_training import crossing, curve_difference, reached
from tutelage.compare.statistics import paired_t
from tutelage.compare.summary import read_models, read_summary
from tutelage.report import plots, report
from tutelage.report.headline import headline, verdicts_table
from tutelage.report.table_training import curve_table, reached_table

FLOPS_A_STEP = 1000.0
TEACHING = 200.0


def run(losses: list[float], seconds_ahead: float = 0.0, taught: int = 0) -> dict[str, Any]:
    """A training evaluated every 100 steps; `taught`: the steps in which teachers were asked."""
    steps = [100 * (i + 1) for i in range(len(losses))]
    flops = [FLOPS_A_STEP * step + TEACHING * min(step, taught) for step in (0, *steps)]
    return {
        "steps": steps[-1],
        "flops": FLOPS_A_STEP * steps[-1],
        "teacher_flops": TEACHING * taught,
        "seconds": seconds_ahead + steps[-1] / 10,
        "test": {"loss": losses[-1]},
        "curves": {
            "val_loss": [[step, 10 * step, loss] for step, loss in zip(steps, losses, strict=True)],
            "flops": [[step, 10 * step, value] for step, value in zip((0, *steps), flops, strict=True)],
            "seconds": [[step, 10 * step, seconds_ahead + step / 10] for step in (0, *steps)],
        },
    }


def model(role: str, *runs: dict[str, Any], **more: Any) -> dict[str, Any]:
    seeds = {str(seed): one for seed, one in enumerate(runs)}
    return {"role": role, "architecture": "llama", "parameters": 100, "seeds": seeds, **more}


@pytest.fixture
def models() -> dict[str, Any]:
    """Two students of one teacher that are like one baseline, and a baseline at the FLOPs of the first."""
    taught = run([4.5, 2.5, 2.0], 3.0, 100), run([4.7, 3.7, 2.7], 3.0, 100)
    return {
        "small": model("teacher", run([5.0, 4.5]), parameters=50),
        "baseline": model("control", run([5.0, 4.0, 3.0]), run([5.2, 4.2, 3.2])),
        "salt": model("student", *taught, like="baseline", teachers=["small"]),
        "salt-ds": model(
            "student", run([4.0, 3.5, 3.1]), run([4.6, 3.2, 3.0]), like="salt", teachers=["small@step-100"]
        ),
        "baseline-flops": model("control", run([5.0, 4.0, 3.0, 2.5]), like="baseline", flops_of="salt"),
    }


def test_crossing_is_where_a_dense_look_along_the_curve_finds_it() -> None:
    draw = np.random.default_rng(0)
    for _ in range(200):
        steps = np.cumsum(draw.integers(1, 50, draw.integers(1, 9)))
        losses = draw.integers(0, 12, len(steps)) / 2
        curve = [(int(step), 0, float(loss)) for step, loss in zip(steps, losses, strict=True)]
        loss = float(draw.integers(-1, 14) / 4)
        dense = np.union1d(np.linspace(steps[0], steps[-1], 20_001), steps)
        below = np.flatnonzero(np.interp(dense, steps, losses) <= loss + 1e-9)
        found = crossing(curve, loss)
        assert (found is None) == (len(below) == 0)
        if found is not None:
            assert found == pytest.approx(dense[below[0]], abs=(steps[-1] - steps[0]) / 10_000 + 1e-9)


def test_what_a_student_takes_to_its_controls_loss(models: dict[str, Any]) -> None:
    found = reached(read_models(models), "salt", "baseline")
    assert found is not None
    first, second = found.seeds
    # 2.5 at step 200 is below 3.0: a quarter of the fall from 4.5 is left after 175 steps.
    assert first.student is not None
    assert (first.loss, first.student.steps, first.control.steps) == (3.0, 175.0, 300.0)
    assert first.student.flops == 175 * FLOPS_A_STEP + 100 * TEACHING
    assert first.student.seconds == 3.0 + 17.5
    teacher = 200 * FLOPS_A_STEP
    assert first.student.flops_with_teachers == first.student.flops + teacher
    assert first.student.seconds_with_teachers == first.student.seconds + 20
    assert first.control.flops_with_teachers == first.control.flops == 300 * FLOPS_A_STEP
    assert second.student is not None
    assert second.student.steps == pytest.approx(250)
    reference = paired_t([175 / 300, 250 / 300])
    assert found.shares["steps"].mean == pytest.approx(reference.mean)
    assert found.shares["steps"].interval == pytest.approx(reference.interval)


def test_a_loss_that_one_seed_never_reaches_has_no_share(models: dict[str, Any]) -> None:
    found = reached(read_models(models), "salt-ds", "baseline")
    assert found is not None
    assert [seed.student is None for seed in found.seeds] == [True, False]
    assert found.shares == {}
    summary = read_summary(with_comparisons(summarised(models)))
    row = next(row for row in reached_table(summary).rows if row[0] == "salt-ds")
    assert row[3] == "1 of 2"
    assert set(row[5:]) == {"–"}
    assert "in 1 of 2 seeds only" in headline(summary).details


def test_runs_without_clock_or_count_are_measured_in_steps_alone(models: dict[str, Any]) -> None:
    for one in ("salt", "baseline"):
        for seed in models[one]["seeds"].values():
            del seed["curves"]["flops"], seed["curves"]["seconds"]
    found = reached(read_models(models), "salt", "baseline")
    assert found is not None
    assert list(found.shares) == ["steps"]
    assert found.seeds[0].control.flops is None


def test_differences_at_the_same_steps(models: dict[str, Any]) -> None:
    models["salt"]["seeds"]["1"]["curves"]["val_loss"].pop(1)
    found = curve_difference(read_models(models), "salt", "baseline")
    assert found is not None
    assert [point.step for point in found.points] == [100, 300]
    assert found.points[1].mean == pytest.approx((-1.0 - 0.5) / 2)
    assert found.points[1].interval == pytest.approx(paired_t([-1.0, -0.5]).interval)
    one = curve_difference(read_models(models), "salt", "baseline-flops")
    assert one is not None
    assert (one.n, one.points[0].interval) == (1, None)


def test_several_students_share_a_baseline(models: dict[str, Any]) -> None:
    pairs = list(student_and_control(read_models(models)))
    assert pairs == [("salt", "baseline"), ("salt", "baseline-flops"), ("salt-ds", "baseline")]


@pytest.mark.parametrize(
    ("change", "gone"),
    [
        ({"baseline": {"parameters": 60}}, {("salt", "baseline"), ("salt-ds", "baseline")}),
        ({"baseline-flops": {"parameters": 60}}, {("salt", "baseline-flops")}),
        ({"salt": {"like": None}}, {("salt", "baseline"), ("salt-ds", "baseline")}),
        ({"salt": {"like": "salt-ds"}}, {("salt", "baseline"), ("salt-ds", "baseline")}),
    ],
)
def test_another_shape_is_no_control(
    models: dict[str, Any], change: dict[str, Any], gone: set[tuple[str, str]]
) -> None:
    before = set(student_and_control(read_models(models)))
    for name, settings in change.items():
        models[name] |= settings
    assert set(student_and_control(read_models(models))) == before - gone


def summarised(models: dict[str, Any]) -> dict[str, Any]:
    return {"schema": 1, "recipe": "salt", "created": "2026-11-25T00:00:00Z", "tutelage": "0.2.0", "models": models}


def test_reports_show_both_and_say_what_the_controls_are(models: dict[str, Any]) -> None:
    compared = with_comparisons(summarised(models))
    summary = read_summary(compared)
    assert {(entry.a, entry.b) for entry in summary.reached} == set(student_and_control(summary.models))
    page, markdown = unescape(report.html_report(compared)), report.markdown_report(compared)
    for table in (reached_table(summary), curve_table(summary)):
        assert table.title in page
        assert table.title in markdown
        for row in table.rows:
            assert all(cell in page for cell in row)
    assert "curve-differences" in [plot.name for plot in plots.draw(compared)]
    del models["salt-ds"]
    answer = headline(read_summary(with_comparisons(summarised(models))))
    assert "trained for as many FLOPs as salt, the strongest of its 2 controls" in answer.sentence
    assert "Against its other controls: baseline" in answer.details
    models["baseline-flops"]["flops_counted"] = "counted"
    whole = headline(read_summary(with_comparisons(summarised(models)))).sentence
    assert "trained for as many FLOPs as salt and its teachers" in whole
    assert with_comparisons(compared) == compared


def test_many_students_have_one_answer_and_a_row_each(models: dict[str, Any]) -> None:
    for i in range(9):
        models[f"salt-{i}"] = model("student", run([4.0, 3.0, 2.9]), like="salt", teachers=["small"])
    summary = read_summary(with_comparisons(summarised(models)))
    # Its other control has one seed only, and is left out of the others' rows.
    assert "the best of 11 students" in headline(summary).details
    table = verdicts_table(summary)
    # `salt-ds` is the one judged, for it alone is tested against its strongest control.
    assert [row[0] for row in table.rows] == ["salt", "salt-ds", *(f"salt-{i}" for i in range(9))]
    assert [row[2] for row in table.rows] == ["not tested", "not shown", *["not tested"] * 9]
    assert "1 weaker controls of other students are left out" in table.note


def test_teachers_of_the_students_own_shape_are_its_control(models: dict[str, Any]) -> None:
    models["salt"] |= {"like": None, "teachers": ["baseline[0]", "baseline[1]"]}
    models["baseline"] |= {"role": "teacher", "same_settings": ["salt"]}
    models["longer"] = model("model", run([5.0, 4.0, 3.0, 2.9]), run([5.2, 4.2, 3.2, 3.0]), like="baseline")
    read = read_models(models)
    assert ("salt", "baseline") in set(student_and_control(read))
    models["baseline"]["same_settings"] = []
    assert ("salt", "baseline") not in set(student_and_control(read_models(models)))
    models["salt"]["like"] = "baseline"
    pairs = set(student_and_control(read_models(models)))
    assert {("salt", "baseline"), ("salt", "longer"), ("salt-ds", "longer")} <= pairs


def test_seeds_that_teach_cost_as_many_trainings(models: dict[str, Any]) -> None:
    models["salt"]["teachers"] = ["baseline[0]", "baseline[1]@step-100", "baseline"]
    assert cost_of(read_models(models), "salt").teachers_training_flops == 2 * 300 * FLOPS_A_STEP


@pytest.mark.parametrize(("loss", "warned"), [(4.0, True), (1.0, False)])
def test_teachers_worse_than_the_control_stand_in_the_headline(
    models: dict[str, Any], loss: float, warned: bool
) -> None:
    models["small"] |= {"seeds": {"0": run([5.0, loss])}}
    del models["salt-ds"]
    sentence = headline(read_summary(with_comparisons(summarised(models)))).sentence
    assert ("Its teacher is worse than baseline-flops (small 4.0000): train it longer" in sentence) == warned


def test_an_interval_says_what_it_is_conditional_on(models: dict[str, Any]) -> None:
    del models["baseline-flops"], models["salt-ds"]
    details = headline(read_summary(with_comparisons(summarised(models)))).details
    assert "which share one set of teachers, one corpus and one order of its rows" in details
