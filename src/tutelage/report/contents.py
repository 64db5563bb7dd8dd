"""What a report shows, in the order in which it is read: the same on a page and in Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TypeVar

from tutelage.compare.summary import Summary
from tutelage.report.headline import verdicts_table
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

T = TypeVar("T")


def contents(summary: Summary, plots: Sequence[T]) -> list[Table | T]:
    """The first plot, the verdicts, the other plots, and the tables; a table without rows is not shown."""
    scores = (models_table, evaluations_table, comparisons_table, described_table, published_table)
    more = (reached_table, curve_table, selections_table, examples_table)
    tables = [table(summary) for table in (*scores, *more)]
    about = [cost_table(summary), *settings_tables(summary), data_table(summary), origin_table(summary)]
    return [*plots[:1], verdicts_table(summary), *plots[1:], *tables, *about]


def recipe_text(summary: Summary) -> str:
    """The resolved recipe as JSON; empty where there is none."""
    recipe = summary.resolved_recipe
    return json.dumps(recipe, indent=2, ensure_ascii=False) if recipe else ""
