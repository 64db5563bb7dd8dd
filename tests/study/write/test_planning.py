"""Plans: three waves of questions, names that are unique, repairs, what is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tutelage.base.errors import UserError
from tutelage.corpus import study_plan
from tutelage.corpus.study_plan import StudyPlan, check_plan, read_plan, write_plan
from tutelage.study.write.planning import Planner


def test_a_whole_plan_comes_out_and_can_be_written_and_read(
    brain: Any, study: Any, helpers: Any, tmp_path: Any
) -> None:
    teacher = helpers.Scripted(brain)
    planner = Planner(teacher, study())
    plan = planner.plan()
    assert [lesson.kind for lesson in plan.lessons] == [
        "classification",
        "pair_classification",
        "tagging",
        "generation",
    ]
    assert len(plan.tasks()) == 8
    assert all(list(task.labels) == ["yes", "no", "maybe"] for task in plan.tasks("classification", "tagging"))
    assert all(len(task.prompts) == 4 for task in plan.tasks())
    assert not planner.refused
    assert [request.purpose.split("/")[0] for request in teacher.asked.values()] == ["plan"] * (4 + 6 + 8)
    write_plan(plan, tmp_path / "plan.yaml")
    assert read_plan(tmp_path / "plan.yaml") == plan


def test_plans_that_look_like_numbers_are_read_back_as_text(plan: Any, tmp_path: Any) -> None:
    odd = ["08", "1e5", "<<", "=", "~", "null", "yes", "1_0", "0x1F", "1:30", "-.5", ".inf", "a: b", "# x", "é\u2028b"]
    task = (
        plan.lessons[0].tasks[0].model_copy(update={"labels": dict(zip(odd, odd, strict=True)), "prompts": tuple(odd)})
    )
    lesson = plan.lessons[0].model_copy(update={"tasks": (task,)})
    odd_plan = plan.model_copy(update={"lessons": (lesson,)})
    write_plan(odd_plan, tmp_path / "plan.yaml")
    assert read_plan(tmp_path / "plan.yaml") == odd_plan


def test_the_same_study_asks_the_same_and_another_attempt_asks_again(brain: Any, study: Any, helpers: Any) -> None:
    def asked(attempt: int) -> set[str]:
        teacher = helpers.Scripted(brain)
        Planner(teacher, study(), attempt).plan()
        return set(teacher.asked)

    assert asked(0) == asked(0)
    assert not asked(0) & asked(1)


def test_names_of_two_lessons_are_told_apart(brain: Any, study: Any, helpers: Any) -> None:
    tasks = {
        "tasks": [{"name": "Mood, of text!", "description": "It\nis."}, {"name": "mood of text", "description": "It."}]
    }
    brain.hook = lambda kind, value, seed: tasks if kind == "tasks" else value
    planner = Planner(helpers.Scripted(brain), study())
    plan = planner.plan()
    names = ["mood_of_text", *(f"mood_of_text_{kind}" for kind in ("pair_classification", "tagging", "generation"))]
    assert [task.name for task in plan.tasks()] == names
    # The first of equal ones stays, and the second is not lost without a word.
    assert {task.description for task in plan.tasks()} == {"It is."}
    assert [(item.reason, item.content) for item in planner.refused] == [
        ("two tasks have this name: mood_of_text", tasks["tasks"][1])
    ] * 4


@pytest.mark.parametrize(
    ("called", "name"),
    [
        ("Größe", "grosse"),
        ("Idées reçues!", "idees_recues"),
        ("Ångström", "angstrom"),
        ("ﬁne", "fine"),
        ("время", "classification_2"),
        ("品詞 3", "classification_2"),
        ("हिन्दी", "classification_2"),
    ],
)
def test_names_of_all_scripts_become_names_of_heads(
    brain: Any, study: Any, helpers: Any, called: str, name: str
) -> None:
    tasks = {"tasks": [{"name": first, "description": "It is."} for first in ("plain", called)]}
    brain.hook = lambda kind, value, seed: tasks if kind == "tasks" else value
    planner = Planner(helpers.Scripted(brain), study(plan={"kinds": ["classification"]}))
    assert [task.name for task in planner.plan().tasks()] == ["plain", name]
    assert not planner.refused


def test_malformed_answers_are_asked_for_again(brain: Any, study: Any, helpers: Any) -> None:
    first = set[str]()

    def hook(kind: str, value: Any, seed: int) -> Any:
        if kind not in first:
            first.add(kind)
            return {"tasks": {"tasks": []}, "labels": {"labels": [{"label": "a", "definition": "b"}]}}.get(
                kind, "no JSON"
            )
        return value

    brain.hook = hook
    planner = Planner(helpers.Scripted(brain), study())
    assert len(planner.plan().tasks()) == 8
    assert not planner.refused


def test_a_task_without_usable_labels_is_left_out_and_one_without_prompts_stays(
    brain: Any, study: Any, helpers: Any
) -> None:
    same = {"labels": [{"label": "Ja wohl", "definition": "a"}, {"label": "ja  wohl ", "definition": "b"}]}
    brain.hook = lambda kind, value, seed: same if kind == "labels" else {"prompts": []} if kind == "prompts" else value
    planner = Planner(helpers.Scripted(brain), study())
    plan = planner.plan()
    assert [lesson.kind for lesson in plan.lessons] == ["generation"]
    assert [task.prompts for task in plan.tasks()] == [(), ()]
    reasons = [(item.reason, item.content) for item in planner.refused]
    assert reasons[0] == ("malformed answer: two labels are the same", "skill_a: its labels")
    assert reasons[-1] == ("malformed answer: the list of prompts is empty", "story_b: its prompts")
    assert len(reasons) == 6 + 2


def test_no_plan_at_all_and_no_budget_are_told(brain: Any, study: Any, helpers: Any) -> None:
    with pytest.raises(UserError, match="budget"):
        Planner(helpers.Scripted(brain, limit=7), study()).plan()
    brain.hook = lambda kind, value, seed: "I am sorry"
    with pytest.raises(UserError, match="planned nothing"):
        Planner(helpers.Scripted(brain), study()).plan()


def test_corpora_without_labels_are_planned_as_topics(brain: Any, study: Any, helpers: Any) -> None:
    plan = Planner(helpers.Scripted(brain), study(writing={"corpus": "text_generation"})).plan()
    assert [lesson.kind for lesson in plan.lessons] == ["generation"]
    assert [task.name for task in plan.tasks()] == ["topic_a", "topic_b"]


def test_plans_may_be_large_and_call_labels_as_they_like(plan: Any, tmp_path: Any) -> None:
    labels = dict.fromkeys(("password_reset", "secret", "api_key", "bearer"), "It is.")
    prompts = tuple(f"Prompt {number} {'of many words ' * 100}" for number in range(2000))
    task = plan.lessons[0].tasks[0].model_copy(update={"labels": labels, "prompts": prompts})
    large = plan.model_copy(update={"lessons": (plan.lessons[0].model_copy(update={"tasks": (task,)}),)})
    write_plan(large, tmp_path / "plan.yaml")
    assert (tmp_path / "plan.yaml").stat().st_size > 2 << 20
    assert read_plan(tmp_path / "plan.yaml") == large


def test_a_plan_that_could_not_be_read_is_not_written(plan: Any, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(study_plan, "SCALE", 0)
    with pytest.raises(UserError, match="ask for fewer tasks"):
        write_plan(plan, tmp_path / "plan.yaml")
    assert not (tmp_path / "plan.yaml").exists()


@pytest.mark.parametrize("kind", ["tasks", "prompts"])
def test_a_flood_is_no_plan(brain: Any, study: Any, helpers: Any, kind: str) -> None:
    def hook(asked: str, value: Any, seed: int) -> Any:
        if asked == kind == "tasks":
            return {"tasks": [{"name": f"t {'x' * number}", "description": "It."} for number in range(1, count + 1)]}
        return {"prompts": [f"Prompt {number}." for number in range(count)]} if asked == kind else value

    brain.hook = hook
    settings = study(plan={"tasks": 2, "prompts": 2, "kinds": ["generation"]})
    count = 8
    assert Planner(helpers.Scripted(brain), settings).plan()
    count = 9
    planner = Planner(helpers.Scripted(brain), settings)
    if kind == "tasks":
        with pytest.raises(UserError, match="9 tasks, far more than the 2 asked for"):
            planner.plan()
    else:
        assert not any(task.prompts for task in planner.plan().tasks())
        assert {item.reason for item in planner.refused} == {
            "malformed answer: 9 prompts, far more than the 2 asked for"
        }


def tree(label: str) -> dict[str, Any]:
    task = {"name": "mood", "description": "How?", "labels": {label: "happy", "sad": "not happy"}}
    return {"lessons": [{"kind": "classification", "tasks": [task]}]}


@pytest.mark.parametrize("indent", [None, "\t"])
def test_a_plan_in_json_is_json(tmp_path: Path, indent: str | None) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(tree("🙂"), indent=indent))
    assert "\\ud83d\\ude42" in path.read_text()
    plan = read_plan(path)
    assert plan == StudyPlan.model_validate(tree("🙂"))
    write_plan(plan, tmp_path / "plan.yaml")
    assert read_plan(tmp_path / "plan.yaml") == plan


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("plan.json", json.dumps(tree("\ud83d")), "half of a surrogate pair; write the character itself"),
        ("plan.yaml", json.dumps(tree("🙂")), "half of a surrogate pair; write the character itself"),
        ("plan.json", '{"title": "a", "title": "b"}', "the key 'title' stands in one object a second time"),
        ("plan.json", '{"title": ', "not valid JSON"),
        ("plan.json", "[" * 100_000, "not valid JSON"),
        ("plan.json", "[" * 60 + "]" * 60, "nested more than 50"),
        ("plan.json", f"[{'1,' * 3_300_000}1]", "more than 3,200,000 values"),
        ("plan.json", json.dumps(tree("ok") | {"titel": "x"}), "titel"),
        ("plan.json", "", "not valid JSON"),
    ],
    ids=lambda value: value[:20],
)  # fmt: skip
def test_plans_that_cannot_be_read(tmp_path: Path, name: str, text: str, told: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=told):
        read_plan(tmp_path / name)


def test_a_folder_is_no_plan(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name the file of a plan"):
        read_plan(tmp_path)


def test_faults_of_an_edited_plan_name_line_value_and_remedy(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(
        "lessons:\n"
        "- kind: tagging\n"
        "  tasks:\n"
        "  - {name: lake two, description: d, labels: {a: x, b: y}}\n"
        "- kind: pair_clasification\n"
        "  tasks:\n"
        "  - {name: q, description: d, labels: {a: x, b: y}, promts: [a]}\n"
    )
    with pytest.raises(UserError) as told:
        read_plan(path)
    first, second, third = str(told.value).splitlines()
    assert first.endswith("plan.yaml:4: lessons.0.tasks.0.name: a name has letters, digits, _ and -, begins with a "
                          "letter, and is no longer than 64 (given: 'lake two')")  # fmt: skip
    assert ":5: lessons.1.kind: Input should be" in second
    assert "(given: 'pair_clasification')" in second
    assert third.endswith("plan.yaml:7: unknown key 'lessons.1.tasks.0.promts'; did you mean 'prompts'?")
    task = {"name": "q", "description": "d"}
    with pytest.raises(UserError, match=r"^plan: study plan: two tasks are called 'q'"):
        check_plan({"lessons": [{"kind": "generation", "tasks": [task, task]}]}, "plan")
