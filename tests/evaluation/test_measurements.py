"""The evaluations beside the suites, each through a whole recipe, on files that the test writes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from tutelage import api
from tutelage.base.errors import UserError
from tutelage.evaluation.psychometrics.reading import EYE_TRACKING, SELF_PACED
from tutelage.recipe.load import recipe_from_text

RECIPE = """
name: measured
data: {corpus: starter, tokenizer: {vocab_size: 400}, rows: {length: 32}}
models:
  one:
    config: {model_type: llama, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}
    steps: 40
    evaluations: 2
    checkpoints: [500, 1K, 2K, 3K, 1M]
    optim: {batch_rows: 8, lr: 1.0e-2}
  other: {like: one, checkpoints: []}
evaluate: [calibration, aoa, reading, glue, "glue:rte"]
evaluation:
  finetune: {tasks: [wsc, rte], epochs: 1, batch_rows: 4, seeds: 2}
compare: {models: [one, "ensemble(one, other)"]}
"""
SENTENCES = ("The dog sleeps on the old mat", "Two cats play in the warm sun", "A child reads a book at home")
WORDS = ("dog", "cat", "book", "home")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with the formats of the published files."""
    data, draw = tmp_path / "data", np.random.default_rng(0)
    for place in ("eval/reading", "eval/aoa", "glue"):
        (data / place).mkdir(parents=True)
    rows = []
    for sentence in SENTENCES * 8:
        words = sentence.split()
        for place in range(1, len(words)):
            times = {name: f"{draw.uniform(150, 400):.3f}" for name in (*EYE_TRACKING, SELF_PACED)}
            before = " ".join(words[: place - 1])
            row = {"item": " ".join(words[:place]), "word": words[place], "prev_item": before}
            row |= {"prev_word": words[place - 1], "prev_length": len(words[place - 1]), "length": len(words[place])}
            rows.append(row | {"Subtlex_log10": f"{draw.uniform(3, 14):.3f}", "context_length": place, **times})
    with (data / "eval/reading/reading_data.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    contexts = {word: [{"context": "Look at the"}, {"context": "We saw a"}] for word in WORDS}
    (data / "eval/aoa/cdi_childes.json").write_text(json.dumps(contexts))
    lines = [f"{number},{word},0.1,0.4,0.8" for number, word in enumerate(WORDS)]
    (data / "eval/aoa/cdi_human.csv").write_text("\n".join([",word,16,20,24", *lines]) + "\n")
    for split, count in (("train", 24), ("valid", 6)):
        rte = [{"sentence1": SENTENCES[n % 3], "sentence2": "A dog.", "label": n % 2} for n in range(count)]
        wsc = [
            {"text": SENTENCES[n % 3], "span1_text": "it", "span2_text": "mat", "label": n % 2} for n in range(count)
        ]
        for name, found in (("rte", rte), ("wsc", wsc)):
            (data / f"glue/{name}.{split}.jsonl").write_text("\n".join(map(json.dumps, found)) + "\n")
    monkeypatch.setenv("TUTELAGE_DATA", str(data))
    return data


def test_every_measurement_through_a_recipe(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("statsmodels", reason="statsmodels is not installed")
    summary = api.run(recipe_from_text(RECIPE), runs=tmp_path / "runs")
    one = summary.models["one"].seeds["0"].measures
    assert list(one) == ["calibration", "aoa", "reading", "glue", "glue:rte"]
    assert 0 <= one["calibration"].values["error"].value <= 1
    assert one["reading"].values["eye_tracking"].n > 100
    # A model with four words or fewer has no correlation; that it was asked at each of its checkpoints shows below.
    assert "words" in one["aoa"].values["aoa"].note
    both = summary.models["ensemble(one, other)"].seeds["0"].measures
    assert both["aoa"].values["aoa"].value is None
    assert "no checkpoints" in both["aoa"].values["aoa"].note
    scores = tmp_path / "runs/measured/one/seed-0/scores"
    said = json.loads((scores / "aoa.predictions.json").read_text())["results"]
    assert len(said) == len(WORDS) * 2 * len({entry["step"] for entry in said})
    assert list(dict.fromkeys((entry["step"], entry["word_count"]) for entry in said)) == [
        ("chck_500", 500), ("chck_1K", 1000), ("chck_2K", 2000), ("chck_3K", 3000),
    ]  # fmt: skip
    # The average is that of the tasks, each the mean of two fine-tunings.
    glue, tasks = one["glue"].values, ("wsc", "rte")
    assert glue["average"].value == pytest.approx(np.mean([glue[task].value for task in tasks]))
    assert glue["rte"].value == pytest.approx(one["glue:rte"].values["accuracy"].value)
    assert "mean of 2 fine-tunings" in glue["rte"].note
    assert len(json.loads((scores / "glue.predictions.json").read_text())["wsc"]["predictions"]) == 6
    assert not (scores / "parts").exists() or not list((scores / "parts").iterdir())


def test_mrpc_keeps_its_plain_accuracy_beside_f1_in_results_summary_and_report(folder: Path, tmp_path: Path) -> None:
    for split, count in (("train", 24), ("valid", 7)):
        rows = [{"sentence1": SENTENCES[n % 3], "sentence2": "A dog.", "label": int(n % 4 > 0)} for n in range(count)]
        (folder / f"glue/mrpc.{split}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    text = RECIPE.replace('[calibration, aoa, reading, glue, "glue:rte"]', "[glue]").replace("seeds: 2", "seeds: 1")
    text = text.replace("[wsc, rte]", "[mrpc, rte]").replace(
        '{models: [one, "ensemble(one, other)"]}', "{models: [one]}"
    )
    summary = api.run(recipe_from_text(text), runs=tmp_path / "runs")
    glue = summary.models["one"].seeds["0"].measures["glue"].values
    assert list(glue) == ["average", "mrpc", "rte", "average:accuracy", "mrpc:accuracy"]
    said = tmp_path / "runs/measured/one/seed-0/scores/glue.predictions.json"
    rows = [json.loads(line)["label"] for line in (folder / "glue/mrpc.valid.jsonl").read_text().splitlines()]
    right = [
        one["pred"] == label
        for one, label in zip(json.loads(said.read_text())["mrpc"]["predictions"], rows, strict=True)
    ]
    assert glue["mrpc"].unit == "f1"
    assert (glue["mrpc:accuracy"].value, glue["mrpc:accuracy"].unit) == (pytest.approx(np.mean(right)), "accuracy")
    assert glue["average:accuracy"].value == pytest.approx((glue["mrpc:accuracy"].value + glue["rte"].value) / 2)
    assert "mrpc:accuracy" in (tmp_path / "runs/measured/report.html").read_text()


def test_changed_files_and_settings_measure_anew(folder: Path, tmp_path: Path) -> None:
    text = RECIPE.replace('[calibration, aoa, reading, glue, "glue:rte"]', '["glue:rte"]')
    text = text.replace('compare: {models: [one, "ensemble(one, other)"]}', "compare: {models: [one]}")
    api.run(recipe_from_text(text), runs=tmp_path / "runs")
    score = tmp_path / "runs/measured/one/seed-0/scores/glue-rte.json"
    first = json.loads(score.read_text())
    api.run(recipe_from_text(text), runs=tmp_path / "runs")
    assert json.loads(score.read_text()) == first
    api.run(recipe_from_text(text.replace("epochs: 1,", "epochs: 2,")), runs=tmp_path / "runs")
    second = json.loads(score.read_text())
    assert second["of"] != first["of"]
    path = folder / "glue/rte.valid.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    api.run(recipe_from_text(text), runs=tmp_path / "runs")
    assert json.loads(score.read_text())["score"]["values"]["accuracy"]["n"] == 5


def test_missing_files_are_told_before_training(folder: Path, tmp_path: Path) -> None:
    (folder / "glue/wsc.valid.jsonl").unlink()
    with pytest.raises(UserError, match=r"wsc\.valid\.jsonl of the task 'wsc' is not on this machine"):
        api.run(recipe_from_text(RECIPE), runs=tmp_path / "runs")
    assert not (tmp_path / "runs/measured/one").exists()


def test_calibration_needs_held_out_text(folder: Path, tmp_path: Path) -> None:
    text = RECIPE.replace('[calibration, aoa, reading, glue, "glue:rte"]', "[starter-pairs]")
    api.run(recipe_from_text(text), runs=tmp_path / "runs")
    with pytest.raises(UserError, match="held-out text"):
        api.evaluate_models([tmp_path / "runs/measured/one/seed-0/hf"], ["calibration"], tmp_path / "out")
