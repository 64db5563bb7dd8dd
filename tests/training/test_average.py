"""Averages of weights: what they are by hand, what is exported and measured, and that training does not feel them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tutelage import api, recipe
from tutelage.recipe.load import recipe_from_text
from tutelage.training.average import WeightAverage

RECIPE = """
name: averaged
data: {corpus: starter, words: 6000, tokenizer: {vocab_size: 300}, rows: {length: 16}}
models:
  plain:
    config: {model_type: llama, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}
    steps: 12
    evaluations: 12
    keep: all
    optim: {batch_rows: 4, lr: 1.0e-2}
  tail: {like: plain, average: {kind: tail, share: 0.5}}
  ema: {like: plain, average: {kind: ema, decay: 0.8}}
evaluate: [val]
"""


def by_hand(settings: recipe.Average, weights: list[torch.Tensor]) -> torch.Tensor:
    """Of the weights after 0, 1, ... steps, in float64."""
    if settings.kind == "tail":
        first = round((len(weights) - 1) * (1 - settings.share)) + 1
        return torch.stack(weights[first:] or weights[-1:]).mean(0)
    average = weights[0]
    for step, weight in enumerate(weights[1:], 1):
        decay = min(settings.decay, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weight
    return average


@pytest.mark.parametrize("steps", [1, 2, 7, 40])
@pytest.mark.parametrize(
    "settings",
    [
        recipe.Average(kind="ema", decay=0.5),
        recipe.Average(kind="ema"),
        recipe.Average(kind="tail"),
        recipe.Average(kind="tail", share=1),
        recipe.Average(kind="tail", share=0.01),
    ],
    ids=str,
)
def test_they_equal_the_sums_by_hand(settings: recipe.Average, steps: int) -> None:
    layer = nn.Linear(3, 2)
    average, seen = WeightAverage(layer, settings, steps), [layer.weight.detach().double().clone()]
    for step in range(1, steps + 1):
        with torch.no_grad():
            layer.weight.add_(torch.randn(2, 3))
        average.update(step)
        seen.append(layer.weight.detach().double().clone())
    last = layer.weight.detach().clone()
    with average.in_place():
        torch.testing.assert_close(layer.weight.double(), by_hand(settings, seen), rtol=1e-5, atol=1e-6)
    assert torch.equal(layer.weight, last), "the weights are back to the bit"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("averaged")
    api.run(recipe_from_text(RECIPE), runs=folder)
    return folder / "averaged"


@pytest.mark.parametrize("name", ["tail", "ema"])
def test_checkpoints_and_the_exported_model_hold_the_average(runs: Path, name: str) -> None:
    checkpoints = runs / name / "seed-0" / "checkpoints"
    raw = {step: load_file(checkpoints / f"step-{step:09d}" / "raw.safetensors") for step in range(1, 13)}
    last = load_file(checkpoints / "step-000000012" / "model.safetensors")
    settings = recipe_from_text(RECIPE).models[name].average
    assert settings is not None
    if name == "tail":
        for key, tensor in last.items():
            mean = torch.stack([raw[step][key].double() for step in range(7, 13)]).mean(0)
            torch.testing.assert_close(tensor.double(), mean, rtol=1e-5, atol=1e-7)
    assert any(not torch.equal(last[key], raw[12][key]) for key in last)
    done = json.loads((runs / name / "seed-0" / "finished.json").read_text())
    best = load_file(checkpoints / f"step-{done['best_step']:09d}" / "model.safetensors")
    exported = load_file(runs / name / "seed-0" / "hf" / "model.safetensors")
    assert {float(tensor.double().sum()) for tensor in exported.values()} <= {
        float(tensor.double().sum()) for tensor in best.values()
    }


@pytest.mark.parametrize("name", ["tail", "ema"])
def test_training_takes_the_same_steps_and_both_losses_are_written(runs: Path, name: str) -> None:
    def lines(model: str) -> list[dict]:
        return [json.loads(line) for line in (runs / model / "seed-0" / "metrics.jsonl").read_text().splitlines()]

    plain, averaged = lines("plain"), lines(name)
    assert [line.get("loss") for line in averaged] == [line.get("loss") for line in plain]
    assert [line.get("val_raw") for line in averaged] == [line.get("val") for line in plain]
    values = [line["val"]["loss"] for line in averaged if "val" in line]
    assert values != [line["val"]["loss"] for line in plain if "val" in line]
    scores = json.loads((runs / name / "seed-0" / "scores" / "val.json").read_text())
    assert scores["score"]["loss"] == pytest.approx(min(values), rel=1e-5)
