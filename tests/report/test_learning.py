"""Plots of what was repeated along a training."""

from __future__ import annotations

from typing import Any

import pytest

from tutelage.base.errors import UserError
from tutelage.compare.summary import read_summary
from tutelage.recipe.words import SCHEDULES
from tutelage.report import plots
from tutelage.report.plot_learning import learning_curves, repeated
from tutelage.report.plot_style import drawing

SCHEDULE = SCHEDULES["babylm-strict-small"]
EVEN = tuple(range(10**6, 10**7 + 1, 10**6))


def along(words: tuple[int, ...], start: float, gain: float, end: int) -> dict[str, Any]:
    points = [[seen, start + gain * i / len(words)] for i, seen in enumerate(words)]
    return {
        "convention": "2025", "measure": "accuracy", "unit": "accuracy", "chance": 0.5,
        "points": points, "finished": [end, start + gain],
    }  # fmt: skip


@pytest.fixture
def learned(full: dict[str, Any]) -> dict[str, Any]:
    """Students, controls and one teacher with curves; seeds differ by a point."""
    for name in ("student", "control", "teacher-llama"):
        for seed, run in full["models"][name]["seeds"].items():
            run["along"] = {"blimp-fast": along(SCHEDULE, 0.5 + 0.01 * int(seed), 0.2, 120_000_000)}
    return full


def drawn(summary: dict[str, Any], name: str = "blimp-fast") -> Any:
    with drawing():
        return learning_curves(read_summary(summary), name)


def test_lines_are_means_over_seeds_and_end_in_the_finished_model(learned: dict[str, Any]) -> None:
    axes = drawn(learned).axes[0]
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    words, values = zip(*lines["student"], strict=True)
    assert words == SCHEDULE
    assert values == pytest.approx([100 * (0.51 + 0.2 * i / len(SCHEDULE)) for i in range(len(SCHEDULE))])
    assert len([label for label in lines if not label.startswith("_")]) == 3
    marked = [line.get_xydata().tolist() for line in axes.lines if len(line.get_xdata()) == 1]
    assert sorted(y for [[_, y]] in marked) == pytest.approx([70, 71, 71])
    assert {x for [[x, _]] in marked} == {120_000_000}
    assert [text.get_text() for text in axes.texts] == ["chance"]
    assert axes.get_xscale() == "log"
    assert axes.get_ylabel() == "accuracy on blimp-fast (%)"


def test_even_checkpoints_stand_on_an_even_axis(learned: dict[str, Any]) -> None:
    for model in learned["models"].values():
        for run in model["seeds"].values():
            if "along" in run:
                run["along"]["blimp-fast"] = along(EVEN, 0.5, 0.2, 10**7)
    assert drawn(learned).axes[0].get_xscale() == "linear"


def test_values_that_cannot_be_told_are_left_out(learned: dict[str, Any]) -> None:
    curve = learned["models"]["student"]["seeds"]["1"]["along"]["blimp-fast"]
    curve["points"][0][1] = None
    curve["finished"][1] = None
    curve |= {"measure": "eye_tracking", "unit": "percent", "chance": None, "better": "lower"}
    lines = {line.get_label(): line.get_xdata() for line in drawn(learned).axes[0].lines}
    assert list(lines["student"]) == list(SCHEDULE[1:])
    assert list(lines["control"]) == list(SCHEDULE)
    for model in learned["models"].values():
        for run in model["seeds"].values():
            for point in run.get("along", {}).get("blimp-fast", {}).get("points", []):
                point[1] = None
    assert drawn(learned) is None


def test_reports_have_them_and_runs_without_stay_as_they_were(learned: dict[str, Any], full: dict[str, Any]) -> None:
    summary = read_summary(learned)
    assert repeated(summary) == ["blimp-fast"]
    assert read_summary(summary.as_json()) == summary
    [plot] = [plot for plot in plots.draw(learned) if plot.name.startswith("learning")]
    assert (plot.name, plot.title) == ("learning-blimp-fast", "Learning curves: blimp-fast")
    for model in learned["models"].values():
        for run in model["seeds"].values():
            run.pop("along", None)
    assert not [plot for plot in plots.draw(learned) if plot.name.startswith("learning")]


def test_a_curve_of_something_else_is_refused(learned: dict[str, Any]) -> None:
    learned["models"]["student"]["seeds"]["1"]["along"]["blimp-fast"]["points"][0] = [-1, 0.5]
    with pytest.raises(UserError, match=r"along\.blimp-fast\.points\.0"):
        read_summary(learned)
