"""The report on a terminal: the answer, the models and the comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from tutelage.base.console import NARROWEST
from tutelage.compare.summary import Summary, read_summary
from tutelage.report.headline import headline, verdicts_table
from tutelage.report.table_scores import evaluations_table, how_scored, published_table
from tutelage.report.table_training import reached_table
from tutelage.report.tables import Table, comparisons_table, described_table, models_table

NAME_WIDTH = 26
"""Longer names are folded."""
LONGEST = 12
"""Comparisons that are shown; the report has them all."""
GAP = 2
"""Blanks between columns."""
DISPENSABLE = (
    "items",
    "student's",
    "control's",
    "control trained for",
    "perplexity",
    "val perplexity",
    "role",
    "words seen",
    "characters seen",
    "words by bytes seen",
    "bits/byte",
    "params",
    "seed pairs",
    "p",
)
"""Columns that a narrow terminal leaves out, the first ones first; the report has them all."""


def terminal_table(summary: Summary | Mapping[str, Any]) -> RenderableType:
    """Return what `console.print` shows at the end of a run; model names are never read as markup."""
    checked = read_summary(summary)
    pairs = (_begun(table(checked, brief=True)) for table in (comparisons_table, described_table))
    tables = (evaluations_table(checked, brief=True), *pairs, reached_table(checked, brief=True))
    more = [_Fitted(table) for table in tables if table.rows]
    verdicts, answer = verdicts_table(checked), headline(checked)
    more += [_Fitted(verdicts)] if verdicts.rows else []
    return _apart(_Fitted(models_table(checked)), *more, Text.assemble((answer.sentence, "bold"), " ", answer.details))


def _begun(table: Table) -> Table:
    """A table's first rows, so that the answer below is not lost behind a page of them."""
    left_out = len(table.rows) - LONGEST
    if left_out <= 0:
        return table
    note = f"{left_out} more rows stand in the report. {table.note}"
    return replace(table, rows=table.rows[:LONGEST], note=note)


def scores_table(summary: Summary | Mapping[str, Any]) -> RenderableType:
    """Return what is shown after models were scored: every measure, and what others published."""
    checked = read_summary(summary)
    published = published_table(checked, brief=True)
    more = [_Fitted(published)] if published.rows else []
    return _apart(_Fitted(evaluations_table(checked, always=True)), *more, Text(how_scored(checked)))


def _apart(first: RenderableType, *others: RenderableType) -> Group:
    return Group(first, *(Padding(other, (1, 0, 0, 0)) for other in others))


@dataclass(frozen=True)
class _Fitted:
    """A table that leaves columns out, and puts some below, rather than break its numbers or its names."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        kept = list(range(len(self.table.header)))
        for name in DISPENSABLE:
            if self._width(kept) > options.max_width and name in self.table.header:
                kept.remove(self.table.header.index(name))
        widths = {i: self._column(i) for i in kept}
        blocks = self._blocks(widths, options.max_width)
        for i, block in enumerate(blocks):
            yield self._drawn({at: widths[at] for at in block}, first=i == 0, last=i == len(blocks) - 1)

    def _blocks(self, widths: dict[int, int], width: int) -> list[list[int]]:
        """Columns of words, and as many of numbers as fit beside them; the rest below, beside names again."""
        words = [i for i in widths if i < self.table.left]
        # Names are folded, and never so far that letters stand below one another.
        while sum(widths[i] + GAP for i in words) > width // 2 and max(widths[i] for i in words) > NARROWEST:
            widest = max(words, key=lambda i: widths[i])
            widths[widest] -= 1
        blocks = [list(words)]
        for i in [i for i in widths if i not in words]:
            if len(blocks[-1]) > len(words) and sum(widths[at] + GAP for at in (*blocks[-1], i)) - GAP > width:
                blocks.append(list(words))
            blocks[-1].append(i)
        return blocks

    def _width(self, kept: list[int]) -> int:
        return sum(self._column(i) + GAP for i in kept) - GAP

    def _column(self, i: int) -> int:
        longest = max(len(text) for text in (self.table.header[i], *(row[i] for row in self.table.rows)))
        return min(longest, NAME_WIDTH) if self._is_words(i) else longest

    def _is_words(self, i: int) -> bool:
        return i < self.table.left or self.table.header[i] == "verdict"

    def _drawn(self, widths: dict[int, int], first: bool, last: bool) -> RichTable:
        result = RichTable(
            title=Text(self.table.title if first else ""), caption=Text(self.table.note if last else ""),
            title_justify="left", caption_justify="left", header_style="bold", box=None, pad_edge=False,
            padding=(0, GAP, 0, 0),
        )  # fmt: skip
        for i, width in widths.items():
            words = i < self.table.left
            result.add_column(
                Text(self.table.header[i]), justify="left" if words else "right", overflow="fold", width=width,
                no_wrap=not self._is_words(i),
            )  # fmt: skip
        for at, row in enumerate(self.table.rows):
            styles = (self._style(at, i) for i in widths)
            result.add_row(*(Text(row[i], style=style) for i, style in zip(widths, styles, strict=True)))
        return result

    def _style(self, row: int, column: int) -> str:
        if (row, column) in self.table.bold:
            return "bold"
        return "green" if (row, column) in self.table.green else ""
