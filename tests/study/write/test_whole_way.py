"""Plan, write and label against a real HTTP server with known answers: traces, kills, Ctrl-C, budgets."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from fixtures.stored import entries

from tutelage.api import studies
from tutelage.base.errors import UserError
from tutelage.corpus.examples import read_examples
from tutelage.corpus.study_plan import read_plan, write_plan
from tutelage.study.folder import StudyFolder

STAGES = ("plan", "write", "label")
FILES = ("plan.yaml", "written.jsonl", "ledger.json", "labelled.jsonl",
         "quarantine/plan.jsonl", "quarantine/write.jsonl", "quarantine/label.jsonl")  # fmt: skip


def everything(settings: Any, folder: Path) -> StudyFolder:
    studies.study_plan(settings, (), folder)
    studies.study_write(settings, (), folder)
    studies.study_label(settings, (), folder)
    return StudyFolder(folder / settings.name)


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.mark.parametrize(("two_steps", "enforces"), [(True, True), (False, False), (True, False)])
def test_known_labels_arrive_and_everything_can_be_traced(
    server: Any, study: Any, helpers: Any, tmp_path: Path, two_steps: bool, enforces: bool
) -> None:
    server.enforces = enforces
    settings = study(teacher={"endpoint": server.address, "two_steps": two_steps}, labelling={"votes": 2})
    folder = everything(settings, tmp_path)
    plan = read_plan(folder.plan)
    lines = list(entries(folder.requests))
    requests = {line["request"]: line for line in lines if "request" in line}
    answers = {line["answer"]: line for line in lines if "answer" in line}
    examples = list(read_examples(folder.labelled))
    assert len(examples) > 40
    for example in examples:
        asked, answer = requests[example.origin], answers[example.origin]
        assert asked["purpose"].startswith(f"write/{example.task}/")
        for text in (example.text, example.text_pair or ""):
            assert text in answer["text"]
        kinds = ("pair_classification",) if example.text_pair else ("classification", "tagging")
        assert example.labels.keys() == {task.name for task in plan.tasks(*kinds)}
        for task, label in example.labels.items():
            labels = list(next(known for known in plan.tasks() if known.name == task).labels)
            if isinstance(label, tuple):
                assert label == tuple(helpers.label_of(word, task, labels) for word in example.text.split())
            else:
                assert label == helpers.label_of(example.text + (example.text_pair or ""), task, labels)
            assert example.confidence[task] == 1
            for key in example.label_origins[task]:
                assert f"label/{example.id}/" in requests[key]["purpose"]
                said = label if isinstance(label, str) else label[0]
                assert said in answers[key]["text"]
    found, prices = studies.study_costs(settings, (), tmp_path)
    assert found.keys() >= set(STAGES)
    stages = Counter(requests[key]["purpose"].split("/")[0] for key in answers)
    assert all(found[stage].requests == stages[stage] for stage in STAGES)
    assert prices is None


def test_a_second_time_asks_nothing_and_more_words_ask_the_rest(server: Any, study: Any, tmp_path: Path) -> None:
    settings = study(teacher={"endpoint": server.address})
    folder = everything(settings, tmp_path)
    before, sent = content(folder.path), server.sent.total()
    for name in FILES:
        (folder.path / name).unlink()
    everything(settings, tmp_path)
    assert content(folder.path) == before
    assert server.sent.total() == sent
    more = study(teacher={"endpoint": server.address}, writing={"words": 900})
    assert studies.study_write(more, (), tmp_path).words >= 900
    assert folder.written.read_bytes().startswith(before["written.jsonl"][:2000])
    assert server.sent.most_common(1)[0][1] == 1


def test_an_edited_plan_is_respected_and_again_makes_another(server: Any, study: Any, tmp_path: Path) -> None:
    settings = study(teacher={"endpoint": server.address})
    first = studies.study_plan(settings, (), tmp_path)
    folder = StudyFolder(tmp_path / "small")
    edited = first.model_copy(update={"lessons": first.lessons[2:]})
    write_plan(edited, folder.plan)
    assert studies.study_plan(settings, (), tmp_path) == edited
    assert studies.study_write(settings, (), tmp_path).tasks.keys() == {task.name for task in edited.tasks()}
    again = studies.study_plan(settings, (), tmp_path, again=True)
    assert read_plan(folder.path / "plan-1.yaml") == edited
    assert [task.prompts for task in again.tasks()] != [task.prompts for task in first.tasks()]
    sent = server.sent.total()
    # As a kill between the two plans' renames leaves it.
    folder.plan.unlink()
    assert studies.study_plan(settings, (), tmp_path) == again
    assert server.sent.total() == sent


def test_a_plan_from_a_file(server: Any, study: Any, plan: Any, tmp_path: Path) -> None:
    write_plan(plan, tmp_path / "mine.yaml")
    settings = study(plan=tmp_path / "mine.yaml")
    assert studies.study_plan(settings, (), tmp_path) == plan
    write_plan(plan.model_copy(update={"title": "Changed"}), tmp_path / "mine.yaml")
    with pytest.raises(UserError, match="--again"):
        studies.study_plan(settings, (), tmp_path)
    assert studies.study_plan(settings, (), tmp_path, again=True).title == "Changed"
    assert len(studies.study_plan(study(plan=Path("starter"), name="other"), (), tmp_path).tasks()) > 10


def test_stages_name_what_comes_before_them(study: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="study plan` comes first"):
        studies.study_write(study(), (), tmp_path)
    studies.study_plan(study(plan=Path("starter")), (), tmp_path)
    with pytest.raises(UserError, match="study write` comes first"):
        studies.study_label(study(), (), tmp_path)


def process(settings: Any, folder: Path, stages: tuple[str, ...] = STAGES) -> subprocess.Popen[bytes]:
    """The stages in a process of their own."""
    file = folder / "study.yaml"
    folder.mkdir(exist_ok=True)
    file.write_text(yaml.safe_dump(settings.model_dump(mode="json", exclude_defaults=True)))
    code = (
        "import sys\nfrom tutelage.api import studies\nfrom tutelage.base.errors import Interrupted\n"
        "try:\n"
        f"    for verb in {stages!r}:\n"
        f"        getattr(studies, 'study_' + verb)({str(file)!r}, (), {str(folder)!r})\n"
        "except Interrupted as stop:\n    sys.exit(128 + stop.number)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE)


def check_store(folder: Path, server: Any) -> None:
    """No request was sent before it was stored, and none once more after its answer was."""
    answered, sendings = set[str](), Counter[str]()
    for line in entries(folder / "requests.jsonl"):
        key = line.get("request") or line.get("again")
        if key:
            assert key not in answered
            sendings[key] += 1
        if "answer" in line:
            assert line["answer"] not in answered
            answered.add(line["answer"])
    assert answered == set(sendings)
    assert server.sent.total() <= sendings.total()


@pytest.mark.parametrize("times", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_change_nothing(server: Any, study: Any, tmp_path: Path, times: int) -> None:
    settings = study(teacher={"endpoint": server.address, "two_steps": True}, writing={"words": 75 * times})
    whole = everything(settings, tmp_path / "whole")
    needed = server.sent.total()
    server.sent.clear()
    server.delay = 0.02
    draw, kills = random.Random(0), 0
    folder = tmp_path / "killed"
    # Moments spread over the requests and drawn within each stretch, and then some milliseconds.
    for number in range(times):
        moment = (number + draw.random()) * needed / times
        running = process(settings, folder)
        while running.poll() is None and server.sent.total() < moment:
            time.sleep(0.001)
        time.sleep(draw.random() * 0.04)
        if running.poll() is None:
            running.send_signal(signal.SIGKILL)
            kills += 1
        running.wait(60)
    assert kills >= 0.75 * times
    running = process(settings, folder)
    assert running.wait(120) == 0, running.stderr.read().decode()
    assert content(folder / "small") == content(whole.path)
    assert not [path for path in (folder / "small").rglob("*") if ".tmp-" in path.name]
    check_store(folder / "small", server)
    assert needed <= server.sent.total() <= needed + kills * settings.teacher.concurrency


def test_ctrl_c_keeps_what_was_answered(server: Any, study: Any, tmp_path: Path) -> None:
    settings = study(teacher={"endpoint": server.address})
    whole = everything(settings, tmp_path / "whole")
    needed = server.sent.total()
    server.sent.clear()
    server.delay = 0.05
    folder = tmp_path / "stopped"
    for moment in (5, needed // 2):
        running = process(settings, folder)
        while running.poll() is None and server.sent.total() < moment:
            time.sleep(0.001)
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 130
    running = process(settings, folder)
    assert running.wait(60) == 0
    assert content(folder / "small") == content(whole.path)
    check_store(folder / "small", server)
    # A stop waits for what is under way, so nothing is asked twice.
    assert server.sent.total() == needed


@pytest.mark.parametrize("limit", [1, 30, 100])
def test_the_budget_is_never_exceeded_and_more_of_it_goes_on(
    server: Any, study: Any, tmp_path: Path, limit: int
) -> None:
    def settings(requests: int | None) -> Any:
        return study(teacher={"endpoint": server.address}, budget={"requests": requests})

    whole = everything(settings(None), tmp_path / "whole")
    server.sent.clear()
    if limit == 1:
        with pytest.raises(UserError, match="budget ended before the plan"):
            everything(settings(limit), tmp_path / "small")
    else:
        folder = everything(settings(limit), tmp_path / "small")
        assert len(list(read_examples(folder.labelled))) <= len(list(read_examples(whole.labelled)))
    assert server.sent.total() <= limit
    folder = everything(settings(None), tmp_path / "small")
    assert content(folder.path) == content(whole.path)
    assert server.sent.most_common(1)[0][1] == 1


@pytest.mark.parametrize(("limit", "stage"), [(40, "words were written"), (100, "labels came")])
def test_a_whole_study_stops_where_its_budget_ends(
    server: Any, study: Any, tmp_path: Path, limit: int, stage: str
) -> None:
    """No corpus is made of what happens to be there."""
    with pytest.raises(UserError, match=f"budget ended before all was done: .*{stage}.*raise `budget`"):
        studies.study_run(study(teacher={"endpoint": server.address}, budget={"requests": limit}), (), tmp_path)
    folder = StudyFolder(tmp_path / "small")
    assert not folder.corpus.exists()
    assert folder.written.is_file()


def test_what_a_plan_lost_is_told_before_words_are_paid_for(
    server: Any, study: Any, tmp_path: Path, capsys: Any
) -> None:
    def few(kind: str, value: Any, seed: int) -> Any:
        return {"labels": value["labels"][:1]} if kind == "labels" and seed % 2 else value

    server.brain.hook = few
    settings = study(teacher={"endpoint": server.address, "repairs": 0})
    plan = studies.study_plan(settings, (), tmp_path)
    told = " ".join(capsys.readouterr().err.split())
    refused = [json.loads(line) for line in (tmp_path / "small/quarantine/plan.jsonl").open()]
    assert 0 < len(refused) < 6
    assert told.count("left out of the plan: ") == len(refused)
    for item in refused:
        assert item["content"].removesuffix(": its labels") not in {task.name for task in plan.tasks()}
    assert "`tutelage study plan --again` asks for another plan" in told
    server.brain.hook = lambda kind, value, seed: {"labels": value["labels"][:1]} if kind == "labels" else value
    plan = studies.study_plan(settings.model_copy(update={"name": "bare"}), (), tmp_path)
    told = " ".join(capsys.readouterr().err.split())
    assert [lesson.kind for lesson in plan.lessons] == ["generation"]
    assert told.count("left out of the plan: ") == 5
    assert "and 1 more no task is left of the lessons classification, pair_classification, tagging; see" in told


def test_answers_in_any_order_give_the_same_corpus(server: Any, study: Any, tmp_path: Path) -> None:
    slow = random.Random(1)
    lock, usual = threading.Lock(), server.brain.text

    def late(messages: Any, schema: Any, seed: int) -> str:
        with lock:
            pause = slow.random() * 0.02
        time.sleep(pause)
        return usual(messages, schema, seed)

    one = everything(study(teacher={"endpoint": server.address, "concurrency": 1}), tmp_path / "one")
    server.brain.text = late
    many = everything(study(teacher={"endpoint": server.address, "concurrency": 16}), tmp_path / "many")
    assert content(one.path) == content(many.path)


def test_verbs_print_tables(server: Any, study: Any, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    from tutelage.cli.main import app

    file = tmp_path / "study.yaml"
    settings = study(teacher={"endpoint": server.address, "prices": {"read": 1, "written": 2}})
    file.write_text(yaml.safe_dump(settings.model_dump(mode="json", exclude_defaults=True)))
    for verb, words in (("plan", "skill_a"), ("write", "refused words"), ("label", "texts with a label")):
        app(["study", verb, str(file), "writing.words=300", "--studies", str(tmp_path)], standalone_mode=False)
        shown = capsys.readouterr().out
        assert words in shown
        assert "money" in shown
    app(["study", "prompts", str(tmp_path / "prompts")], standalone_mode=False)
    assert len(list((tmp_path / "prompts").glob("*.txt"))) == 19
    again = study(teacher={"endpoint": server.address}, prompts=tmp_path / "prompts", writing={"words": 300})
    sent = server.sent.total()
    studies.study_write(again, (), tmp_path)
    assert server.sent.total() == sent


def test_studies_are_checked_with_line_and_nearest_key(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("name: s\nteacher:\n  endpoint: http://x\n  concurency: 3\n")
    with pytest.raises(UserError, match=r"study.yaml:4: unknown key 'teacher.concurency'; did you mean 'concurrency'"):
        studies.study_plan(file, (), tmp_path)
    file.write_text("name: s\nteacher: {}\n")
    with pytest.raises(UserError, match="name an `endpoint`"):
        studies.study_plan(file, (), tmp_path)
    with pytest.raises(UserError, match=r"writing\.words"):
        studies.study_plan(file, ("teacher.endpoint=http://x", "writing.words=many"), tmp_path)
    with pytest.raises(UserError, match="no study"):
        studies.study_plan(tmp_path / "none.yaml", (), tmp_path)


def test_the_example_of_the_documentation_loads() -> None:
    from tutelage.study.settings import load_study

    found = load_study(Path(__file__).parents[3] / "examples" / "study.yaml")
    assert found.budget.tokens == 50_000_000
    assert (
        load_study(Path(__file__).parents[3] / "examples" / "study.yaml", ("writing.words=2M",)).writing.words
        == 2_000_000
    )


def test_the_recipe_of_the_documentation_loads() -> None:
    from tutelage.recipe.load import load_recipe
    from tutelage.study.settings import load_study

    examples = Path(__file__).parents[3] / "examples"
    student = load_recipe(examples / "study-student.yaml")
    assert student.data.corpus == f"studies/{load_study(examples / 'study.yaml').name}/corpus"
    assert student.models["all-labels"].tasks
    assert not student.models["no-labels"].tasks


RECIPE = """
name: taught
data:
  corpus: {corpus}
  separator: brackets
  tokenizer: {{vocab_size: 400}}
  test_share: 0.2
  rows: {{kind: examples, length: 32, buckets: [16]}}
models:
  student:
    preset: modernbert-2m
    steps: 6
    evaluations: 2
    stages: [{{objectives: {{masked: 1, tasks: 0.5}}}}]
    optim: {{lr: 1.0e-3, batch_rows: 8, warmup_steps: 1}}
evaluate: [test, tasks]
"""


def test_one_command_goes_all_the_way_and_a_student_learns_from_it(
    server: Any, study: Any, tmp_path: Path, capsys: Any
) -> None:
    """Beside a server that ignores schemas; one that enforces them: `test_llama_cpp.py`."""
    from tutelage import api
    from tutelage.cli.main import app
    from tutelage.recipe.load import recipe_from_text

    file = tmp_path / "study.yaml"
    server.enforces = False
    settings = study(teacher={"endpoint": server.address}, writing={"words": 1000, "examples_per_task": 20})
    file.write_text(yaml.safe_dump(settings.model_dump(mode="json", exclude_defaults=True)))
    for _ in range(2):
        app(["study", "run", str(file), "--studies", str(tmp_path)], standalone_mode=False)
    shown = capsys.readouterr().out
    folder = StudyFolder(tmp_path / "small")
    assert f"page: {folder.audit / 'index.html'}" in shown.replace("\n", "")
    assert server.sent.most_common(1)[0][1] == 1
    labelled = {example.id: example for example in read_examples(folder.labelled)}
    kept = {example.id: example for example in read_examples(folder.corpus / "examples.jsonl")}
    filtered = [line["content"]["id"] for line in map(json.loads, (folder.quarantine / "filter.jsonl").open())]
    assert kept.keys().isdisjoint(filtered)
    assert sorted([*kept, *filtered]) == sorted(labelled)
    assert all(example == labelled[key] for key, example in kept.items())
    summary = api.run(recipe_from_text(RECIPE.format(corpus=folder.corpus)), runs=tmp_path / "runs")
    assert summary is not None
    text = (tmp_path / "runs" / "taught" / "report.html").read_text()
    assert "skill_a" in text


def test_another_plan_never_replaces_a_kept_one(study: Any, plan: Any, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "small")
    for title in ("first", "second", "third"):
        write_plan(plan.model_copy(update={"title": title}), tmp_path / "mine.yaml")
        studies.study_plan(study(plan=tmp_path / "mine.yaml"), (), tmp_path, again=True)
    (folder.path / "plan-1.yaml").unlink()
    studies.study_plan(study(plan=tmp_path / "mine.yaml"), (), tmp_path, again=True)
    assert {path.name for path in folder.path.glob("plan*.yaml")} == {"plan.yaml", "plan-2.yaml", "plan-3.yaml"}
    assert read_plan(folder.path / "plan-2.yaml").title == "second"


def test_tasks_that_are_not_there_are_told_before_texts_are_paid_for(
    server: Any, study: Any, plan: Any, tmp_path: Path
) -> None:
    settings = study(teacher={"endpoint": server.address}, labelling={"tasks": ("moot",)})
    write_plan(plan, tmp_path / "small" / "plan.yaml")
    for verb in (studies.study_write, studies.study_run):
        with pytest.raises(UserError, match=r"labelling\.tasks: the plan has no task 'moot'.* 'mood'"):
            verb(settings, (), tmp_path)
    assert not [body for body in server.sent if "Write" in body]
    assert not (tmp_path / "small" / "written.jsonl").exists()
