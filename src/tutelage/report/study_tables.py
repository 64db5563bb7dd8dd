"""Tables that the verbs of `tutelage study` end with: `<verb>_table` shows what `study_<verb>` returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from tutelage.base.progress import human
from tutelage.corpus.study_plan import StudyPlan
from tutelage.recipe.shipped import shipped
from tutelage.study.client.budget import Spending
from tutelage.study.filter.audit import Audited
from tutelage.study.filter.filters import Filtered
from tutelage.study.filter.overlap import SuiteOverlap
from tutelage.study.filter.text import visible
from tutelage.study.settings import Prices, load_study
from tutelage.study.write.labelling import Labelled
from tutelage.study.write.word_ledger import WHY, WordLedger


def plain(text: str) -> Text:
    """Return somebody's words for a table: they are no markup, and give no orders to a terminal."""
    return Text(visible(text))


def _table(
    title: str | Text, header: str, rows: Iterable[Sequence[str]], caption: str | None = None, total: bool = False
) -> Table:
    """Make a table whose first column holds somebody's words and whose others hold numbers.

    `header` has the columns' names, parted by `|`; `total` sets the last row apart.
    """
    table = Table(title=title, caption=caption)
    first, *numbers = header.split("|")
    table.add_column(first, overflow="fold")
    for heading in numbers:
        table.add_column(heading, justify="right")
    lines = list(rows)
    for place, (name, *cells) in enumerate(lines, 1):
        table.add_row(plain(name), *cells, end_section=total and place == len(lines) - 1)
    return table


def shipped_studies() -> Table:
    """List the studies that come with the package."""
    table = Table("study", "what it is", box=None, padding=(0, 2, 1, 0))
    for name in shipped("study"):
        table.add_row(f"[bold]{name}[/]", load_study(name).description)
    return table


def plan_table(plan: StudyPlan) -> Table:
    """Show lessons, tasks, labels and prompts."""
    table = Table(title=plain(plan.title))
    for heading in ("lesson", "task", "labels"):
        table.add_column(heading, overflow="fold")
    table.add_column("prompts", justify="right")
    for lesson in plan.lessons:
        for number, task in enumerate(lesson.tasks):
            labels = plain(", ".join(task.labels) or "(writing)")
            table.add_row("" if number else lesson.kind, plain(task.name), labels, str(len(task.prompts)))
    return table


def write_table(ledger: WordLedger) -> Table:
    """Show what was written and kept, by task."""
    counts = [
        (task.requests, task.texts, task.words, task.written_texts - task.texts, task.written_words - task.words)
        for task in ledger.tasks.values()
    ]
    named = [*zip(ledger.tasks, counts, strict=True), ("all", [sum(column) for column in zip(*counts, strict=True)])]
    rows = [(name, *(f"{number:,}" for number in numbers)) for name, numbers in named]
    header = "task|requests|texts|words|refused texts|refused words"
    return _table("Written", header, rows, WHY[ledger.ended], total=True)


def label_table(found: Labelled) -> Table:
    """Show how many of the texts that could have a label for a task have one."""
    rows = [
        (name, f"{count:,}", f"{100 * count / found.could[name]:.0f} %" if found.could[name] else "-")
        for name, count in found.labels.items()
    ]
    caption = f"{found.refused:,} labels came to nothing" if found.refused else None
    return _table("Labelled", "task|texts with a label|of those that could", rows, caption)


def filter_table(found: Filtered) -> Group:
    """Show what was kept, what was not and why, and the overlap with each evaluation set."""
    words = sum(example.word_count for example in found.kept)
    rows = [(fault, f"{count:,}") for fault, count in found.faults.most_common()]
    caption = f"{len(found.kept):,} texts kept, {words:,} words"
    return Group(_table("Filtered", "not taken|texts or labels", rows, caption), *_overlap(found.overlap))


def _overlap(overlap: Sequence[SuiteOverlap]) -> list[Table]:
    """Show how much of each evaluation set stands in a corpus; nothing where none was looked for."""
    rows = [(s.suite, f"{s.sentences:,}", f"{s.compared:,}", f"{s.found:,}", f"{s.texts:,}") for s in overlap]
    return [_table("Overlap with evaluation sets", "set|sentences|long enough|found|texts", rows)] if rows else []


def audit_table(found: Audited) -> Group:
    """Show the chief numbers of an audit."""
    audit = found.audit
    rows = []
    for name, task in audit.tasks.items():
        if task.labels:
            balance = "-" if task.balance is None else f"{task.balance:.2f}"
            commonest = "-" if task.majority is None else f"{100 * task.majority:.0f} %"
            rows.append((name, f"{task.labelled:,}", balance, commonest))
    caption = f"{audit.texts:,} texts, {audit.words:,} words, {audit.types:,} different words"
    repeated = sum(audit.duplicates.values())
    told = Text(f"{repeated:,} texts repeat others" if repeated else "no text repeats another")
    table = _table("Audit", "task|labelled|balance|commonest label", rows, caption)
    return Group(table, told, *_overlap(audit.overlap))


def costs_table(found: tuple[Mapping[str, Spending], Prices | None]) -> Table:
    """Show what the stages of a study cost so far."""
    costs, prices = found
    rows = []
    for name, cost in [*costs.items(), ("all", sum(costs.values(), Spending()))]:
        money = [f"{cost.money(prices):.2f}"] if prices else []
        rows.append((name, f"{cost.requests:,}", human(cost.read), human(cost.written), *money))
    header = "for|requests|tokens read|tokens written" + ("|money" if prices else "")
    return _table("Cost so far", header, rows, total=True)


def show_table(requests: Mapping[str, int]) -> Table:
    """Show how many requests the stages will take."""
    rows = [(name, f"{count:,}") for name, count in [*requests.items(), ("all", sum(requests.values()))]]
    caption = "repeats left out; texts of writing tasks taken to have several lines, which are not tagged"
    return _table("Forecast", "for|requests", rows, caption, total=True)


TABLES: dict[str, Callable[[Any], Table | Group]] = {
    "plan": plan_table,
    "write": write_table,
    "label": label_table,
    "filter": filter_table,
    "audit": audit_table,
    "costs": costs_table,
    "show": show_table,
}
