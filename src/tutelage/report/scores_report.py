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
    return page(
        f"Scores of {', '.join(summary.models)}",
        f"tutelage {summary.tutelage}, {summary.created}",
        [
            evaluations_table(summary, always=True),
            published_table(summary),
            *draw_scores(summary),
            models_scored(summary, remarks),
            benchmarks_table(summary),
            origin_table(summary),
        ],
    )


def draw_scores(summary: Summary) -> list[Plot]:
    """Draw scores by phenomenon, and where there are several models every evaluation in a panel of its own."""
    text = "Each point is one model; each panel has an axis of its own."
    panels = FigurePlan("evaluations", "All evaluations", text, plot_scores.headline_panels)
    several = [panels] if len(summary.models) > 1 else []
    return draw(summary, [*several, *suite_scores(summary, "Sorted by the models' mean.")])


def models_scored(summary: Summary, remarks: Mapping[str, Sequence[str]]) -> Table:
    """One row a model: what it is, and how it was scored."""
    settings = summary.resolved_recipe
    rows = tuple(
        (
            name,
            str(settings["models"][name]["kind"]),
            cell(model.architecture),
            cell(model.parameters, human),
            settings["models"][name]["identity"][:48],
        )
        for name, model in summary.models.items()
    )
    known = [f"{name}: {text}." for name, texts in remarks.items() for text in texts]
    known.append(how_scored(summary))
    return Table(
        title="Models, and how they were scored",
        header=("model", "reads", "architecture", "params", "weights"),
        rows=rows,
        left=5,
        note=" ".join(known),
    )


def benchmarks_table(summary: Summary) -> Table:
    """Where the benchmarks come from, and under which licence."""
    known = {name: SOURCES[name] for name in plot_scores.suite_names(summary) if name in SOURCES}
    rows = tuple((name, source.data.where, source.data.licence) for name, source in known.items())
    return Table(title="Benchmarks", header=("suite", "from", "licence"), rows=rows, left=3)
