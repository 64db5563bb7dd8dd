"""Who is whose control, when a student reaches its control's loss, and how far apart both are on the way."""

from __future__ import annotations

from html import unescape
from typing import Any

import numpy as np
import pytest

from tutelage.compare.comparisons import student_and_control, with_comparisons
from tutelage.compare.over_training import crossing, curve_difference, reached
from tutelage.compare.statistics import paired_t
from tutelage.compare.summary import read_models, read_summary
from tutelage.report import plots, report
from tutelage.report.headline import headline
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
    assert "as salt and its teachers" not in headline(summary)[1].sentence
    models["baseline-flops"]["flops_counted"] = "counted"
    whole = headline(read_summary(with_comparisons(summarised(models))))[1].sentence
    assert "trained for as many FLOPs as salt and its teachers" in whole
    sentences = [answer.sentence for answer in headline(summary)]
    assert "trained for as many FLOPs as salt" in sentences[1]
    assert "baseline-flops took as many FLOPs" in headline(summary)[0].details
    assert with_comparisons(compared) == compared


def test_many_untested_pairs_share_one_answer(models: dict[str, Any]) -> None:
    for i in range(3):
        models[f"salt-{i}"] = model("student", run([4.0, 3.0, 2.9]), like="salt", teachers=["small"])
    answers = headline(read_summary(with_comparisons(summarised(models))))
    untested = [answer for answer in answers if answer.sentence.startswith("Not tested")]
    assert len(untested) == 1
    assert "4 more pairs" in untested[0].sentence
    assert all(f"salt-{i} against baseline" in untested[0].details for i in range(3))
    assert len(answers) == 3
