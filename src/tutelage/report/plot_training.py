"""Plots of training: loss curves, held-out loss by seed, and what everything cost."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np

from tutelage.compare.cost import cost_of
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


def thin(points: Sequence[Point], limit: int = 150) -> list[Point]:
    """Average neighbouring points of a curve down to at most `limit`; each keeps its bin's last step and tokens.

    More than the default cannot be seen, and make the file heavy.
    """
    if len(points) <= limit:
        return list(points)
    bins = np.array_split(np.arange(len(points)), limit)
    return [(points[b[-1]][0], points[b[-1]][1], float(np.mean([points[i][2] for i in b]))) for b in bins]


def validation_curves(summary: Summary) -> Any | None:
    """Validation loss against tokens: a thin line for each seed, a thick one for their mean."""
    models = {name: found for name, model in summary.models.items() if (found := _curves(model, "val_loss"))}
    if not models:
        return None
    figure, axes = new_figure(3.8)
    for name, curves in models.items():
        _draw_curves(axes, curves, styles_of(summary)[name], label(name), dots=True)
    _frame_losses(axes, [curve for curves in models.values() for curve in curves])
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
    axes.set(xscale="log", xlabel="step", ylabel="difference of validation loss (nats/token)")
    log_axis(axes.xaxis)
    axes.legend(loc="best")
    return figure


def training_curves(summary: Summary) -> Any | None:
    """Training loss, smoothed, and under it the divergence from the teachers where there were any."""
    terms = (("train_loss", "training loss (nats/token)", 3.4), ("train_kl", "KL from the teachers", 2.2))
    present = [term for term in terms if any(_curves(model, term[0]) for model in summary.models.values())]
    if not present:
        return None
    ratios = [height for *_, height in present]
    figure, grid = new_figure(sum(ratios), len(present), squeeze=False, sharex=True, height_ratios=ratios)
    for axes, (term, words, _) in zip(grid[:, 0], present, strict=True):
        drawn = []
        for name, model in summary.models.items():
            curves = [thin(curve, 100) for curve in _curves(model, term)]
            drawn += curves
            if curves:
                _draw_curves(axes, curves, styles_of(summary)[name], label(name), dots=False)
        _frame_losses(axes, drawn)
        axes.set_ylabel(words)
    tokens_axis(grid[-1, 0])
    grid[0, 0].legend(loc="upper right")
    return figure


def held_out_dots(summary: Summary) -> Any | None:
    """Held-out loss of each seed as a point, the mean as a bar; on validation where no test split was scored."""
    metric = "test.loss" if any(values_of(model, "test.loss") for model in summary.models.values()) else "val.loss"
    values = {name: found for name, model in summary.models.items() if (found := values_of(model, metric))}
    if not values:
        return None
    figure, axes = new_figure(0.75 + 0.34 * len(values))
    for row, (name, losses) in enumerate((name, list(found.values())) for name, found in values.items()):
        draw_seeds(axes, row, losses, styles_of(summary)[name], 6)
        place = {"xytext": (9, 0), "textcoords": "offset points", "va": "center"}
        axes.annotate(f"{fmean(losses):.3f}", (max(losses), row), fontsize=8, color=INK, **place)
    name_rows(axes, [label(name) for name in values])
    axes.margins(x=0.12)
    axes.set_xlabel(f"{'held-out' if metric == 'test.loss' else 'validation'} loss (nats/token)")
    return figure


def cost_bars(summary: Summary) -> Any | None:
    """FLOPs and wall time of one seed of each model: own training, teaching, and the teachers' training."""
    from matplotlib.patches import Patch

    costs = [cost_of(summary.models, name) for name in summary.models]
    flops = [(c.flops or 0.0, c.teacher_flops + c.scoring_flops, c.teachers_training_flops) for c in costs]
    own = [max(0.0, (cost.seconds or 0.0) - cost.seconds_teaching) / 60 for cost in costs]
    minutes = [
        (alone, cost.seconds_teaching / 60, cost.teachers_training_seconds / 60)
        for alone, cost in zip(own, costs, strict=True)
    ]
    panels = {title: rows for title, rows in (("FLOPs", flops), ("wall time (minutes)", minutes)) if np.any(rows)}
    if not panels:
        return None
    figure, grid = new_figure(1.35 + 0.34 * len(costs), 1, len(panels), squeeze=False, sharey=True)
    for axes, (title, rows) in zip(grid[0], panels.items(), strict=True):
        for row, (name, parts) in enumerate(zip(summary.models, rows, strict=True)):
            start = 0.0
            for width, style in zip(parts, _part_styles(styles_of(summary)[name].colour).values(), strict=True):
                if width:
                    axes.barh(row, width, 0.62, left=start, **style)
                start += width
        axes.set_xlabel(title)
        axes.grid(axis="y", visible=False)
        axes.set_xlim(left=0)
        axes.margins(x=0.04)
        axes.locator_params(axis="x", nbins=5)
        human_axis(axes.xaxis)
    name_rows(grid[0, 0], [label(name, 32) for name in summary.models])
    handles = [Patch(label=name, **style) for name, style in _part_styles(FAINT).items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure


def _part_styles(colour: str) -> dict[str, dict[str, Any]]:
    edge = {"edgecolor": colour, "linewidth": 0.8}
    return {
        "own training": {"facecolor": colour, **edge},
        "asking the teachers": {"facecolor": colour, "alpha": 0.45, **edge},
        "training the teachers": {"facecolor": "none", "hatch": "////", **edge},
    }


def _curves(model: ModelSummary, term: str) -> list[list[Point]]:
    return [run.curves[term] for run in model.seeds.values() if run.curves.get(term)]


def _draw_curves(axes: Any, curves: Sequence[Sequence[Point]], style: SeriesStyle, name: str, dots: bool) -> None:
    for curve in curves if len(curves) > 1 else ():
        _, tokens, values = np.asarray(curve).T
        axes.plot(tokens, values, color=style.colour, linewidth=0.7, alpha=0.45)
    tokens, values = _mean_curve(curves)
    draw_line(axes, tokens, values, style, name, marks=3.5 if dots and len(tokens) <= 25 else None, linewidth=1.9)


def _mean_curve(curves: Sequence[Sequence[Point]]) -> tuple[FloatArray, FloatArray]:
    """Mean over seeds, on the first seed's tokens as far as every seed got."""
    grids = [np.asarray(curve, dtype=np.float64) for curve in curves]
    last = min(grid[-1, 1] for grid in grids)
    tokens = grids[0][grids[0][:, 1] <= last, 1]
    tokens = tokens if len(tokens) else np.array([last])
    return tokens, np.mean([np.interp(tokens, grid[:, 1], grid[:, 2]) for grid in grids], axis=0)


def _frame_losses(axes: Any, curves: Sequence[Sequence[Point]]) -> None:
    """Leave the steep first 15 % of trainings above the frame: they would flatten everything after them."""
    low = min(point[2] for curve in curves for point in curve)
    high = max(point[2] for curve in curves for point in curve if point[1] >= 0.15 * curve[-1][1])
    if high > low:
        axes.set_ylim(low - 0.04 * (high - low), high + 0.04 * (high - low))
