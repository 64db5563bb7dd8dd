"""Training on labels from a recipe's view: runs, exports, scores, controls, and what is refused."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

from tutelage import api
from tutelage.base.errors import UserError
from tutelage.compare.summary import read_summary
from tutelage.corpus.examples import Example, write_examples
from tutelage.corpus.study_plan import Lesson, StudyPlan, Task, write_plan
from tutelage.models.heads import load_heads
from tutelage.recipe.load import recipe_from_text

HEAD = """
name: labels
data:
  corpus: starter
  separator: brackets
  test_share: 0.2
  tokenizer: {vocab_size: 500}
  rows: {kind: examples, length: 32, buckets: [16]}
models:
"""
MASKED = """
  plain:
    config:
      {model_type: modernbert, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 16}
    steps: 12
    evaluations: 2
    stages: [{objectives: {masked: 1}}]
    optim: {batch_rows: 16, lr: 1.0e-2}
  all: {like: plain, stages: [{objectives: {masked: 1, tasks: 0.5}}]}
  tags: {like: plain, stages: [{objectives: {masked: 1, tasks: {families: [tagging], weighting: uncertainty}}}]}
  dropped: {like: all, heads: dropped}
  again: {like: all, without: tasks}
"""
CAUSAL = """
  causal:
    config: {model_type: llama, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}
    steps: 6
    evaluations: 1
    optim: {batch_rows: 16, lr: 1.0e-2}
    stages: [{objectives: {next_token: 1, tasks: 0.5}}]
  student:
    like: causal
    stages: [{teachers: [causal], objectives: {next_token: 0.5, distill: 0.5, tasks: {only: [topic, pos]}}}]
"""


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    runs = tmp_path_factory.mktemp("masked")
    summary = api.run(recipe_from_text(HEAD + MASKED + "evaluate: [test, tasks]\n"), runs=runs)
    return runs / "labels", summary


def test_masked_models_are_scored_by_the_heads_they_have(masked) -> None:
    _, summary = masked
    values = {name: model.seeds["0"].measures["tasks"].values for name, model in summary.models.items()}
    whole = values["all"]
    assert 0 <= whole["accuracy"].value <= 1
    assert whole["classification/topic"].n > 50
    assert "always '" in whole["classification/topic"].note
    six = [value.value for name, value in whole.items() if name.startswith("classification/") and ":f1" not in name]
    assert whole["classification"].value == pytest.approx(sum(six) / 6)
    tags = values["tags"]
    assert tags["tagging/pos"].value is not None
    assert tags["accuracy"].value is tags["classification"].value is tags["classification/topic"].value is None
    for name in ("plain", "again", "dropped"):
        assert all(value.value is None for value in values[name].values())
    assert read_summary(summary.as_json())


def test_a_task_without_labels_in_the_test_split_hides_no_mean(tmp_path) -> None:
    draw = random.Random(0)
    texts = [" ".join(draw.choices(("red", "green", "blue", "one", "two", "three"), k=9)) for _ in range(200)]
    examples = [Example("classification", text) for text in texts]
    # Texts with the smallest digests are the test split.
    middle = sorted(example.id for example in examples)[100]

    def labels(example):
        odd = len(example.text) % 2
        return {"even": "ab"[odd]} | ({"rare": "xy"[odd]} if example.id > middle else {})

    examples = [replace(example, labels=labels(example)) for example in examples]
    tasks = [Task(name="even", description="E.", labels={"a": "A.", "b": "B."}),
             Task(name="rare", description="R.", labels={"x": "X.", "y": "Y."})]  # fmt: skip
    write_plan(StudyPlan(lessons=(Lesson(kind="classification", tasks=tuple(tasks)),)), tmp_path / "corpus/plan.yaml")
    write_examples(tmp_path / "corpus/examples.jsonl", examples)
    head = HEAD.replace("corpus: starter", f"corpus: {tmp_path / 'corpus'}").replace(
        "vocab_size: 500", "vocab_size: 300"
    )
    models = "\n".join(line for line in MASKED.splitlines() if not line.startswith(("  dropped", "  again", "  tags")))
    summary = api.run(recipe_from_text(f"{head}{models}\nevaluate: [tasks]\n"), runs=tmp_path / "runs")
    values = summary.models["all"].seeds["0"].measures["tasks"].values
    assert values["accuracy"].value == values["classification"].value == values["classification/even"].value
    assert "1 without labels in the test split" in values["accuracy"].note
    assert values["classification/rare"].value is None
    assert "no label of it" in values["classification/rare"].note
    plain = summary.models["plain"].seeds["0"].measures["tasks"].values
    assert "no head" in plain["accuracy"].note


def test_a_control_without_tasks_is_the_plain_model_and_keeps_its_weights(masked) -> None:
    folder, summary = masked
    plain, again = (load_file(folder / name / "seed-0/hf/model.safetensors") for name in ("plain", "again"))
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert [summary.models[name].role for name in ("all", "again", "plain", "tags")] == [
        "student", "control", "control", "student"]  # fmt: skip
    pairs = {(entry.a, entry.b) for entry in summary.comparisons}
    assert {("all", "again"), ("all", "plain"), ("tags", "plain")} <= pairs
    dropped = load_file(folder / "dropped/seed-0/hf/model.safetensors")
    whole = load_file(folder / "all/seed-0/hf/model.safetensors")
    assert all(torch.equal(dropped[name], whole[name]) for name in whole)
    assert any(not torch.equal(plain[name], whole[name]) for name in whole)


def test_exports_load_with_stock_transformers_heads_or_not(masked) -> None:
    folder, _ = masked
    for name, kept in (("all", True), ("dropped", False), ("plain", False)):
        hf = folder / name / "seed-0/hf"
        assert (hf / "heads.safetensors").exists() == (hf / "heads.json").exists() == kept
        for factory in (AutoModelForMaskedLM, AutoModel):
            _, found = factory.from_pretrained(hf, output_loading_info=True)
            assert not found["missing_keys"]
    heads = load_heads(folder / "all/seed-0/hf")
    assert [task.name for task in heads.tasks][:2] == ["sentiment", "topic"]
    settings = json.loads((folder / "all/seed-0/hf/heads.json").read_text())
    assert settings["tasks"][1]["labels"][:2] == ["home_family", "school_learning"]
    assert "first token" in settings["read_at"]
    done = json.loads((folder / "all/seed-0/finished.json").read_text())
    labels = sum(len(task["labels"]) for task in settings["tasks"])
    assert done["heads"]["parameters"] == labels * 17


def test_exported_heads_say_what_they_said_in_training(masked) -> None:
    """Whoever loads the folder with stock transformers can use the heads: a linear layer on the last hidden states."""
    folder, _ = masked
    hf = folder / "all/seed-0/hf"
    weights, settings = load_file(hf / "heads.safetensors"), json.loads((hf / "heads.json").read_text())
    from transformers import AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(hf), AutoModelForMaskedLM.from_pretrained(hf).eval()
    row = tokenizer("The cat sleeps on the warm stove.", return_tensors="pt")
    with torch.no_grad():
        hidden = model.head(model.model(**row).last_hidden_state)
        logits = hidden[0, 0] @ weights["classes.linear.weight"].T + weights["classes.linear.bias"]
        labels = {"classes": torch.zeros(1, 10).long(), "class_places": torch.zeros(1).long(),
                  "tags": torch.zeros(1, 0, 2).long(), "tag_places": torch.zeros(1, 0).long()}  # fmt: skip
        said, _ = load_heads(hf).predict(hidden, labels)
    begin = 0
    for place, task in enumerate(task for task in settings["tasks"] if task["kind"] != "tagging"):
        end = begin + len(task["labels"])
        assert int(logits[begin:end].argmax()) == int(said[0, place])
        begin = end


def test_causal_students_learn_labels_beside_text_and_teachers(tmp_path: Path) -> None:
    text = (
        HEAD + CAUSAL + "evaluate: [test, tasks]\ncompare: {models: [causal, student, 'ensemble(causal, student)']}\n"
    )
    summary = api.run(recipe_from_text(text), runs=tmp_path)
    assert summary.models["causal"].seeds["0"].measures["tasks"].values["tagging/pos"].value is not None
    student = summary.models["student"].seeds["0"].measures["tasks"].values
    assert student["classification/topic"].value is not None
    assert student["classification/sentiment"].value is None
    ensemble = summary.models["ensemble(causal, student)"].seeds["0"].measures["tasks"].values
    assert all(value.value is None for value in ensemble.values())
    hf = tmp_path / "labels/student/seed-0/hf"
    AutoModelForCausalLM.from_pretrained(hf)
    assert "last token" in json.loads((hf / "heads.json").read_text())["read_at"]


def test_weights_at_first_do_not_depend_on_heads(tmp_path: Path) -> None:
    from tutelage.experiment.loading import new_learner
    from tutelage.experiment.setup import Experiment
    from tutelage.recipe import Teacher
    from tutelage.training.parallel import Group

    what = recipe_from_text(HEAD + MASKED)
    experiment = Experiment(what, tmp_path, Group(0, 1, torch.device("cpu")))
    plain, whole = (new_learner(experiment, experiment.run(Teacher(model=name, seed=0))) for name in ("plain", "all"))
    assert plain.heads is None
    assert whole.heads is not None
    pairs = zip(plain.model.parameters(), whole.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    other = new_learner(experiment, replace(experiment.run(Teacher(model="all")), initial_seed=1))
    assert not torch.equal(other.heads.classes.linear.weight, whole.heads.classes.linear.weight)
    # What a finished run is checked against: labels count where they are learned, and only there.
    assert "labels" in experiment.run(Teacher(model="all", seed=0)).spec
    assert "labels" not in experiment.run(Teacher(model="plain", seed=0)).spec


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("separator: brackets", "separator: end"), "data.separator=brackets and data.rows.kind=examples"),
        (("rows: {kind: examples, length: 32, buckets: [16]}", "rows: {length: 32}"), "data.rows.kind=examples"),
        (("tasks: 0.5}", "tasks: {weight: 0.5, families: []}}"), "families"),
        (("tasks: 0.5}", "tasks: {only: []}}"), "`only` names no task"),
        (("tasks: 0.5}", "tasks: {only: [topic, topic]}}"), "names something twice"),
        (("tasks: 0.5}", "tasks: {weighing: uniform}}"), "unknown key 'models.all.stages.0.objectives.tasks.weighing'"),
        (("heads: dropped", "sharding: fsdp"), "heads are not sharded"),
    ],
)
def test_recipes_that_cannot_be_are_refused(change, said) -> None:
    with pytest.raises(UserError, match=said.replace(".", "[.]")):
        recipe_from_text((HEAD + MASKED).replace(*change))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("tasks: 0.5}", "tasks: {only: [topik]}}"), "no task 'topik'; did you mean 'topic'"),
        (("tasks: 0.5}", "tasks: {only: [topic], families: [tagging]}}"), "nothing to learn"),
    ],
)
def test_tasks_that_the_corpus_does_not_have_are_refused_before_training(tmp_path, change, said) -> None:
    with pytest.raises(UserError, match=said):
        api.train(recipe_from_text((HEAD + MASKED).replace(*change)), runs=tmp_path)
    assert not list(tmp_path.rglob("metrics.jsonl"))


def test_a_corpus_without_labels_is_refused_before_training(tmp_path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("It is a day like any other day here.\n\n" * 200)
    text = HEAD.replace("corpus: starter", f"corpus: {tmp_path / 'text'}")
    with pytest.raises(UserError, match="labels for no task at all"):
        api.train(recipe_from_text(text + MASKED), runs=tmp_path)
    plain = text + MASKED[: MASKED.index("  all:")] + "evaluate: [test, tasks]\n"
    with pytest.raises(UserError, match="has no labels; leave `tasks` out"):
        api.run(recipe_from_text(plain), runs=tmp_path / "other")
