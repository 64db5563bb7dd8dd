"""The page of `tutelage evaluate MODEL`: scores of models side by side, beside what others published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tutelage.base.progress import human
from tutelage.compare.summary import Summary
from tutelage.evaluation.suites.sources import SOURCES
from tutelage.report import plot_scores
from tutelage.report.html import page
from tutelage.report.plot_style import FigurePlan
from tutelage.report.plots import Plot, draw, suite_scores
from tutelage.report.table_scores import evaluations_table, how_scored, published_table
from tutelage.report.tables import Table, cell, origin_table


def scores_page(summary: Summary, remarks: Mapping[str, Sequence[str]]) -> str:
    """Write the page; `remarks` are what a reader must know of a model."""
    scores = (evaluations_table(summary, always=True), published_table(summary))
    more = (models_scored(summary, remarks), benchmarks_table(summary), origin_table(summary))
    made = f"tutelage {summary.tutelage}, {summary.created}"
    return page(f"Scores of {', '.join(summary.models)}", made, [*scores, *draw_scores(summary), *more])


def draw_scores(summary: Summary) -> list[Plot]:
    """Draw scores by phenomenon, and where there are several models every evaluation in a panel of its own."""
    text = "Each point is one model; each panel has an axis of its own."
    panels = FigurePlan("evaluations", "All evaluations", text, plot_scores.headline_panels)
    several = [panels] if len(summary.models) > 1 else []
    return draw(summary, [*several, *suite_scores(summary, "Sorted by the models' mean.")])


def models_scored(summary: Summary, remarks: Mapping[str, Sequence[str]]) -> Table:
    """One row a model: what it is, and how it was scored."""
    about = summary.resolved_recipe["models"]
    rows = [
        (name, str(about[name]["kind"]), cell(m.architecture), cell(m.parameters, human), about[name]["identity"][:48])
        for name, m in summary.models.items()
    ]
    known = [f"{name}: {text}." for name, texts in remarks.items() for text in texts]
    header = ("model", "reads", "architecture", "params", "weights")
    return Table("Models, and how they were scored", header, rows, " ".join([*known, how_scored(summary)]), left=5)


def benchmarks_table(summary: Summary) -> Table:
    """Where the benchmarks come from, and under which licence."""
    known = {name: SOURCES[name].data for name in plot_scores.suite_names(summary) if name in SOURCES}
    rows = [(name, data.where, data.licence) for name, data in known.items()]
    return Table("Benchmarks", ("suite", "from", "licence"), rows, left=3)
