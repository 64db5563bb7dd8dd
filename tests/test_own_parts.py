"""The example package outside the tree: its objective, its suite and its cleaning function do what the recipe says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from tutelage import api
from tutelage.compare.summary import Summary

ROOT = Path(__file__).parents[1]
OBJECTIVE, SUITE, CLEANING = (
    f"own_parts.{name}" for name in ("losses:focal", "suites:weather", "cleaning:without_notes")
)
TINY = "{model_type: llama, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}"
TOY = (
    "models.focal.preset=null",
    f"models.focal.config={TINY}",
    "models.focal.epochs=null",
    "models.focal.steps=40",
    "models.focal.evaluations=2",
    "models.focal.optim.lr=1e-2",
    "models.focal.precision=fp32",
)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    """The recipe's runs at toy size, and their summary."""
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "examples"))
        patch.chdir(ROOT)
        summary = api.run(ROOT / "examples/own_parts/recipe.yaml", TOY, runs)
    assert summary is not None
    return runs / "own-parts", summary


def metrics(done: tuple[Path, Summary], model: str) -> list[dict]:
    lines = (done[0] / model / "seed-0/metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if "loss" in line]


def test_the_objective_is_learned_and_written_down(done) -> None:
    lines = metrics(done, "focal")
    for line in lines:
        # Focal loss is cross-entropy times a factor below 1.
        assert 0 < line["objectives"][OBJECTIVE] < line["loss"]
    assert not any(line.get("objectives") for line in metrics(done, "plain"))


def test_the_objective_changes_what_is_learned(done) -> None:
    focal, plain = (done[1].models[name].seeds["0"] for name in ("focal", "plain"))
    assert focal.steps == plain.steps == 40
    first = [metrics(done, name)[0]["loss"] for name in ("focal", "plain")]
    assert first[0] == pytest.approx(first[1], rel=1e-6), "the same weights and rows at first"
    # A weight alone would change nothing but the last digits: Adam takes no notice of a gradient's scale.
    assert abs(focal.test.loss - plain.test.loss) > 1e-3


def test_the_objective_is_the_plain_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    from own_parts.losses import focal

    logits, targets = torch.randn(5, 7), torch.arange(5)
    p = logits.softmax(-1)[targets, targets]
    assert torch.allclose(focal(logits, targets, gamma=2), -((1 - p) ** 2) * p.log(), atol=1e-6)
    assert torch.allclose(focal(logits, targets, gamma=0), -p.log(), atol=1e-6)


def test_the_suite_has_scores(done) -> None:
    for model in done[1].models.values():
        suite = model.seeds["0"].suites[SUITE]
        assert {uid: paradigm.n for uid, paradigm in suite.paradigms.items()} == {"plural": 32, "singular": 32}
        assert 0 <= suite.accuracy <= 1
    assert any(entry.metric == f"{SUITE}.accuracy" for entry in done[1].comparisons)


def test_the_text_is_cleaned(done) -> None:
    from tutelage.corpus.prepare import Prepared

    text = (ROOT / "examples/own_parts/text/weather.txt").read_text(encoding="utf-8")
    assert len(re.findall(r"\[\d+\]", text)) > 100
    data = Prepared.open(done[0] / "data")
    for split in (data.train, data.val, data.test):
        kept = data.tokenizer.decode(split.tokens[: len(split)].tolist())
        assert "week" in kept
        assert not re.search(r"\[|\d\]| \.", kept)
