"""Tables that the verbs end with."""

from __future__ import annotations

import io

from rich.console import Console

from tutelage.study.tables import plan_table


def test_a_plan_is_shown_as_the_teacher_wrote_it(small_plan) -> None:
    lesson = small_plan.lessons[0]
    task = lesson.tasks[0].model_copy(update={"labels": {"[/INST]": "a", "[red]b[/red]": "b"}})
    lessons = (lesson.model_copy(update={"tasks": (task,)}),)
    plan = small_plan.model_copy(update={"title": "A [/plan]", "lessons": lessons})
    console = Console(file=io.StringIO(), width=120)
    console.print(plan_table(plan))
    shown = console.file.getvalue()
    assert all(text in shown for text in ("A [/plan]", "[/INST], [red]b[/red]"))
