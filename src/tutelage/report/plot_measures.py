"""Every evaluation's headline, model by model and seed by seed: one small panel each, with its own unit and axis."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from tutelage.compare.metrics import FEW, UNITS, facts_of, headlines_of, measured_of, values_of
from tutelage.compare.summary import Summary
from tutelage.report.plot_style import FAINT, INK, label, new_figure, styles_of

COLUMNS = 3


def headline_panels(summary: Summary) -> Any | None:
    """One panel an evaluation, one row a model: a point a seed, a bar at their mean, the best mean's name in ink.

    None where all that was measured is a few suites, which have plots of their own.
    """
    panels = {name: metric for name, (metric, _) in headlines_of(summary).items() if _points(summary, metric)}
    if len(panels) <= FEW and not any(measured_of(model) for model in summary.models.values()):
        return None
    models = [name for name in summary.models if any(name in _points(summary, metric) for metric in panels.values())]
    rows = -(-len(panels) // COLUMNS)
    figure, grid = new_figure(rows * (0.75 + 0.16 * len(models)), rows, COLUMNS, squeeze=False)
    for axes, (name, metric) in zip(grid.flat, panels.items(), strict=False):
        _panel(axes, summary, name, metric, models)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    for row in grid:
        row[0].set_yticks(range(len(models)), [label(model, 24) for model in models], fontsize=8)
    return figure


def _panel(axes: Any, summary: Summary, name: str, metric: str, models: list[str]) -> None:
    unit, better, _ = next(fact for model in summary.models.values() for fact in facts_of(model, metric))
    shown, palette = UNITS[unit], styles_of(summary)
    for model, values in _points(summary, metric).items():
        scaled, row, look = [value * shown.scale for value in values], models.index(model), palette[model]
        axes.plot([fmean(scaled)] * 2, [row - 0.32, row + 0.32], color=look.colour, linewidth=1.8)
        axes.plot(scaled, [row] * len(scaled), look.marker, color=look.colour, markersize=4.2, alpha=0.75)
    axes.set_ylim(len(models) - 0.4, -0.6)
    axes.set_yticks(range(len(models)), [""] * len(models))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.locator_params(axis="x", nbins=4)
    axes.margins(x=0.12)
    axes.set_title(label(name, 26), fontsize=8.5, color=INK)
    sign = f"{metric.rpartition('.')[2].replace('_', ' ')} {f'({shown.sign})' if shown.sign else ''}".strip()
    axes.set_xlabel(f"{sign}, {better} is better", fontsize=7.5, color=FAINT)
    axes.tick_params(axis="x", labelsize=7.5)


def _points(summary: Summary, metric: str) -> dict[str, list[float]]:
    found = {name: list(values_of(model, metric).values()) for name, model in summary.models.items()}
    return {name: values for name, values in found.items() if values}
