"""The report on a terminal: the answer, the models and the comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from tutelage.compare.summary import Summary, read_summary
from tutelage.report.headline import headline
from tutelage.report.table_scores import evaluations_table, how_scored, published_table
from tutelage.report.table_training import reached_table
from tutelage.report.tables import Table, comparisons_table, described_table, models_table

NAME_WIDTH = 26
"""Longer names are folded."""
DISPENSABLE = ("items", "perplexity", "val perplexity", "role", "words seen", "bits/byte", "params", "seed pairs", "p")
"""Columns that a narrow terminal leaves out, the first ones first; the report has them all."""


def terminal_table(summary: Summary | Mapping[str, Any]) -> RenderableType:
    """Return what `console.print` shows at the end of a run; model names are never read as markup."""
    checked = read_summary(summary)
    brief = (evaluations_table, comparisons_table, described_table, reached_table)
    more = [_Fitted(table) for table in (table(checked, brief=True) for table in brief) if table.rows]
    answers = [Text.assemble((answer.sentence, "bold"), " ", answer.details) for answer in headline(checked)]
    return _apart(_Fitted(models_table(checked)), *more, *answers)


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
    """A table that leaves columns out rather than break its numbers."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        kept = list(range(len(self.table.header)))
        for name in DISPENSABLE:
            if self._width(kept) > options.max_width and name in self.table.header:
                kept.remove(self.table.header.index(name))
        blocks = self._blocks(kept, options.max_width) if self.table.parts else [kept]
        for i, block in enumerate(blocks):
            yield self._drawn(block, first=i == 0, last=i == len(blocks) - 1)

    def _blocks(self, kept: list[int], width: int) -> list[list[int]]:
        """Columns of words, and as many of numbers as fit beside them; the rest below."""
        words = [i for i in kept if i < self.table.left]
        blocks = [list(words)]
        for i in kept[len(words) :]:
            if len(blocks[-1]) > len(words) and self._width([*blocks[-1], i]) > width:
                blocks.append(list(words))
            blocks[-1].append(i)
        return blocks

    def _width(self, kept: list[int]) -> int:
        columns = ([self.table.header[i], *(row[i] for row in self.table.rows)] for i in kept)
        widths = zip(kept, (max(map(len, cells)) + 2 for cells in columns), strict=True)
        return sum(min(width, NAME_WIDTH) if i < self.table.left else width for i, width in widths)

    def _drawn(self, kept: list[int], first: bool, last: bool) -> RichTable:
        result = RichTable(
            title=Text(self.table.title if first else ""), caption=Text(self.table.note if last else ""),
            title_justify="left", caption_justify="left", header_style="bold", box=None, pad_edge=False,
            padding=(0, 2, 0, 0),
        )  # fmt: skip
        for i in kept:
            words = i < self.table.left or self.table.header[i] == "verdict"
            result.add_column(
                Text(self.table.header[i]),
                justify="left" if i < self.table.left else "right",
                overflow="fold",
                no_wrap=not words,
                max_width=NAME_WIDTH if words else None,
            )
        for at, row in enumerate(self.table.rows):
            styles = (self._style(at, i) for i in kept)
            result.add_row(*(Text(row[i], style=style) for i, style in zip(kept, styles, strict=True)))
        return result

    def _style(self, row: int, column: int) -> str:
        if (row, column) in self.table.bold:
            return "bold"
        return "green" if (row, column) in self.table.green else ""
