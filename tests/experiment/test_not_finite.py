"""A finished model whose weights are no numbers is refused wherever it is scored."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tutelage import api
from tutelage.base.errors import UserError
from tutelage.recipe.load import recipe_from_text

RECIPE = """
name: broken
data: {corpus: starter, words: 3000, tokenizer: {vocab_size: 300}, rows: {length: 16}}
models:
  one:
    config: {model_type: llama, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}
    steps: 2
    evaluations: 1
    optim: {batch_rows: 4}
evaluate: [EVALUATE]
"""


@pytest.mark.parametrize(
    ("what", "message"),
    [("test", "hf' gives NaN: its weights 'model.norm.weight'"), ("starter-pairs", "hf' gives NaN: its weights")],
)
def test_scores_of_nan_are_refused(tmp_path: Path, what: str, message: str) -> None:
    recipe = recipe_from_text(RECIPE.replace("EVALUATE", what))
    api.train(recipe, runs=tmp_path)
    file = tmp_path / "broken" / "one" / "seed-0" / "hf" / "model.safetensors"
    weights = load_file(file)
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, file, {"format": "pt"})
    finished = file.parents[1] / "finished.json"
    value = json.loads(finished.read_text())
    del value["files"], value["checksum"]  # as an earlier version left it, which kept no digests
    finished.write_text(json.dumps(value))
    with pytest.raises(UserError, match=message):
        api.run(recipe, runs=tmp_path)


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound model's folder."""
    runs = tmp_path_factory.mktemp("outside")
    api.train(recipe_from_text(RECIPE.replace("EVALUATE", "test")), runs=runs)
    shutil.copytree(runs / "broken" / "one" / "seed-0" / "hf", runs / "model")
    return runs / "model"


def with_value(outside: Path, folder: Path, name: str, value: float) -> Path:
    """The model with one weight changed."""
    shutil.copytree(outside, folder)
    weights = load_file(folder / "model.safetensors")
    weights[name].view(-1)[0] = value
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


TAUGHT = {
    "live": "stages: [{teachers: ['TEACHER'], objectives: {next_token: 0.5, distill: 0.5}}]",
    "cached": "stages: [{teachers: ['TEACHER'], cache: {kind: hidden}, objectives: {next_token: 0.5, distill: 0.5}}]",
    "along": "stages: [{teachers: ['TEACHER'], cache: {kind: hidden, fill: first_epoch}, "
             "objectives: {next_token: 0.5, distill: 0.5}}]",
    "gate": "stages: [{teachers: ['TEACHER'], "
            "objectives: {next_token: 0.5, distill: {weight: 0.5, gate: confidence}}}]",
    "selection": "stages: [{select: {by: perplexity, scorer: 'TEACHER', band: [20%, 80%]}}]",
}  # fmt: skip


@pytest.mark.parametrize("way", TAUGHT)
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "' gives NaN: its weights 'model.norm.weight' are not finite"),
        (3e38, "the teacher '.*' gives NaN or infinity for the first rows"),
    ],
)
def test_a_teacher_that_is_not_finite_is_named_before_the_first_step(
    outside: Path, tmp_path: Path, way: str, value: float, message: str
) -> None:
    teacher = with_value(outside, tmp_path / "teacher", "model.norm.weight", value)
    if value == 3e38:  # finite itself, and infinite with what it multiplies
        weights = load_file(teacher / "model.safetensors")
        weights["model.norm.weight"][:] = value
        save_file(weights, teacher / "model.safetensors", {"format": "pt"})
    text = RECIPE.replace("EVALUATE", "test")
    text = text.replace("    steps: 2", f"    steps: 2\n    {TAUGHT[way].replace('TEACHER', str(teacher))}")
    with pytest.raises(UserError, match=message):
        api.run(recipe_from_text(text), runs=tmp_path)
    assert not list(tmp_path.glob("broken/one/seed-0/checkpoints/*"))


def test_a_student_that_starts_from_weights_that_are_not_finite_is_named(outside: Path, tmp_path: Path) -> None:
    weights = with_value(outside, tmp_path / "init", "model.norm.weight", float("inf"))
    lines = RECIPE.replace("EVALUATE", "test").splitlines()
    text = "\n".join(f"    weights: {weights}" if "config:" in line else line for line in lines)
    with pytest.raises(UserError, match=r"init' gives NaN: its weights 'model.norm.weight' are not finite"):
        api.run(recipe_from_text(text), runs=tmp_path)
