"""Plots of a study corpus: new words, lengths, coverage and balance of labels, how tasks are related."""

from __future__ import annotations

from typing import Any

import numpy as np

from tutelage.report.plot_style import COLOURS, FAINT, GRID, INK, PAPER, human_axis, label, new_figure
from tutelage.study.filter.audit import Audit
from tutelage.study.filter.text import visible

SEGMENTS, RELATED = 12, 16
"""Labels of a task that have a segment of their own; tasks shown in the plot of related ones."""


def vocabulary_growth(audit: Audit) -> Any | None:
    """Different words against words read, of the whole corpus and of each kind of lesson."""
    if not audit.growth.get("all"):
        return None
    figure, axes = new_figure(3.2)
    for number, (kind, points) in enumerate(audit.growth.items()):
        words, types = np.array([(0, 0), *points]).T
        style = {"color": INK, "linewidth": 2.2} if kind == "all" else {"color": COLOURS[number - 1], "linewidth": 1.7}
        axes.plot(words, types, label="whole corpus" if kind == "all" else kind.replace("_", " "), **style)
    axes.set(xlabel="words read, texts in random order", ylabel="different words", xlim=(0, None), ylim=(0, None))
    human_axis(axes.xaxis)
    human_axis(axes.yaxis)
    axes.legend(loc="best", fontsize=8, facecolor=PAPER, edgecolor=GRID)
    return figure


def text_lengths(audit: Audit) -> Any | None:
    """How many texts have how many words."""
    if not audit.histogram:
        return None
    figure, axes = new_figure(2.4)
    ends = [end for end, _ in audit.histogram]
    axes.bar(range(len(ends)), [count for _, count in audit.histogram], width=0.9, color=COLOURS[0])
    axes.set_xticks(range(len(ends)), [f"≤ {end:,}" for end in ends], fontsize=8)
    axes.set(xlabel="words of a text", ylabel="texts")
    axes.grid(axis="x", visible=False)
    human_axis(axes.yaxis)
    return figure


def label_balance(audit: Audit) -> Any | None:
    """For each task with labels a bar, cut by the labels' shares; beside it how much of the corpus is labelled."""
    tasks = {name: task for name, task in audit.tasks.items() if task.labels}
    if not tasks:
        return None
    figure, (covered, cut) = new_figure(0.7 + 0.26 * len(tasks), 1, 2, sharey=True, width_ratios=(1, 2.6))
    for row, task in enumerate(tasks.values()):
        covered.barh(row, 100 * task.labelled / max(1, task.could), height=0.7, color=COLOURS[0])
        counts = sorted(task.labels.values(), reverse=True)
        shares = 100 * np.array([*counts[:SEGMENTS], sum(counts[SEGMENTS:])]) / max(1, sum(counts))
        left = 0.0
        for number, share in enumerate(shares):
            colour = FAINT if number == SEGMENTS else COLOURS[number % (len(COLOURS) - 1)]
            cut.barh(row, share, left=left, height=0.7, color=colour, edgecolor=PAPER, linewidth=0.6)
            left += share
    covered.set_yticks(range(len(tasks)), [label(visible(name), 28) for name in tasks], fontsize=8)
    covered.set(ylim=(len(tasks) - 0.4, -0.6), xlim=(0, 100), xlabel="labelled (%)")
    cut.set(xlim=(0, 100), xlabel="shares of the labels (%), the commonest first")
    for axes in (covered, cut):
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
    return figure


def related_tasks(audit: Audit) -> Any | None:
    """How much the label of one task tells of another's, as a half matrix."""
    names = list(dict.fromkeys(name for one, other, *_ in audit.related for name in (one, other)))
    names = [name for name in audit.tasks if name in names[:RELATED]]
    if len(names) < 3:
        return None
    grid = np.full((len(names), len(names)), np.nan)
    for one, other, strength, _ in audit.related:
        if one in names and other in names:
            row, column = sorted((names.index(one), names.index(other)), reverse=True)
            grid[row, column] = strength
    figure, axes = new_figure(1.4 + 0.3 * len(names))
    for row, column in zip(*np.nonzero(~np.isnan(grid)), strict=True):
        strength = float(grid[row, column])
        # Up to a depth on which the page's ink can still be read, in a light theme and a dark one.
        axes.bar(column, 1, 1, bottom=row - 1.5, color=COLOURS[0], alpha=0.75 * min(1.0, strength), linewidth=0)
        axes.text(column, row - 1, f"{strength:.2f}".removeprefix("0"), ha="center", va="center", fontsize=8)
    axes.set(xlim=(-0.5, len(names) - 1.5), ylim=(len(names) - 1.5, -0.5))
    shown, places = [label(visible(name), 24) for name in names], range(len(names) - 1)
    axes.set_yticks(places, shown[1:], fontsize=8)
    axes.set_xticks(places, shown[:-1], fontsize=8, rotation=35, ha="right")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    return figure
