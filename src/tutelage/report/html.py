"""The report as one HTML file: styles and drawings inside, no scripts, nothing fetched, light and dark."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from tutelage.compare.summary import Summary, read_summary
from tutelage.report.headline import Answer, headline
from tutelage.report.plots import THEME, Plot, draw
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

_STYLE = """
*{box-sizing:border-box}
:root{color-scheme:light dark;--accent:#2f7fc1;--soft:#f3f5f7;--good:#00805d}
@media(prefers-color-scheme:dark){:root{--soft:#1d2126;--good:#2bb98e}}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,'Segoe UI',sans-serif}
main{max-width:1060px;margin:0 auto;padding:40px 20px 60px}
h1{font-size:1.7rem;margin:0 0 .2em;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.4em 0 .6em;overflow-wrap:anywhere}
.made{color:var(--faint);margin:0 0 1.6em;font-size:.9rem}
.answer{background:var(--soft);border-left:4px solid var(--accent);border-radius:0 6px 6px 0;padding:14px 18px;
  margin:0 0 12px;overflow-wrap:anywhere}
.answer strong{display:block;font-size:1.12rem;line-height:1.45;margin-bottom:.3em}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.84rem;font-variant-numeric:tabular-nums}
th{text-align:right;font-weight:600;border-bottom:2px solid var(--grid);padding:6px 6px;vertical-align:bottom}
td{text-align:right;border-bottom:1px solid var(--grid);padding:6px 6px;vertical-align:top;white-space:nowrap}
th.w,td.w{text-align:left}
td.w{white-space:normal;overflow-wrap:break-word;min-width:6em}
td.best{font-weight:700}
td.shown{color:var(--good);font-weight:600}
.note,figcaption{color:var(--faint);font-size:.85rem;margin:.6em 0 0}
figure{margin:0}
figure svg{width:100%;max-width:840px;height:auto;display:block}
details{border:1px solid var(--grid);border-radius:6px;padding:10px 14px;margin-top:1.2em}
summary{cursor:pointer;font-weight:600}
pre{overflow-x:auto;font-size:.8rem;line-height:1.4}
@media print{main{max-width:none;padding:0}figure,table{break-inside:avoid}}
"""


def html_report(summary: Summary | Mapping[str, Any], plots: Sequence[Plot] | None = None) -> str:
    """Write the report as a page that needs nothing else; `plots` saves drawing them again."""
    checked = read_summary(summary)
    drawings = draw(checked) if plots is None else plots
    title = f"{checked.recipe}: did the teacher pay off?"
    made = f"tutelage {checked.tutelage}, {checked.created}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="made">{escape(made)}</p>',
        *(_answer(answer) for answer in headline(checked)),
        section(models_table(checked)),
        section(evaluations_table(checked)),
        section(comparisons_table(checked)),
        section(described_table(checked)),
        section(published_table(checked)),
        section(reached_table(checked)),
        section(curve_table(checked)),
        section(selections_table(checked)),
        section(examples_table(checked)),
        *(figure(plot) for plot in drawings),
        section(cost_table(checked)),
        *(section(table) for table in settings_tables(checked)),
        section(data_table(checked)),
        section(origin_table(checked)),
        _recipe(checked),
    ]
    return page(title, parts)


def page(title: str, parts: Sequence[str]) -> str:
    """Put finished parts into a page of the reports' style; empty ones are left out."""
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        # Even a hostile name that slipped through every escape could load and run nothing.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{THEME}{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _answer(answer: Answer) -> str:
    return f'<p class="answer"><strong>{escape(answer.sentence)}</strong> {escape(answer.details)}</p>'


def section(table: Table) -> str:
    """A table under its title; nothing where it has no rows."""
    if not table.rows:
        return ""
    head = "".join(f'<th scope="col"{_words(i, table)}>{escape(name)}</th>' for i, name in enumerate(table.header))
    rows = "\n".join(f"<tr>{_cells(i, table)}</tr>" for i in range(len(table.rows)))
    note = f'<p class="note">{_prose(table.note)}</p>' if table.note else ""
    return (
        f'<section><h2>{escape(table.title)}</h2><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{rows}\n</tbody></table></div>{note}</section>"
    )


def _cells(row: int, table: Table) -> str:
    def kind(column: int) -> str:
        if (row, column) in table.green:
            return ' class="shown"'
        return ' class="best"' if (row, column) in table.bold else _words(column, table)

    return "".join(f"<td{kind(i)}>{escape(cell)}</td>" for i, cell in enumerate(table.rows[row]))


def _words(column: int, table: Table) -> str:
    return ' class="w"' if column < table.left else ""


def figure(plot: Plot) -> str:
    """A drawing under its title."""
    return (
        f'<section><h2>{escape(plot.title)}</h2><figure role="img" aria-label="{escape(plot.title)}">{plot.svg()}'
        f"<figcaption>{_prose(plot.caption)}</figcaption></figure></section>"
    )


def _prose(text: str) -> str:
    """Escape a caption; what stands in backticks there is code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def _recipe(summary: Summary) -> str:
    if not summary.resolved_recipe:
        return ""
    text = json.dumps(summary.resolved_recipe, indent=2, ensure_ascii=False)
    return f"<details><summary>Resolved recipe</summary><pre>{escape(text)}</pre></details>"
