"""The report as Markdown, for a repository's results folder."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tutelage.compare.summary import Summary, read_summary
from tutelage.report.contents import contents, recipe_text
from tutelage.report.headline import headline
from tutelage.report.plot_style import FigurePlan
from tutelage.report.plots import Plot, plans
from tutelage.report.tables import Table


def markdown_report(
    summary: Summary | Mapping[str, Any], plots_folder: Path | None = None, plots: Sequence[Plot] | None = None
) -> str:
    """Write the report as GitHub's Markdown.

    `plots_folder` holds the plots as PNG; those that are there are shown, linked relative to its parent. `plots` are
    the drawings just made, where the caller has them.
    """
    checked = read_summary(summary)
    answer = headline(checked)
    drawn: Sequence[FigurePlan | Plot] = list(plans(checked)) if plots is None else plots
    there = [plot for plot in drawn if plots_folder and (plots_folder / f"{plot.name}.png").is_file()]
    parts = [f"# {escape(checked.recipe)}", f"**{escape(answer.sentence)}** {escape(answer.details)}".strip()]
    for part in contents(checked, there):
        parts.append(_section(part) if isinstance(part, Table) else _image(part, plots_folder))
    parts.append(_recipe(recipe_text(checked)))
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


def _image(plot: FigurePlan | Plot, folder: Path | None) -> str:
    link = quote(f"{folder.name if folder else ''}/{plot.name}.png")
    return f"## {escape(plot.title)}\n\n![{escape(plot.title)}]({link})\n\n{escape(plot.caption)}"


def _recipe(text: str) -> str:
    """The recipe folded away; the fence is longer than any run of backticks inside."""
    if not text:
        return ""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"## Recipe\n\n<details><summary>resolved recipe</summary>\n\n{fence}json\n{text}\n{fence}\n\n</details>"
