"""Tables that the verbs end with."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from tutelage.progress import human
from tutelage.study.budget import Cost
from tutelage.study.plan import Plan
from tutelage.study.settings import Prices
from tutelage.study.word_ledger import WHY, WordLedger


def plan_table(plan: Plan) -> Table:
    """Show lessons, tasks, labels and prompts."""
    table = Table(title=plan.title)
    for heading in ("lesson", "task", "labels"):
        table.add_column(heading, overflow="fold")
    table.add_column("prompts", justify="right")
    for lesson in plan.lessons:
        for number, task in enumerate(lesson.tasks):
            labels = ", ".join(task.labels) or "(writing)"
            table.add_row("" if number else lesson.kind, task.name, labels, str(len(task.prompts)))
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
        table.add_row(name, *(f"{number:,}" for number in numbers))
    table.add_section()
    table.add_row("all", *(f"{sum(column):,}" for column in list(zip(*rows, strict=True))[1:]))
    return table


def labels_table(labels: Mapping[str, int], texts: int, refused: int) -> Table:
    """Show how many texts have a label for each task."""
    table = Table(title="Labelled", caption=f"{refused:,} labels came to nothing" if refused else None)
    table.add_column("task", overflow="fold")
    for heading in ("texts with a label", "of all"):
        table.add_column(heading, justify="right")
    for name, count in labels.items():
        table.add_row(name, f"{count:,}", f"{100 * count / texts:.0f} %" if texts else "-")
    return table


def cost_table(costs: Mapping[str, Cost], prices: Prices | None) -> Table:
    """Show what the stages of a study cost so far."""
    table = Table(title="Cost so far")
    table.add_column("for")
    for heading in ("requests", "tokens read", "tokens written", *(["money"] if prices else [])):
        table.add_column(heading, justify="right")
    for name, cost in [*costs.items(), ("all", sum(costs.values(), Cost()))]:
        if name == "all":
            table.add_section()
        money = [f"{cost.money(prices):.2f}"] if prices else []
        table.add_row(name, f"{cost.requests:,}", human(cost.read), human(cost.written), *money)
    return table


def forecast_table(requests: Mapping[str, int]) -> Table:
    """Show how many requests the stages will take."""
    table = Table(title="Forecast", caption="repeats left out")
    table.add_column("for")
    table.add_column("requests", justify="right")
    for name, count in requests.items():
        table.add_row(name, f"{count:,}")
    table.add_section()
    table.add_row("all", f"{sum(requests.values()):,}")
    return table
