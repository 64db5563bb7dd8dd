"""Plots of scores: a panel an evaluation, phenomena side by side, every paradigm's difference with its interval."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from tutelage.compare.comparisons import paradigm_differences, student_and_control
from tutelage.compare.metrics import FEW, UNITS, facts_of, headlines_of, measured_of, suites_of, values_of
from tutelage.compare.summary import ModelSummary, Summary
from tutelage.compare.summary_pairs import ParadigmDifferences, ParadigmRow
from tutelage.evaluation.baselines import NEAR, Published, relevant
from tutelage.report.plot_style import (
    FAINT,
    INK,
    PAPER,
    draw_band,
    draw_line,
    draw_seeds,
    label,
    name_rows,
    new_figure,
    new_panels,
    styles_of,
)

MAX_CATEGORIES = 20
"""More columns than this are no longer read side by side."""
ALL = -1.2
"""Where the score on the whole benchmark stands, left of its parts."""
NAME = 18
"""Longest name of a published system, in characters: with what follows it, it ends before the axis."""
PUBLISHED_CAPTION = (
    "“All” is the whole benchmark; left of it what others published on {} (words of training text, year whose rules "
    "were followed). Their corpora and lengths of training differ; they are part of no comparison."
)


def suite_names(summary: Summary) -> list[str]:
    """Every suite that some model was scored on."""
    return list(dict.fromkeys(name for model in summary.models.values() for name in suites_of(model)))


def parallel_scores(summary: Summary, suite: str) -> Any | None:
    """One line a model over the suite's phenomena (or fields, or paradigms); the band spans its seeds."""
    scores = {name: found for name, model in summary.models.items() if (found := _by_category(model, suite))}
    categories = list(dict.fromkeys(category for found in scores.values() for category in found))
    if not 2 <= len(categories) <= MAX_CATEGORIES:
        return None
    categories.sort(key=lambda category: -fmean(v for found in scores.values() for v in found.get(category, [])))
    beside = published_beside(suite)[1]
    figure, left, axes = _frame(bool(beside))
    for name, found in scores.items():
        style = styles_of(summary)[name]
        columns = [i for i, category in enumerate(categories) if category in found]
        values = [[100 * value for value in found[categories[i]]] for i in columns]
        draw_band(axes, columns, values, style)
        edge = {"markeredgewidth": 0.5, "linewidth": 1.6}
        draw_line(axes, columns, [fmean(v) for v in values], style, label(name), 5, **edge)
        if left is not None and (overall := values_of(summary.models[name], f"{suite}.accuracy").values()):
            axes.plot([ALL] * 2, [100 * min(overall), 100 * max(overall)], color=style.colour, linewidth=1.6, alpha=0.4)
            draw_line(axes, ALL, 100 * fmean(overall), style, None, 5, **edge)
    runs = (run for model in summary.models.values() for run in model.seeds.values() if suite in run.suites)
    chances = (run.suites[suite].chance for run in runs)
    draw_chance(axes, next((chance for chance in chances if chance is not None), 0.5))
    ticks = [*([] if left is None else [(ALL, "all")]), *enumerate(categories)]
    words = [label(category.replace("_", " "), 30) for _, category in ticks]
    axes.set_xticks([place for place, _ in ticks], words, rotation=38, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.3 if left is None else ALL - 0.5, len(categories) - 0.7)
    (axes if left is None else left).set_ylabel(f"accuracy on {label(suite)} (%)")
    if left is not None:
        _draw_published(left, axes, beside, suite)
    figure.legend(loc="outside upper center", ncols=3)
    return figure


def _frame(beside: bool) -> tuple[Any, Any | None, Any]:
    """A figure with the axes of the models, and left of them those of published systems, where there are some."""
    if not beside:
        figure, axes = new_figure(4.3)
        return figure, None, axes
    figure, (left, axes) = new_figure(4.8, 1, 2, width_ratios=(2.8, 4.6), sharey=True)
    left.set(xlim=(0, 1), xticks=[])
    left.grid(visible=False)
    left.spines["bottom"].set_visible(False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure, left, axes


def published_beside(suite: str) -> tuple[str, list[Published]]:
    """The evaluation whose published scores stand beside a suite's, and the systems; none for most suites."""
    near = NEAR.get(suite, suite)
    return near, [system for system in relevant([suite]) if near in system.scores]


def draw_chance(axes: Any, chance: float) -> None:
    """Mark what guessing scores, a share, on an axis in percent."""
    axes.axhline(100 * chance, color=FAINT, linewidth=0.9, linestyle=(0, (4, 3)))
    place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "ha": "right"}
    axes.annotate("chance", (1, 100 * chance), (-2, 3), fontsize=8, color=FAINT, **place)


def _draw_published(left: Any, axes: Any, systems: list[Published], suite: str) -> None:
    """Hollow marks at the height of their score, each with its name; names that would overlap move apart."""
    near = NEAR.get(suite, suite)
    systems = sorted(systems, key=lambda system: system.scores[near])
    heights = [system.scores[near] for system in systems]
    low, high = axes.get_ylim()
    low, high = min(low, *heights), max(high, *heights)
    texts: list[float] = []
    # The frame follows the names, and the height of a name the frame.
    for _ in range(3):
        gap = 0.046 * (high - low)
        texts = apart(heights, gap)
        low, high = min(low, texts[0] - gap), max(high, texts[-1] + gap)
    axes.set_ylim(low, high)
    for system, height, text in zip(systems, heights, texts, strict=True):
        left.plot(0.96, height, "D", markersize=4, color=FAINT, markerfacecolor=PAPER, clip_on=False)
        left.plot([0.88, 0.945], [text, height], color=FAINT, linewidth=0.5)
        name = f"{label(system.name, NAME)}, {system.words}, {system.convention}: {height:.1f}"
        left.annotate(name, (0.865, text), fontsize=6.5, color=FAINT, ha="right", va="center")


def apart(heights: list[float], gap: float) -> list[float]:
    """Places for labels near ascending heights, none closer to the next than `gap`, together as near as can be."""
    blocks: list[tuple[float, int]] = []
    for height in heights:
        blocks.append((height, 1))
        while len(blocks) > 1 and blocks[-1][0] - blocks[-2][0] < gap * (blocks[-1][1] + blocks[-2][1]) / 2:
            (one, few), (two, more) = blocks[-2:]
            blocks[-2:] = [((one * few + two * more) / (few + more), few + more)]
    return [centre + gap * (i - (count - 1) / 2) for centre, count in blocks for i in range(count)]


def differences_of(summary: Summary) -> list[ParadigmDifferences]:
    """The summary's paradigm differences, or those of each student and control from their accuracies."""
    if summary.paradigm_differences:
        return summary.paradigm_differences
    found = (
        paradigm_differences(summary.models, student, control, suite)
        for student, control in student_and_control(summary.models)
        for suite in suites_of(summary.models[student])
    )
    return [entry for entry in found if entry is not None]


def paradigm_whiskers(summary: Summary, entry: ParadigmDifferences) -> Any | None:
    """Differences in points, sorted, with intervals; filled dots are shown after correction for their number."""
    rows = sorted(entry.rows, key=lambda row: row.mean)
    if not rows:
        return None
    palette = styles_of(summary)
    figure, axes = new_figure(0.95 + 0.172 * len(rows))
    for i, row in enumerate(rows):
        colour = palette[entry.a if row.mean > 0 else entry.b].colour if row.mean else FAINT
        if row.interval is not None:
            axes.plot([100 * end for end in row.interval], [i, i], color=colour, linewidth=1.1, alpha=0.8)
        shown = row.p_holm is not None and row.p_holm < 1 - entry.level
        axes.plot(100 * row.mean, i, "o", markersize=4.6, color=colour, markerfacecolor=colour if shown else PAPER)
    axes.axvline(0, color=INK, linewidth=0.9)
    reach = _reach(rows)
    axes.set(xlim=(-reach, reach), ylim=(-0.8, len(rows) - 0.2), xlabel="difference of accuracy (points)")
    axes.set_yticks(range(len(rows)), [label(row.paradigm, 52) for row in rows], fontsize=7.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.secondary_xaxis("top").tick_params(labelsize=8)
    sides = ((entry.b, f"← {label(entry.b, 24)} better", "left"), (entry.a, f"{label(entry.a, 24)} better →", "right"))
    for x, (name, text, side) in enumerate(sides):
        style = {"ha": side, "fontsize": 8.5, "color": palette[name].colour, "fontweight": "bold"}
        axes.annotate(text, (x, 1), (0, 20), xycoords="axes fraction", textcoords="offset points", **style)
    return figure


def _reach(rows: list[ParadigmRow]) -> float:
    """Half the axis: all dots and nine in ten whiskers; a few very wide ones run off rather than squeeze the rest."""
    ends = sorted(100 * max(abs(end) for end in row.interval) for row in rows if row.interval)
    dots = max(100 * abs(row.mean) for row in rows)
    wide = ends[int(0.9 * (len(ends) - 1))] if ends else 0.0
    return max(1.06 * dots, wide, 1.0)


def _by_category(model: ModelSummary, suite: str) -> dict[str, list[float]]:
    """Accuracy by category, one value a seed; the finest grouping that the suite has below its paradigms."""
    found: dict[str, list[float]] = {}
    for scores in (run.suites[suite] for run in model.seeds.values() if suite in run.suites):
        paradigms = {name: paradigm.accuracy for name, paradigm in scores.paradigms.items()}
        groupings = (grouping for grouping in (scores.phenomena, scores.fields) if len(grouping) > 1)
        for category, accuracy in next(groupings, paradigms).items():
            found.setdefault(category, []).append(accuracy)
    return found


def headline_panels(summary: Summary) -> Any | None:
    """One panel an evaluation, one row a model: a point a seed, a bar at their mean, the best mean's name in ink.

    None where all that was measured is a few suites, which have plots of their own.
    """
    panels = {name: metric for name, (metric, _) in headlines_of(summary).items() if _points(summary, metric)}
    if len(panels) <= FEW and not any(measured_of(model) for model in summary.models.values()):
        return None
    models = [name for name in summary.models if any(name in _points(summary, metric) for metric in panels.values())]
    figure, grid = new_panels(len(panels), 3, lambda rows: rows * (0.75 + 0.16 * len(models)))
    for axes, (name, metric) in zip(grid.flat, panels.items(), strict=False):
        _panel(axes, summary, name, metric, models)
    for row in grid:
        row[0].set_yticks(range(len(models)), [label(model, 24) for model in models], fontsize=8)
    return figure


def _panel(axes: Any, summary: Summary, name: str, metric: str, models: list[str]) -> None:
    unit, better, _ = next(fact for model in summary.models.values() for fact in facts_of(model, metric))
    shown, palette = UNITS[unit], styles_of(summary)
    for model, values in _points(summary, metric).items():
        draw_seeds(axes, models.index(model), [value * shown.scale for value in values], palette[model], 4.2)
    name_rows(axes, [""] * len(models))
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=4)
    axes.margins(x=0.12)
    axes.set_title(label(name, 26), fontsize=8.5, color=INK)
    sign = f"{metric.rpartition('.')[2].replace('_', ' ')} {f'({shown.sign})' if shown.sign else ''}".strip()
    axes.set_xlabel(f"{sign}, {better} is better", fontsize=7.5, color=FAINT)
    axes.tick_params(axis="x", labelsize=7.5)


def _points(summary: Summary, metric: str) -> dict[str, list[float]]:
    found = {name: list(values_of(model, metric).values()) for name, model in summary.models.items()}
    return {name: values for name, values in found.items() if values}
