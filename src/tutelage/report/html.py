"""The reports as one HTML file: styles and drawings inside, no scripts, nothing fetched, light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tutelage.compare.summary import Summary, read_summary
from tutelage.report.contents import contents, recipe_text
from tutelage.report.headline import headline
from tutelage.report.plots import THEME, Plot, draw
from tutelage.report.render import render
from tutelage.report.tables import Table


def html_report(summary: Summary | Mapping[str, Any], plots: Sequence[Plot] | None = None) -> str:
    """Write the report as a page that needs nothing else; `plots` saves drawing them again."""
    checked = read_summary(summary)
    answer = headline(checked)
    return page(
        f"{checked.recipe}: did the teacher pay off?",
        f"tutelage {checked.tutelage}, {checked.created}",
        contents(checked, draw(checked) if plots is None else plots),
        [(answer.sentence, answer.details)],
        recipe_text(checked),
    )


def page(
    title: str, made: str, parts: Iterable[Table | Plot], answers: Iterable[tuple[str, str]] = (), recipe: str = ""
) -> str:
    """Write a page of the reports' style.

    `made` says when and by what. Of `parts`, tables without rows are left out. `answers` are what it comes to:
    sentences, each with its circumstances. The `recipe` is folded away at the end.
    """
    return render("page.html.j2", title=title, made=made, parts=parts, answers=answers, recipe=recipe, theme=THEME)
