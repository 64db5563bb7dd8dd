"""Plots of the teachers' weight and of gates: over training, and by the difficulty of tokens."""

from __future__ import annotations

from typing import Any

import numpy as np

from tutelage.compare.summary import ModelSummary, Summary
from tutelage.report.plot_style import draw_line, label, new_figure, styles_of, tokens_axis

_PANELS = {"teacher_weight": "teachers' weight", "gate_weight": "gate's weight"}


def teacher_weight(summary: Summary) -> Any | None:
    """The teachers' weight against tokens, and under it the share of it that gates let through.

    The weight follows from the recipe and is the same for every seed; the first one's is drawn.
    """
    first = {name: next(iter(model.seeds.values())).curves for name, model in summary.models.items() if model.seeds}
    found = {term: {name: curves[term] for name, curves in first.items() if curves.get(term)} for term in _PANELS}
    panels = {term: curves for term, curves in found.items() if curves}
    if not panels:
        return None
    figure, grid = new_figure(2.4 * len(panels), len(panels), squeeze=False, sharex=True)
    for axes, (term, curves) in zip(grid[:, 0], panels.items(), strict=True):
        for name, curve in curves.items():
            _, tokens, values = np.asarray(curve, dtype=np.float64).T
            draw_line(axes, tokens, values, styles_of(summary)[name], label(name), marks=None, linewidth=1.9)
        axes.set(ylabel=_PANELS[term], ylim=(0, None))
        axes.legend(loc="upper right")
    tokens_axis(grid[-1, 0])
    return figure


def gate_by_difficulty(summary: Summary) -> Any | None:
    """The mean weight of gates against the teachers' loss, one line for each stage that has a gate."""
    drawn = {
        (name, stage): np.asarray(lines, dtype=np.float64)
        for name, model in summary.models.items()
        for stage, lines in _by_stage(model).items()
    }
    if not drawn:
        return None
    figure, axes = new_figure(3.2)
    for (name, stage), lines in drawn.items():
        style, several = styles_of(summary)[name], sum(other == name for other, _ in drawn) > 1
        for loss, weight in lines if len(lines) > 1 else ():
            axes.plot(loss, weight, color=style.colour, linewidth=0.7, alpha=0.45)
        shown = label(name) + (f", stage {stage + 1}" if several else "")
        loss, weight = lines.mean(0)
        draw_line(axes, loss, weight, style, shown, marks=4, linewidth=1.9)
    axes.set(xlabel="teachers' loss (nats/token)", ylabel="mean weight", ylim=(0, 1.02))
    axes.legend(loc="best")
    return figure


def _by_stage(model: ModelSummary) -> dict[int, list[tuple[list[float], list[float]]]]:
    """The teachers' losses and the gate's weights of each seed, by stage."""
    found: dict[int, list[tuple[list[float], list[float]]]] = {}
    for run in model.seeds.values():
        for stage in run.gate_report:
            line = [part.loss for part in stage.bins], [part.gate_weight for part in stage.bins]
            found.setdefault(stage.stage, []).append(line)
    return found
