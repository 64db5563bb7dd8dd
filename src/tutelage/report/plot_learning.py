"""Learning curves: what models score at their checkpoints, against the words they had seen."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

from tutelage.compare.metrics import UNITS
from tutelage.compare.summary import Summary
from tutelage.compare.summary_runs import Along
from tutelage.report.plot_scores import draw_chance
from tutelage.report.plot_style import INK, draw_band, draw_line, human_axis, label, log_axis, new_figure, styles_of

UNEVEN = 2.0
"""With a longest gap between checkpoints of more than so many shortest ones, a schedule is drawn on a logarithmic axis:
BabyLM's has gaps of 1M, then 10M, then 100M words."""


def repeated(summary: Summary) -> list[str]:
    """Every evaluation that was repeated at some model's checkpoints."""
    runs = (run for model in summary.models.values() for run in model.seeds.values())
    return list(dict.fromkeys(name for run in runs for name in run.along))


def learning_curves(summary: Summary, name: str) -> Any | None:
    """One line a model, the mean over its seeds; the band spans them, a large mark is the finished model."""
    found = {
        key: [run.along[name] for run in model.seeds.values() if name in run.along]
        for key, model in summary.models.items()
    }
    models = {key: curves for key, curves in found.items() if curves}
    drawn = {key: points for key, curves in models.items() if (points := _by_words(curves))}
    if not drawn:
        return None
    figure, axes = new_figure(3.8)
    first = next(iter(models.values()))[0]
    shown = UNITS[first.unit]
    for key, points in drawn.items():
        style = styles_of(summary)[key]
        words, values = list(points), [[shown.scale * value for value in found] for found in points.values()]
        draw_band(axes, words, values, style)
        draw_line(axes, words, [fmean(v) for v in values], style, label(key))
        ends = [(seen, value) for seen, value in (curve.finished for curve in models[key]) if value is not None]
        if ends:
            at, score = fmean(seen for seen, _ in ends), shown.scale * fmean(value for _, value in ends)
            if at > words[-1]:
                draw_line(axes, [words[-1], at], [fmean(values[-1]), score], style, marks=None)
            draw_line(axes, at, score, style, None, 8, markeredgewidth=0.9, alpha=0.85, zorder=3)
    if first.chance is not None:
        draw_chance(axes, first.chance)
    axes.set_xlabel(f"{summary.data.unit} seen")
    human_axis(axes.xaxis)
    gaps = [b - a for a, b in pairwise(sorted({words for points in drawn.values() for words in points}))]
    if len(gaps) > 1 and max(gaps) > UNEVEN * min(gaps):
        axes.set_xscale("log")
        log_axis(axes.xaxis)
    unit = f" ({shown.sign})" if shown.sign else ""
    lower = ", lower is better" if first.better == "lower" else ""
    axes.set_ylabel(f"{first.measure.replace('_', ' ')} on {label(name, 30)}{unit}{lower}", color=INK)
    axes.legend(loc="best")
    return figure


def _by_words(curves: Sequence[Along]) -> dict[int, list[float]]:
    """The values of all seeds by words seen, where every seed has one."""
    found: dict[int, list[float]] = {}
    for curve in curves:
        for words, value in curve.points:
            if value is not None:
                found.setdefault(words, []).append(value)
    return {words: found[words] for words in sorted(found) if len(found[words]) == len(curves)}
