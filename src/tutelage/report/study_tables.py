"""Tables that the verbs end with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from tutelage.base.progress import human
from tutelage.corpus.study_plan import StudyPlan
from tutelage.study.client.budget import Spending
from tutelage.study.filter.audit import Audit
from tutelage.study.filter.filters import Filtered
from tutelage.study.filter.overlap import SuiteOverlap
from tutelage.study.filter.text import visible
from tutelage.study.settings import Prices
from tutelage.study.write.word_ledger import WHY, WordLedger


def plain(text: str) -> Text:
    """Return somebody's words for a table: they are no markup, and give no orders to a terminal."""
    return Text(visible(text))


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


def ledger_table(ledger: WordLedger) -> Table:
    """Show what was written and kept, by task."""
    table = Table(title="Written", caption=WHY[ledger.ended])
    table.add_column("task", overflow="fold")
    for heading in ("requests", "texts", "words", "refused texts", "refused words"):
        table.add_column(heading, justify="right")
    rows = [
        (name, task.requests, task.texts, task.words, task.written_texts - task.texts, task.written_words - task.words)
        for name, task in ledger.tasks.items()
    ]
    for name, *numbers in rows:
        table.add_row(plain(name), *(f"{number:,}" for number in numbers))
    table.add_section()
    table.add_row("all", *(f"{sum(column):,}" for column in list(zip(*rows, strict=True))[1:]))
    return table


def labels_table(labels: Mapping[str, int], could: Mapping[str, int], refused: int) -> Table:
    """Show how many of the texts that could have a label for a task have one."""
    table = Table(title="Labelled", caption=f"{refused:,} labels came to nothing" if refused else None)
    table.add_column("task", overflow="fold")
    for heading in ("texts with a label", "of those that could"):
        table.add_column(heading, justify="right")
    for name, count in labels.items():
        table.add_row(plain(name), f"{count:,}", f"{100 * count / could[name]:.0f} %" if could[name] else "-")
    return table


def filtered_table(found: Filtered) -> Group:
    """Show what was kept, what was not and why, and the overlap with each evaluation set."""
    words = sum(example.word_count for example in found.kept)
    table = Table(title="Filtered", caption=f"{len(found.kept):,} texts kept, {words:,} words")
    table.add_column("not taken", overflow="fold")
    table.add_column("texts or labels", justify="right")
    for fault, count in found.faults.most_common():
        table.add_row(plain(fault), f"{count:,}")
    return Group(table, *([overlap_table(found.overlap)] if found.overlap else []))


def overlap_table(overlap: Sequence[SuiteOverlap]) -> Table:
    """Show how much of each evaluation set stands in a corpus."""
    table = Table(title="Overlap with evaluation sets")
    table.add_column("set", overflow="fold")
    for heading in ("sentences", "long enough", "found", "texts"):
        table.add_column(heading, justify="right")
    for suite in overlap:
        numbers = (suite.sentences, suite.compared, suite.found, suite.texts)
        table.add_row(plain(suite.suite), *(f"{number:,}" for number in numbers))
    return table


def audit_table(audit: Audit) -> Group:
    """Show the chief numbers of an audit."""
    table = Table(
        title="Audit", caption=f"{audit.texts:,} texts, {audit.words:,} words, {audit.types:,} different words"
    )
    table.add_column("task", overflow="fold")
    for heading in ("labelled", "balance", "commonest label"):
        table.add_column(heading, justify="right")
    for name, task in audit.tasks.items():
        if task.labels:
            balance = "-" if task.balance is None else f"{task.balance:.2f}"
            majority = "-" if task.majority is None else f"{100 * task.majority:.0f} %"
            table.add_row(plain(name), f"{task.labelled:,}", balance, majority)
    repeated = sum(audit.duplicates.values())
    said = Text(f"{repeated:,} texts repeat others" if repeated else "no text repeats another")
    return Group(table, said, *([overlap_table(audit.overlap)] if audit.overlap else []))


def cost_table(costs: Mapping[str, Spending], prices: Prices | None) -> Table:
    """Show what the stages of a study cost so far."""
    table = Table(title="Cost so far")
    table.add_column("for")
    for heading in ("requests", "tokens read", "tokens written", *(["money"] if prices else [])):
        table.add_column(heading, justify="right")
    for name, cost in [*costs.items(), ("all", sum(costs.values(), Spending()))]:
        if name == "all":
            table.add_section()
        money = [f"{cost.money(prices):.2f}"] if prices else []
        table.add_row(plain(name), f"{cost.requests:,}", human(cost.read), human(cost.written), *money)
    return table


def forecast_table(requests: Mapping[str, int]) -> Table:
    """Show how many requests the stages will take."""
    table = Table(
        title="Forecast",
        caption="repeats left out; texts of writing tasks taken to have several lines, which are not tagged",
    )
    table.add_column("for")
    table.add_column("requests", justify="right")
    for name, count in requests.items():
        table.add_row(name, f"{count:,}")
    table.add_section()
    table.add_row("all", f"{sum(requests.values()):,}")
    return table
