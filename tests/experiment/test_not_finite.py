"""A finished model whose weights are no numbers is refused wherever it is scored."""

from __future__ import annotations

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
    [("test", r"one\[0\]: its loss on test is not finite"), ("starter-pairs", "texts are not finite")],
)
def test_scores_of_nan_are_refused(tmp_path: Path, what: str, message: str) -> None:
    recipe = recipe_from_text(RECIPE.replace("EVALUATE", what))
    api.train(recipe, runs=tmp_path)
    file = tmp_path / "broken" / "one" / "seed-0" / "hf" / "model.safetensors"
    weights = load_file(file)
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(UserError, match=message):
        api.run(recipe, runs=tmp_path)
