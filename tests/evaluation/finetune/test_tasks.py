"""Tasks, their files, their scores and the settings of each year."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from tutelage.base.errors import UserError
from tutelage.evaluation.benchmarks.results import MeasuredResult, MeasuredValue
from tutelage.evaluation.finetune.metrics import METRICS
from tutelage.evaluation.finetune.run import glue_average
from tutelage.evaluation.finetune.tasks import (
    TASKS,
    averaged,
    find_task,
    read_scored,
    read_train,
    trained_together,
)
from tutelage.recipe.finetune import GLUE_7, GLUE_11, MSGS, Finetuning


def write(folder: Path, name: str, rows: list[object]) -> Path:
    path = folder / name
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


ROWS = {
    "boolq": {"question": "is it so", "passage": "It is.", "label": 1},
    "mnli": {"premise": "A", "hypothesis": "B", "label": 2},
    "mrpc": {"sentence1": "A", "sentence2": "B", "label": 0},
    "qqp": {"question1": "A", "question2": "B", "label": 0},
    "qnli": {"question": "A", "sentence": "B", "label": 0},
    "cola": {"sentence": "A {brace} stays.", "label": 0},
    "multirc": {"paragraph": "P.", "question": "Q?", "answer": "A", "label": 0, "idx": {"answer": 3}},
    "wsc": {"text": "T.", "span1_text": "one", "span2_text": "two", "span1_index": 0, "label": 0},
    "main_verb_control": {"sentence": "S.", "linguistic_feature_type": "x", "label": True},
}


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("boolq", "is it so", "It is."),
        ("mnli", "A", "B"),
        ("mrpc", "A", "B"),
        ("qqp", "A", "B"),
        ("qnli", "A", "B"),
        ("cola", "A {brace} stays.", None),
        ("multirc", "Question: Q? Answer: A", "P."),
        ("wsc", 'Does "two" refer to "one" in this passage?', "T."),
        ("main_verb_control", "S.", None),
    ],
)
def test_texts_are_put_together_as_published(tmp_path: Path, name: str, first: str, second: str | None) -> None:
    write(tmp_path, f"{name}.valid.jsonl", [ROWS[name]])
    (row,) = read_scored(name, tmp_path)
    assert (row.first, row.second, row.label) == (first, second, int(ROWS[name]["label"]))


@pytest.mark.parametrize("name", ["mnli.validation_matched.json", "mnli.valid.json", "mnli.valid.jsonl"])
def test_published_names_are_found(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, [ROWS["mnli"]])
    assert len(read_scored("mnli", tmp_path)) == 1


def test_one_array_is_read_like_lines(tmp_path: Path) -> None:
    (tmp_path / "cola.valid.json").write_text(json.dumps([ROWS["cola"], ROWS["cola"]], indent=1))
    assert len(read_scored("cola", tmp_path)) == 2


def test_places_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, count in (("data/msgs_filtered", 1), ("cache/glue", 2)):
        (tmp_path / place).mkdir(parents=True)
        write(tmp_path / place, "cola.valid.jsonl", [ROWS["cola"]] * count)
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TUTELAGE_DATA", raising=False)
    assert len(read_scored("cola")) == 2
    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path / "data"))
    assert len(read_scored("cola")) == 1


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"question": "A", "label": 1}], r"boolq.valid.jsonl:1 has no 'passage' \(its keys: question, label\)"),
        ([ROWS["boolq"], ROWS["boolq"] | {"label": -1}], r":2: label -1 is none of boolq's, 0 to 1"),
        ([ROWS["boolq"] | {"label": 2}], "label 2 is none"),
        ([ROWS["boolq"] | {"label": "1"}], "label '1' is none"),
        ([ROWS["boolq"] | {"label": 1.0}], "label 1.0 is none"),
        ([ROWS["boolq"] | {"passage": None}], "'passage' is None, not a text"),
        (["a text"], "is not a JSON object"),
        ([], "is empty; get it again from https"),
    ],
)
def test_broken_files_are_told_with_their_line(tmp_path: Path, rows: list[object], said: str) -> None:
    write(tmp_path, "boolq.valid.jsonl", rows)
    with pytest.raises(UserError, match=said):
        read_scored("boolq", tmp_path)


def test_no_json_and_no_utf8(tmp_path: Path) -> None:
    (tmp_path / "cola.valid.jsonl").write_text('{"sentence": "A", "label": 0}\n{oops\n')
    with pytest.raises(UserError, match=r":2 is not JSON"):
        read_scored("cola", tmp_path)
    (tmp_path / "cola.valid.jsonl").write_bytes(b'{"sentence": "\xff"}')
    with pytest.raises(UserError, match="is not UTF-8"):
        read_scored("cola", tmp_path)


def test_missing_files_and_tasks(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"qnli.train.jsonl of the task 'qnli' is not on this machine.*licence"):
        read_train("qnli", tmp_path)
    with pytest.raises(UserError, match="did you mean 'mrpc'"):
        find_task("mprc")


def test_one_label_cannot_be_learned(tmp_path: Path) -> None:
    write(tmp_path, "cola.train.jsonl", [ROWS["cola"]] * 5)
    with pytest.raises(UserError, match="only the label 0"):
        read_train("cola", tmp_path)


def test_mnli_mm_trains_on_mnli(tmp_path: Path) -> None:
    write(tmp_path, "mnli.train.jsonl", [ROWS["mnli"], ROWS["mnli"] | {"label": 0}])
    assert len(read_train("mnli-mm", tmp_path)) == 2
    assert trained_together(["rte", "mnli", "wsc", "mnli-mm"]) == [("rte",), ("mnli", "mnli-mm"), ("wsc",)]
    assert trained_together(["mnli-mm"]) == [("mnli-mm",)]


@pytest.mark.parametrize("labels", [2, 3])
def test_metrics_are_scikit_learns(labels: int) -> None:
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    draw = np.random.default_rng(0)
    cases = [(draw.integers(0, labels, n), draw.integers(0, labels, n)) for n in (1, 2, 7, 200) for _ in range(20)]
    constant = np.ones(9, dtype=np.int64)
    cases += [(constant, constant), (constant, 0 * constant), (0 * constant, 0 * constant), (0 * constant, constant)]
    for gold, said in cases:
        assert METRICS["accuracy"](gold, said) == pytest.approx(sklearn.accuracy_score(gold, said))
        assert METRICS["mcc"](gold, said) == pytest.approx(sklearn.matthews_corrcoef(gold, said))
        if labels == 2:
            assert METRICS["f1"](gold, said) == pytest.approx(sklearn.f1_score(gold, said, zero_division=0))


def test_metrics_by_hand() -> None:
    gold, said = np.array([1, 1, 1, 0, 0, 0, 0, 0]), np.array([1, 1, 0, 1, 0, 0, 0, 0])
    # 2 true positives, 1 false positive, 1 false negative, 4 true negatives.
    assert METRICS["accuracy"](gold, said) == 6 / 8
    assert METRICS["f1"](gold, said) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert METRICS["mcc"](gold, said) == pytest.approx((2 * 4 - 1 * 1) / (3 * 3 * 5 * 5) ** 0.5)
    assert METRICS["f1"](gold * 0, said * 0) == 0.0
    assert METRICS["mcc"](gold, said * 0) == 0.0


def test_headlines_and_choices_by_year() -> None:
    headlines = {name: task.headline for name, task in TASKS.items()}
    assert {name for name, metric in headlines.items() if metric == "f1"} == {"mrpc", "qqp"}
    assert {name for name, metric in headlines.items() if metric == "mcc"} == {"cola", *MSGS}
    assert len(MSGS) == 11
    assert TASKS["rte"].chosen_by("2024") == "f1"
    assert TASKS["mnli"].chosen_by("2023") == "accuracy"
    assert TASKS["rte"].chosen_by("2025") == "accuracy"
    assert TASKS["mrpc"].chosen_by("2026") == "f1"
    assert TASKS["cola"].chosen_by("tutelage") == "mcc"
    assert averaged("2023") == averaged("2024") == GLUE_11
    assert averaged("2025") == averaged("2026") == GLUE_7


def result(task: str, value: float) -> MeasuredResult:
    return MeasuredResult(task, "2025", "accuracy", {"accuracy": MeasuredValue(value, "accuracy")})


def test_average_by_year() -> None:
    results = {name: result(name, number / 10) for number, name in enumerate(GLUE_7)}
    whole = glue_average(results, "2025")
    assert whole.value == pytest.approx(0.3)
    assert (whole.n, whole.note) == (7, "")
    part = glue_average(results | {"cola": result("cola", 1.0)}, "2024")
    assert part.value == pytest.approx((2.1 + 1.0) / 8)
    assert part.note == "mean of 8 of 11 tasks; without sst2, mnli-mm, qnli"
    assert glue_average({}, "2025").value is None


def test_plain_accuracies_of_mrpc_and_qqp_are_averaged_beside_their_f1() -> None:
    def both(task: str, f1: float, plain: float) -> MeasuredResult:
        values = {"f1": MeasuredValue(f1, "f1"), "accuracy": MeasuredValue(plain, "accuracy")}
        return MeasuredResult(task, "2025", "f1", values)

    results = {name: result(name, 0.5) for name in GLUE_7}
    results |= {"mrpc": both("mrpc", 0.82, 0.73), "qqp": both("qqp", 0.65, 0.745)}
    assert glue_average(results, "2025").value == pytest.approx((5 * 0.5 + 0.82 + 0.65) / 7)
    assert glue_average(results, "2025", "accuracy").value == pytest.approx((5 * 0.5 + 0.73 + 0.745) / 7)


def test_years_settings() -> None:
    old, new, newest = (Finetuning.model_validate({"rules": year}) for year in (2023, "2025", "2026"))
    assert not old.evaluate_end
    assert (old.lr, old.batch_rows, old.evaluate_every, old.patience, old.seed_list) == (5e-5, 64, 200, 10, (12,))
    assert (old.max_length, old.head, old.select, old.tasks) == (128, "linear", "scored", GLUE_11)
    assert (new.pooling, new.padding, new.head, new.max_length) == ("first", "right", "mlp", 512)
    assert (newest.pooling, newest.padding) == ("last", "left")
    assert (new.clip, new.final_lr, new.decayed, new.drop_last) == (None, 0.1, "all", True)
    assert [new.of(task).batch_rows for task in ("boolq", "multirc", "rte")] == [16, 16, 32]
    assert new.of("wsc").epochs == 30


def test_what_the_recipe_says_goes_before_the_year() -> None:
    said = Finetuning.model_validate({"rules": "2025", "epochs": 3, "batch_rows": 32, "by_task": {"wsc": {"lr": 1e-3}}})
    assert (said.of("wsc").epochs, said.of("wsc").lr, said.of("boolq").batch_rows) == (3, 1e-3, 32)
    again = Finetuning.model_validate(said.model_dump(mode="json"))
    assert again == said


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"pooling": "first", "padding": "left"}, "would read padding"),
        ({"pooling": "last"}, "would read padding"),
        ({"lora": True, "freeze": "model"}, "leave `freeze` out"),
        ({"sweep": {"lr": [1e-3]}, "select": "scored"}, "chose on the scored file"),
        ({"sweep": {}}, "name values"),
        ({"tasks": ["rte", "rte"]}, "repeat"),
        ({"tasks": ["rtf"]}, "did you mean 'rte'"),
        ({"by_task": {"wcs": {}}}, "did you mean 'wsc'"),
        ({"by_task": {"wsc": {"epoch": 3}}}, "did you mean 'epochs'"),
        ({"by_task": {"wsc": {"epochs": 0}}}, "by_task.wsc.epochs: Input should be greater"),
        ({"by_task": {"wsc": {"pooling": "last"}}}, "by_task.wsc: `pooling: last`"),
        ({"seeds": []}, "not distinct"),
        ({"rules": "2022"}, "2023"),
        ({"lr": 0}, "greater than 0"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Finetuning.model_validate(settings)


@pytest.mark.data
def test_real_files_are_read(real_data: Path) -> None:
    sizes = {"boolq": 1635, "mnli": 4908, "mrpc": 204, "multirc": 2424, "qqp": 20215, "rte": 139, "wsc": 52}
    for name, size in sizes.items():
        assert len(read_scored(name, real_data / "glue")) == size
    for name in ("cola", "sst2", "mnli-mm", "qnli"):
        assert read_scored(name, real_data / "glue")
    assert len(read_train("multirc", real_data / "glue")) == 27243
