"""All plots of a report, in the order in which they are read; a run without suites or teachers has fewer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tutelage.base.files import write_bytes, write_text
from tutelage.compare.summary import Summary, read_summary
from tutelage.report import plot_gate, plot_learning, plot_scores, plot_teaching, plot_training, selections
from tutelage.report.plot_style import FigurePlan, drawing, to_png, to_svg

THEME = (
    ":root{--ink:#1f2328;--faint:#6e7781;--grid:#d8dee4;--paper:#fff;--font:'DejaVu Sans',Verdana,sans-serif}"
    "@media(prefers-color-scheme:dark){:root{--ink:#e6e9ec;--faint:#9198a1;--grid:#31363d;--paper:#15181c}}"
)
"""The CSS variables that a drawing uses, for light and dark pages."""


@dataclass(frozen=True, slots=True)
class Plot:
    """A finished drawing: file name without ending, title, what one sees, and the matplotlib figure."""

    name: str
    title: str
    caption: str
    figure: Any

    def svg(self) -> str:
        """The drawing as an `<svg>` element whose colours follow the page."""
        return to_svg(self.figure, self.name)


def draw(summary: Summary | Mapping[str, Any], among: Iterable[FigurePlan] | None = None) -> list[Plot]:
    """Draw every plot that the summary has material for, of all or `among` some."""
    checked = read_summary(summary)
    found: dict[str, Plot] = {}
    with drawing():
        for plan in plans(checked) if among is None else among:
            if (figure := plan.draw(checked)) is not None:
                # Two names may become one once they are fit for a file.
                taken = sum(name == plan.name or name.startswith(f"{plan.name}--") for name in found)
                name = f"{plan.name}--{taken + 1}" if taken else plan.name
                found[name] = Plot(name, plan.title, plan.caption, figure)
    return list(found.values())


def save(plots: list[Plot], folder: Path, kind: str = "png") -> list[Path]:
    """Write each plot as `<folder>/<name>.png` (or `.svg`), atomically; returns the files."""
    files = []
    for plot in plots:
        files.append(folder / f"{plot.name}.{kind}")
        if kind == "svg":
            # A drawing that stands in no page has its own theme.
            write_text(files[-1], plot.svg().replace(">", f"><style>{THEME}</style>", 1))
        else:
            write_bytes(files[-1], to_png(plot.figure))
    return files


def slug(name: str) -> str:
    """A name as part of a file name or an id."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or "unnamed"


def _learning_curves(summary: Summary) -> Iterator[FigurePlan]:
    caption = (
        "Checkpoints against words seen, repeats included. Mean over seeds; the band spans the lowest and highest "
        "seed. Large: the finished model, the best checkpoint by validation loss."
    )
    for name in plot_learning.repeated(summary):
        draw = partial(plot_learning.learning_curves, name=name)
        yield FigurePlan(f"learning-{slug(name)}", f"Learning curves: {name}", caption, draw)


def suite_scores(summary: Summary, caption: str) -> Iterator[FigurePlan]:
    """The scores on each suite; the caption goes on with what published scores stand beside them."""
    for suite in plot_scores.suite_names(summary):
        near, systems = plot_scores.published_beside(suite)
        beside = f" {plot_scores.PUBLISHED_CAPTION.format(near)}" if systems else ""
        draw = partial(plot_scores.parallel_scores, suite=suite)
        yield FigurePlan(f"scores-{slug(suite)}", f"Scores on {suite}", caption + beside, draw)


def _paradigm_differences(summary: Summary) -> Iterator[FigurePlan]:
    for entry in plot_scores.differences_of(summary):
        seeds = f"{entry.n} seed pair{'s' if entry.n != 1 else ''}"
        yield FigurePlan(
            f"differences-{slug(entry.suite)}-{slug(entry.a)}-{slug(entry.b)}",
            f"{entry.suite}: {entry.a} minus {entry.b}, by paradigm",
            f"Whiskers: {100 * entry.level:g} % intervals ({entry.method}, {seeds}), each alone; a few wide ones run "
            "off the frame. A filled dot is a difference shown after Holm's correction for the number of paradigms.",
            partial(plot_scores.paradigm_whiskers, entry=entry),
        )


FIGURES: tuple[FigurePlan | Callable[[Summary], Iterator[FigurePlan]], ...] = (
    FigurePlan(
        "held-out", "Held-out loss, seed by seed",
        "Each point is one training; the bar is the mean. Lower is better.",
        plot_training.held_out_dots,
    ),
    FigurePlan(
        "teaching", "Who taught whom",
        "Arrows run from teacher to student, with each objective's weight, temperature (T) and reduction. "
        "Dotted: models averaged without training. Dashed frame: the control, trained alike but for its teachers.",
        plot_teaching.teaching_graph,
    ),
    FigurePlan(
        "validation-loss", "Validation loss during training",
        "Thin: one seed. Thick: mean over seeds. The first steep fall is cut off at the top.",
        plot_training.validation_curves,
    ),
    FigurePlan(
        "curve-differences", "Student minus control at the same steps",
        "Mean over pairs of seeds and its interval, each step alone; below zero the student is ahead. Steps on a log "
        "axis, so that the early phase can be seen.",
        plot_training.curve_differences,
    ),
    FigurePlan(
        "training-loss", "Training loss",
        "Averaged over neighbouring steps. KL is the divergence of teachers and student, as its reduction defines it.",
        plot_training.training_curves,
    ),
    _learning_curves,
    FigurePlan(
        "teacher-weight", "The teachers' weight",
        "The teachers' weight in the loss, step by step; below it, where a gate chose among tokens, the gate's mean "
        "weight: the share of the teachers' weight that it let through.",
        plot_gate.teacher_weight,
    ),
    FigurePlan(
        "gate-by-difficulty", "The gate's weight by difficulty",
        "Held-out tokens in ten parts, from those that the teachers predict best to those that they predict worst; the "
        "gate's mean weight in each, once training was over. Thin: one seed. Thick: mean over seeds.",
        plot_gate.gate_by_difficulty,
    ),
    FigurePlan(
        "selections", "What was selected, by value",
        "All rows (or tokens) in grey, those kept in colour. Values beyond the scale stand in the outer bins.",
        selections.selection_histograms,
    ),
    FigurePlan(
        "evaluations", "All evaluations, seed by seed",
        "Each point is one training, the bar the mean; each panel has an axis of its own.",
        plot_scores.headline_panels,
    ),
    partial(suite_scores,
            caption="Mean over seeds; the band spans the lowest and highest seed. Sorted by the models' mean."),
    _paradigm_differences,
    FigurePlan(
        "cost", "What it cost",
        "One seed of each model. A teacher's training counts whole for every model that needed it.",
        plot_training.cost_bars,
    ),
)  # fmt: skip
"""Every plot that a report may have, in the order in which they are read."""


def plans(summary: Summary) -> Iterator[FigurePlan]:
    """Every plot that could be drawn from a summary."""
    for figure in FIGURES:
        yield from (figure,) if isinstance(figure, FigurePlan) else figure(summary)
