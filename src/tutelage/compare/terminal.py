"""The report on a terminal: the answer, the models and the comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from tutelage.compare.headline import headline
from tutelage.compare.summary import Summary, read_summary
from tutelage.compare.tables import Table, comparisons_table, described_table, models_table


def terminal_table(summary: Summary | Mapping[str, Any]) -> RenderableType:
    """Return what `console.print` shows at the end of a run; model names are never read as markup."""
    checked = read_summary(summary)
    parts: list[RenderableType] = [_rich(models_table(checked))]
    more = (comparisons_table(checked, brief=True), described_table(checked, brief=True))
    parts += [Padding(_rich(table), (1, 0, 0, 0)) for table in more if table.rows]
    for answer in headline(checked):
        parts.append(Padding(Text.assemble((answer.sentence, "bold"), " ", answer.details), (1, 0, 0, 0)))
    return Group(*parts)


def _rich(table: Table) -> RichTable:
    result = RichTable(
        title=Text(table.title),
        caption=Text(table.note),
        title_justify="left",
        caption_justify="left",
        header_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for i, name in enumerate(table.header):
        result.add_column(Text(name), justify="left" if i < table.left else "right", overflow="fold")
    for row in table.rows:
        result.add_row(*(Text(cell, style=_style(cell)) for cell in row))
    return result


def _style(cell: str) -> str:
    """Only what was shown stands out."""
    return "green" if cell.startswith("shown:") else ""
