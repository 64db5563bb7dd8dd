"""Tables that the verbs end with."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from tutelage.cli.main import main
from tutelage.corpus.study_plan import write_plan
from tutelage.report.study_tables import filter_table, plan_table
from tutelage.study.filter.filters import Filtered
from tutelage.study.filter.overlap import SuiteOverlap
from tutelage.study.filter.quarantine import Refused

ORDERS = "A\x1b]0;owned\x07\x1b[31m\u202e\rB"
"""To a terminal: another title, red, from right to left, over the line."""


def test_a_plan_is_shown_as_the_teacher_wrote_it(small_plan) -> None:
    lesson = small_plan.lessons[0]
    task = lesson.tasks[0].model_copy(update={"labels": {"[/INST]": "a", "[red]b[/red]": "b"}})
    lessons = (lesson.model_copy(update={"tasks": (task,)}),)
    plan = small_plan.model_copy(update={"title": "A [/plan]", "lessons": lessons})
    console = Console(file=io.StringIO(), width=120)
    console.print(plan_table(plan))
    shown = console.file.getvalue()
    assert all(text in shown for text in ("A [/plan]", "[/INST], [red]b[/red]"))


def test_tables_give_no_orders_to_a_terminal(small_plan) -> None:
    plan = small_plan.model_copy(update={"title": ORDERS})
    found = Filtered((), (Refused(ORDERS, "", ""),), (SuiteOverlap(ORDERS, 1, 1, 0, 0, ()),))
    for table in (plan_table(plan), filter_table(found)):
        console = Console(file=io.StringIO(), width=200)
        console.print(table)
        shown = console.file.getvalue()
        assert not set(shown) & set("\x1b\x07\u202e\r")
        assert "A[U+001B]]0;owned[U+0007][U+001B][31m[U+202E][U+000D]B" in shown


def test_errors_give_no_orders_to_a_terminal(small_plan, tmp_path, monkeypatch, capsys) -> None:
    write_plan(small_plan, tmp_path / "plan.yaml")
    (tmp_path / "a.jsonl").write_text(json.dumps({"kind": "classification", "text": "x", ORDERS: 1}) + "\n")
    monkeypatch.setattr("sys.argv", ["tutelage", "study", "audit", str(tmp_path)])
    with pytest.raises(SystemExit):
        main()
    told = capsys.readouterr().err
    assert "unknown field 'A[U+001B]" in told
    assert not set(told) & set("\x1b\x07\u202e\r")
