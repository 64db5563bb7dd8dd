"""Not only causal models from random weights on running text: masked ones, examples, given weights, stages."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

from tutelage import api
from tutelage.recipe.load import recipe_from_text

HEAD = """
name: other
data: {corpus: starter, tokenizer: {vocab_size: 500}, rows: %s}
models:
"""
MASKED = """
  teacher:
    config:
      {model_type: modernbert, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 48}
    steps: 6
    stages: [{objectives: {masked: {rate: 0.3}}}]
    evaluations: 1
    optim: {batch_rows: 8, lr: 1.0e-2}
  student:
    like: teacher
    config: {hidden_size: 16}
    stages:
      - teachers: [teacher]
        combine: mean_probabilities
        objectives: {masked: {weight: 0.5, rate: 0.3}, distill: {weight: 0.5, temperature: 2, reduction: per_row}}
  control: {like: student, without: teachers}
"""
CAUSAL = """
  base:
    config: {model_type: llama, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}
    steps: 6
    evaluations: 1
    optim: {batch_rows: 8, lr: 1.0e-2}
"""


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    lines = [{"sentence_good": "The dog sleeps.", "sentence_bad": "The dog sleep."},
             {"sentence_good": "Two cats ran away.", "sentence_bad": "Two cat ran away."}]  # fmt: skip
    (folder / "agreement.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.parametrize("rows", ["{length: 32}", "{kind: examples, length: 32, buckets: [16]}"])
def test_masked_teacher_student_and_control(tmp_path: Path, pairs: Path, rows: str) -> None:
    text = HEAD % rows + MASKED + f"evaluate: [test, 'pairs:{pairs}']\n"
    summary = api.run(recipe_from_text(text), runs=tmp_path)
    for model in summary.models.values():
        run = model.seeds["0"]
        assert 0 < run.test.loss < 7
        assert next(iter(run.suites.values())).items == 2
    assert "train_kl" in summary.models["student"].seeds["0"].curves
    stock = AutoModelForMaskedLM.from_pretrained(tmp_path / "other" / "student" / "seed-0" / "hf")
    assert stock.config.model_type == "modernbert"


def test_examples_train_a_causal_model(tmp_path: Path) -> None:
    rows = "{kind: examples, length: 32, buckets: [8, 16]}"
    summary = api.run(recipe_from_text(HEAD % rows + CAUSAL.replace("steps: 6", "epochs: 0.05")), runs=tmp_path)
    run = summary.models["base"].seeds["0"]
    assert run.epochs == pytest.approx(0.05, abs=0.001)
    assert run.test.loss < 6.3


def test_given_weights_are_the_beginning(tmp_path: Path) -> None:
    api.train(recipe_from_text(HEAD % "{length: 32}" + CAUSAL), runs=tmp_path)
    weights = tmp_path / "other" / "base" / "seed-0" / "hf"
    tokenizer = tmp_path / "other" / "data" / "tokenizer"
    text = f"""
name: more
data: {{corpus: starter, tokenizer: {{kind: pretrained, path: {tokenizer}}}, rows: {{length: 32}}}}
models:
  more: {{weights: {weights}, steps: 1, evaluations: 1, optim: {{batch_rows: 8, lr: 1.0e-12}}}}
"""
    api.train(recipe_from_text(text), runs=tmp_path)
    before = load_file(weights / "model.safetensors")
    after = load_file(tmp_path / "more" / "more" / "seed-0" / "hf" / "model.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=1e-6)


def test_teachers_of_a_stage_are_heard_in_that_stage_only(tmp_path: Path) -> None:
    """SALT's shape: taught first, then plain; the teacher's arithmetic ends with its stage."""
    text = (
        HEAD % "{length: 32}"
        + CAUSAL
        + """
  student:
    like: base
    steps: 20
    stages:
      - {span: 25%, teachers: [base], objectives: {next_token: 0.3, distill: 0.7}}
      - {objectives: {next_token: 1}}
"""
    )
    summary = api.run(recipe_from_text(text), runs=tmp_path)
    run = summary.models["student"].seeds["0"]
    assert [point[0] for point in run.curves["train_kl"]] == [1, 2, 3, 4, 5]
    whole = summary.models["base"].seeds["0"]
    assert run.teacher_flops == pytest.approx(whole.flops / whole.tokens / 3 * run.tokens / 4)
