"""The report as Markdown, for a repository's results folder."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tutelage.compare.summary import Summary, read_summary
from tutelage.report.headline import headline
from tutelage.report.plot_style import FigurePlan
from tutelage.report.plots import Plot, plans
from tutelage.report.selections import examples_table, selections_table
from tutelage.report.table_scores import evaluations_table, published_table
from tutelage.report.table_training import curve_table, reached_table
from tutelage.report.tables import (
    Table,
    comparisons_table,
    cost_table,
    data_table,
    described_table,
    models_table,
    origin_table,
    settings_tables,
)


def markdown_report(
    summary: Summary | Mapping[str, Any], plots_folder: Path | None = None, plots: Sequence[Plot] | None = None
) -> str:
    """Write the report as GitHub's Markdown.

    `plots_folder` holds the plots as PNG; those that are there are shown, linked relative to its parent. `plots` are
    the drawings just made, where the caller has them.
    """
    checked = read_summary(summary)
    parts = [f"# {escape(checked.recipe)}"]
    parts += [f"**{escape(a.sentence)}** {escape(a.details)}".strip() for a in headline(checked)]
    scores = (models_table, evaluations_table, comparisons_table, described_table, published_table)
    more = (reached_table, curve_table, selections_table, examples_table)
    parts += [_section(table(checked)) for table in (*scores, *more)]
    shown: Sequence[FigurePlan | Plot] = list(plans(checked)) if plots is None else plots
    parts += [_image(plot, plots_folder) for plot in shown if plots_folder and _file(plot, plots_folder).is_file()]
    parts += [_section(table) for table in (cost_table(checked), *settings_tables(checked), data_table(checked))]
    parts.append(_section(origin_table(checked)))
    parts.append(_recipe(checked))
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(text: str) -> str:
    """Text that Markdown shows as it is: no markup, no HTML, one line."""
    one_line = " ".join(text.split())
    marked = re.sub(r"([\\`*_\[\]#|~$!])", r"\\\1", one_line)
    # A bare address would become a link.
    marked = re.sub(r"(?i)(https?|www)([:.])", r"\1\\\2", marked.replace("&", "&amp;"))
    return marked.replace("<", "&lt;").replace(">", "&gt;").replace("@", "&#64;")


def _section(table: Table) -> str:
    if not table.rows:
        return ""
    lines = [f"## {escape(table.title)}", "", _row(table.header)]
    lines.append("|" + "|".join(" :-- " if i < table.left else " --: " for i in range(len(table.header))) + "|")
    lines += [_row(row, {column for at, column in table.bold if at == i}) for i, row in enumerate(table.rows)]
    return "\n".join([*lines, "", escape(table.note)]).strip()


def _row(cells: Sequence[str], bold: Collection[int] = ()) -> str:
    written = (f"**{escape(cell)}**" if i in bold else escape(cell) for i, cell in enumerate(cells))
    return "| " + " | ".join(written) + " |"


def _file(plot: FigurePlan | Plot, folder: Path) -> Path:
    return folder / f"{plot.name}.png"


def _image(plot: FigurePlan | Plot, folder: Path | None) -> str:
    link = quote(f"{folder.name if folder else ''}/{plot.name}.png")
    return f"## {escape(plot.title)}\n\n![{escape(plot.title)}]({link})\n\n{escape(plot.caption)}"


def _recipe(summary: Summary) -> str:
    """The recipe folded away; the fence is longer than any run of backticks inside."""
    if not summary.resolved_recipe:
        return ""
    text = json.dumps(summary.resolved_recipe, indent=2, ensure_ascii=False)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"## Recipe\n\n<details><summary>resolved recipe</summary>\n\n{fence}json\n{text}\n{fence}\n\n</details>"
