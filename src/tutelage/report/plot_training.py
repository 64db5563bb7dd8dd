"""Plots of training: loss curves, held-out loss by seed, and what everything cost."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np

from tutelage.compare.cost import TeachingCost, cost_of
from tutelage.compare.metrics import values_of
from tutelage.compare.statistics import FloatArray
from tutelage.compare.summary import ModelSummary, Summary
from tutelage.compare.summary_runs import Point
from tutelage.report.plot_style import (
    FAINT,
    INK,
    SeriesStyle,
    draw_line,
    draw_seeds,
    human_axis,
    label,
    log_axis,
    name_rows,
    new_figure,
    styles_of,
    tokens_axis,
)

MAX_POINTS = 150
"""Points of a drawn or published line; more cannot be seen and make the file heavy."""
_EARLY = 0.15
"""The share of a training whose steep first losses are left above the frame."""


def thin(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """Average neighbouring points of a curve down to at most `limit`; each keeps its bin's last step and tokens."""
    if len(points) <= limit:
        return list(points)
    bins = np.array_split(np.arange(len(points)), limit)
    return [(points[b[-1]][0], points[b[-1]][1], float(np.mean([points[i][2] for i in b]))) for b in bins]


def validation_curves(summary: Summary) -> Any | None:
    """Validation loss against tokens: a thin line for each seed, a thick one for their mean."""
    models = {name: model for name, model in summary.models.items() if _curves(model, "val_loss")}
    if not models:
        return None
    figure, axes = new_figure(3.8)
    for name, model in models.items():
        _draw_curves(axes, _curves(model, "val_loss"), styles_of(summary)[name], label(name), dots=True)
    _frame_losses(axes, [curve for model in models.values() for curve in _curves(model, "val_loss")])
    axes.set_ylabel("validation loss (nats/token)")
    tokens_axis(axes)
    axes.legend(loc="upper right")
    return figure


def curve_differences(summary: Summary) -> Any | None:
    """Student minus control on validation, step by step, with the band of the interval; steps on a log axis."""
    entries = [entry for entry in summary.curve_differences if len(entry.points) > 1]
    if not entries:
        return None
    figure, axes = new_figure(3.8)
    axes.axhline(0, color=FAINT, linewidth=1)
    for entry in entries:
        style, steps = styles_of(summary)[entry.a], [point.step for point in entry.points]
        ends = [point.interval or (point.mean, point.mean) for point in entry.points]
        axes.fill_between(steps, *zip(*ends, strict=True), color=style.colour, alpha=0.15, linewidth=0)
        name = label(f"{entry.a} − {entry.b}")
        draw_line(axes, steps, [point.mean for point in entry.points], style, name, marks=3.2)
    axes.set_xscale("log")
    log_axis(axes.xaxis)
    axes.set_xlabel("step")
    axes.set_ylabel("difference of validation loss (nats/token)")
    axes.legend(loc="best")
    return figure


def training_curves(summary: Summary) -> Any | None:
    """Training loss, smoothed, and under it the divergence from the teachers where there were any."""
    terms = {"train_loss": "training loss (nats/token)", "train_kl": "KL from the teachers"}
    present = [term for term in terms if any(_curves(model, term) for model in summary.models.values())]
    if not present:
        return None
    heights = {"train_loss": 3.4, "train_kl": 2.2}
    ratios = [heights[term] for term in present]
    figure, grid = new_figure(sum(ratios), len(present), squeeze=False, sharex=True, height_ratios=ratios)
    for axes, term in zip(grid[:, 0], present, strict=True):
        drawn = []
        for name, model in summary.models.items():
            curves = [thin(curve, 100) for curve in _curves(model, term)]
            drawn += curves
            if curves:
                _draw_curves(axes, curves, styles_of(summary)[name], label(name), dots=False)
        _frame_losses(axes, drawn)
        axes.set_ylabel(terms[term])
    tokens_axis(grid[-1, 0])
    grid[0, 0].legend(loc="upper right")
    return figure


def held_out_dots(summary: Summary) -> Any | None:
    """Held-out loss of each seed as a point, the mean as a bar; on validation where no test split was scored."""
    metric = "test.loss" if any(values_of(model, "test.loss") for model in summary.models.values()) else "val.loss"
    values = {name: list(values_of(model, metric).values()) for name, model in summary.models.items()}
    values = {name: found for name, found in values.items() if found}
    if not values:
        return None
    figure, axes = new_figure(0.75 + 0.34 * len(values))
    for row, (name, losses) in enumerate(values.items()):
        draw_seeds(axes, row, losses, styles_of(summary)[name], 6)
        place = {"xytext": (9, 0), "textcoords": "offset points", "va": "center"}
        axes.annotate(f"{fmean(losses):.3f}", (max(losses), row), fontsize=8, color=INK, **place)
    name_rows(axes, [label(name) for name in values])
    axes.margins(x=0.12)
    axes.set_xlabel(f"{'held-out' if metric == 'test.loss' else 'validation'} loss (nats/token)")
    return figure


def cost_bars(summary: Summary) -> Any | None:
    """FLOPs and wall time of one seed of each model: own training, teaching, and the teachers' training."""
    costs = {name: cost_of(summary.models, name) for name in summary.models}
    panels = {
        "FLOPs": {name: _flop_parts(cost) for name, cost in costs.items()},
        "wall time (minutes)": {name: _time_parts(cost) for name, cost in costs.items()},
    }
    panels = {title: rows for title, rows in panels.items() if any(sum(parts) > 0 for parts in rows.values())}
    if not panels:
        return None
    figure, grid = new_figure(1.35 + 0.34 * len(costs), 1, len(panels), squeeze=False, sharey=True)
    for axes, (title, rows) in zip(grid[0], panels.items(), strict=True):
        for row, (name, parts) in enumerate(rows.items()):
            _stack(axes, row, parts, styles_of(summary)[name].colour)
        axes.set_xlabel(title)
        axes.grid(axis="y", visible=False)
        axes.set_xlim(left=0)
        axes.margins(x=0.04)
        axes.locator_params(axis="x", nbins=5)
        human_axis(axes.xaxis)
    name_rows(grid[0, 0], [label(name, 32) for name in costs])
    figure.legend(handles=_part_handles(), loc="outside upper center", ncols=3)
    return figure


def _flop_parts(cost: TeachingCost) -> tuple[float, float, float]:
    return cost.flops or 0.0, cost.teacher_flops + cost.scoring_flops, cost.teachers_training_flops


def _time_parts(cost: TeachingCost) -> tuple[float, float, float]:
    own = max(0.0, (cost.seconds or 0.0) - cost.seconds_teaching)
    return own / 60, cost.seconds_teaching / 60, cost.teachers_training_seconds / 60


def _stack(axes: Any, row: int, parts: Sequence[float], colour: str) -> None:
    """Own work solid, teaching pale, the teachers' training hatched."""
    start = 0.0
    for width, style in zip(parts, _part_styles(colour), strict=True):
        if width:
            axes.barh(row, width, 0.62, left=start, **style)
        start += width


def _part_styles(colour: str) -> list[dict[str, Any]]:
    return [
        {"facecolor": colour, "edgecolor": colour, "linewidth": 0.8},
        {"facecolor": colour, "edgecolor": colour, "alpha": 0.45, "linewidth": 0.8},
        {"facecolor": "none", "edgecolor": colour, "hatch": "////", "linewidth": 0.8},
    ]


def _part_handles() -> list[Any]:
    from matplotlib.patches import Patch

    names = ("own training", "asking the teachers", "training the teachers")
    return [Patch(label=name, **style) for name, style in zip(names, _part_styles(FAINT), strict=True)]


def _curves(model: ModelSummary, term: str) -> list[list[Point]]:
    return [run.curves[term] for run in model.seeds.values() if run.curves.get(term)]


def _draw_curves(axes: Any, curves: Sequence[Sequence[Point]], style: SeriesStyle, name: str, dots: bool) -> None:
    for curve in curves if len(curves) > 1 else ():
        _, tokens, values = np.asarray(curve).T
        axes.plot(tokens, values, color=style.colour, linewidth=0.7, alpha=0.45)
    tokens, values = _mean_curve(curves)
    few = dots and len(tokens) <= 25
    draw_line(axes, tokens, values, style, name, marks=3.5 if few else None, linewidth=1.9)


def _mean_curve(curves: Sequence[Sequence[Point]]) -> tuple[FloatArray, FloatArray]:
    """Mean over seeds, on the first seed's tokens as far as every seed got."""
    grids = [np.asarray(curve, dtype=np.float64) for curve in curves]
    last = min(grid[-1, 1] for grid in grids)
    tokens = grids[0][grids[0][:, 1] <= last, 1]
    tokens = tokens if len(tokens) else np.array([last])
    return tokens, np.mean([np.interp(tokens, grid[:, 1], grid[:, 2]) for grid in grids], axis=0)


def _frame_losses(axes: Any, curves: Sequence[Sequence[Point]]) -> None:
    """Frame the part of the curves that differs: the first steep fall would flatten everything after it."""
    low = min(point[2] for curve in curves for point in curve)
    later = [point[2] for curve in curves for point in curve if point[1] >= _EARLY * curve[-1][1]]
    high = max(later)
    if high > low:
        axes.set_ylim(low - 0.04 * (high - low), high + 0.04 * (high - low))
