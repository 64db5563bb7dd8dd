"""What stages learnt from, where that was not everything: tables and histograms of selections."""

from __future__ import annotations

from typing import Any

from tutelage.compare.metrics import MISSING
from tutelage.compare.summary import Summary
from tutelage.compare.summary_runs import SelectionSummary
from tutelage.report.plot_style import FAINT, INK, label, new_panels, styles_of
from tutelage.report.tables import Table, cell

COLUMNS = 3
LETTERS = 140
"""Of an example, at most."""


def selections_table(summary: Summary) -> Table:
    """One row a selection: how much was kept, by whose scores, within which values."""
    rows = [
        (
            name,
            str(found.stage),
            found.by,
            " against ".join(model for model in (found.scorer, found.reference) if model) or MISSING,
            f"{found.kept:,} of {found.of:,} {found.what}",
            f"{100 * found.kept / found.of:.1f} %",
            MISSING if found.lowest is None else f"{found.lowest:.3f} to {found.highest:.3f}",
            found.unit or MISSING,
        )
        for name, found in _selections(summary)
    ]
    header = ("model", "stage", "by", "scores of", "kept", "share", "values kept", "unit")
    note = "Of the first seed. Later stages without a selection read everything."
    return Table("What was selected", header, rows, note, left=4)


def examples_table(summary: Summary) -> Table:
    """The beginnings of some rows that were kept and dropped, from the highest value to the lowest."""
    rows = [
        (f"{name}, stage {found.stage}", which, cell(example.value, "{:.3f}".format), _short(example.text))
        for name, found in _selections(summary)
        for which, examples in (("kept", found.texts_kept), ("dropped", found.texts_dropped))
        for example in examples
    ]
    note = "Evenly spaced from the highest value to the lowest; the beginnings of rows."
    if any(found.what == "tokens" for _, found in _selections(summary)):
        note += " Where tokens were selected, they stand in [brackets], and the value is their share."
    return Table("Examples of what was selected", ("selection", "", "value", "text"), rows, note, left=4)


def selection_histograms(summary: Summary) -> Any | None:
    """A histogram a selection, what was kept in colour; None where nothing was selected by a value."""
    found = [(name, one) for name, one in _selections(summary) if one.counts]
    if not found:
        return None
    figure, grid = new_panels(len(found), COLUMNS, lambda rows: 0.6 + 2.1 * rows)
    palette = styles_of(summary)
    for axes, (name, one) in zip(grid.flat, found, strict=False):
        widths = [high - low for low, high in zip(one.edges, one.edges[1:], strict=False)]
        axes.bar(one.edges[:-1], one.counts, widths, align="edge", color=FAINT, alpha=0.35)
        axes.bar(one.edges[:-1], one.counts_kept, widths, align="edge", color=palette[name].colour)
        axes.set_title(label(f"{name}, stage {one.stage}: {one.by}", 34), fontsize=8.5, color=INK)
        axes.set_xlabel(label(one.unit, 42), fontsize=7.5, color=FAINT)
        axes.set_ylabel(one.what, fontsize=7.5, color=FAINT)
        axes.tick_params(labelsize=7.5)
    return figure


def _selections(summary: Summary) -> list[tuple[str, SelectionSummary]]:
    return [(name, found) for name, model in summary.models.items() for found in model.selections]


def _short(text: str) -> str:
    # Nothing that a terminal or a page would obey.
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return plain if len(plain) <= LETTERS else plain[: LETTERS - 1] + "…"
