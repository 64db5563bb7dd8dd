"""How a page is laid out, as far as it can be told without a browser; looked at in one, at 1280 and 420 pixels."""

from __future__ import annotations

import json
import re
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tutelage.compare.comparisons import with_comparisons
from tutelage.compare.summary import read_summary
from tutelage.report import report
from tutelage.report.plot_scores import parallel_scores
from tutelage.report.plot_style import FigurePlan, drawing
from tutelage.report.plots import FIGURES
from tutelage.report.tables import Table, comparisons_table, described_table

RESULTS = Path(__file__).parents[2] / "results"
CSS = (resources.files("tutelage.report") / "templates" / "style.css").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def evaluated() -> dict[str, Any]:
    """The published run with most evaluations."""
    return dict(json.loads((RESULTS / "evaluation-babyllama-1m" / "summary.json").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def page(evaluated: dict[str, Any]) -> str:
    return report.html_report(evaluated)


def test_the_answer_is_followed_by_a_plot_of_held_out_loss_and_then_by_the_first_table(page: str) -> None:
    answer, plot, table = page.index('class="answer"'), page.index("<figure"), page.index("<table")
    assert answer < plot < table
    assert page[answer:plot].count("<h2>") == 1
    assert "<h2>Held-out loss, seed by seed</h2>" in page[answer:plot]
    assert "Verdicts" in page[plot:table]
    # All other plots stand before all other tables.
    assert page.rindex("<figure") < page.index("<table", table + 1)


def test_every_table_scrolls_within_its_own_frame_and_none_widens_the_page(page: str) -> None:
    assert page.count("<table>") == len(re.findall(r'<div class="scroll" tabindex="0"[^>]*><table>', page)) > 5
    assert re.search(r"\.scroll\{overflow-x:auto", CSS)
    # A table of twelve columns needs some 1,100 pixels; at 1280 it is whole.
    width = int(re.search(r"main\{max-width:(\d+)px", CSS)[1])
    assert 1200 <= width <= 1280


def test_plots_shrink_with_the_page(page: str) -> None:
    assert re.search(r"figure svg\{width:100%;max-width:\d+px", CSS)
    assert not re.search(r"<svg[^>]* width=", page)


def test_long_remarks_are_folded_away(page: str) -> None:
    notes = re.findall(r'(<details><summary>Remarks</summary>)?<p class="note">(.*?)</p>', page, re.DOTALL)
    assert any(folded for folded, _ in notes)
    assert all(len(re.sub("<[^>]*>", "", note)) <= 900 for folded, note in notes if not folded)


def test_strict_accuracy_that_repeats_accuracy_has_no_rows(evaluated: dict[str, Any]) -> None:
    summary = read_summary(evaluated)
    for table in (comparisons_table(summary), described_table(summary)):
        said = [" ".join(row) for row in table.rows] + list(table.header)
        assert any("blimp accuracy" in one for one in said)
        assert not any("strict" in one for one in said)


def test_strict_accuracy_that_differs_keeps_its_row(full: dict[str, Any]) -> None:
    for name, shift in (("student", 0.05), ("control", 0.01)):
        for run in full["models"][name]["seeds"].values():
            run["suites"]["blimp"]["strict"] = run["suites"]["blimp"]["accuracy"] - shift
            for paradigm in run["suites"]["blimp"]["paradigms"].values():
                paradigm["strict"] = paradigm["accuracy"] - shift
    table: Table = comparisons_table(read_summary(with_comparisons(full)))
    assert any("blimp strict" in row[1] for row in table.rows)


@pytest.mark.parametrize("suite", ["blimp", "blimp-supplement"])
def test_names_of_published_systems_end_before_the_axis(suite: str, evaluated: dict[str, Any]) -> None:
    with drawing():
        figure = parallel_scores(read_summary(evaluated), suite)
        figure.draw_without_rendering()
        left = figure.axes[0]
        axis = left.get_window_extent().x0
        names = [text for text in left.texts if text.get_text()]
        assert len(names) > 5
        assert min(text.get_window_extent().x0 for text in names) > axis


def test_numbers_below_neighbouring_panels_do_not_touch(evaluated: dict[str, Any]) -> None:
    plan = next(one for one in FIGURES if isinstance(one, FigurePlan) and one.name == "evaluations")
    with drawing():
        figure = plan.draw(read_summary(evaluated))
        figure.draw_without_rendering()
        for left, right in pairwise(axes for axes in figure.axes if axes.get_visible()):
            if left.get_window_extent().x1 < right.get_window_extent().x0:
                assert numbers_below(left)[-1].x1 + 3 < numbers_below(right)[0].x0


def numbers_below(axes: Any) -> list[Any]:
    """Where the numbers of an axis are drawn; those beyond its ends are not."""
    inside = axes.get_window_extent()
    boxes = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
    return [box for box in boxes if inside.x0 - 1 <= (box.x0 + box.x1) / 2 <= inside.x1 + 1]
