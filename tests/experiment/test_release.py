"""Teachers that are no longer heard: they go, nothing counts them any more, and the rest is plain training."""

import gc
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tutelage import api
from tutelage.base import machine
from tutelage.experiment import loading
from tutelage.recipe.load import recipe_from_text
from tutelage.teaching.teachers import Ensemble

RECIPE = """
name: release
data: {corpus: starter, words: 12000, tokenizer: {vocab_size: 400}, rows: {length: 16}}
models:
  small: &small
    config: {model_type: llama, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}
    steps: 3
    evaluations: 1
    precision: fp32
    optim: {batch_rows: 4, lr: 1.0e-3}
  student:
    <<: *small
    steps: 40
    stages: [{teachers: [small], objectives: {next_token: 0.25, distill: {weight: 0.75, schedule: SCHEDULE}}}]
"""
GATED = "{kind: step, over: 25%}, gate: skip_certain"


def test_a_step_is_the_two_stages_of_salt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One stage with a step ends with the very weights of a taught stage and a plain one."""
    one = RECIPE.replace("SCHEDULE", "{kind: step, over: 10}")
    stage = "{teachers: [small], objectives: {next_token: 0.25, distill: 0.75}, span: 25%}"
    two = RECIPE.partition("    stages:")[0] + f"    stages: [{stage}, {{}}]\n"
    summaries = [api.run(recipe_from_text(text), runs=tmp_path / name) for name, text in (("one", one), ("two", two))]
    said = capsys.readouterr().err.replace("\n", " ")
    assert said.count("teachers released after step 10") == 2
    weights = [load_file(tmp_path / name / "release/student/seed-0/hf/model.safetensors") for name in ("one", "two")]
    for key, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][key], tensor, rtol=0, atol=0)
    runs = [summary.models["student"].seeds["0"] for summary in summaries]
    small = summaries[0].models["small"].seeds["0"]
    for run in runs:
        assert run.teacher_flops == pytest.approx(small.flops / small.tokens / 3 * run.tokens / 4)
        assert [weight for *_, weight in run.curves["teacher_weight"]] == [0.75] * 10 + [0.0] * 30
        assert [step for step, *_ in run.curves["train_kl"]] == list(range(1, 11))


def test_nothing_holds_on_to_released_teachers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, alive = [], []
    ensemble_of = loading.ensemble_of

    def noted(*args: object) -> Ensemble:
        ensemble = ensemble_of(*args)
        made.append(weakref.ref(ensemble))
        return ensemble

    def looked() -> None:
        gc.collect()
        alive.append([ref() is not None for ref in made])

    monkeypatch.setattr("tutelage.experiment.caches.ensemble_of", noted)
    monkeypatch.setattr(machine, "release_memory", looked)
    api.train(recipe_from_text(RECIPE.replace("SCHEDULE", "{kind: linear, over: 10}")), runs=tmp_path)
    assert alive == [[False]]


def test_a_sparse_cache_and_a_gate(tmp_path: Path) -> None:
    text = RECIPE.replace("SCHEDULE", GATED).replace("teachers: [small]", "teachers: [small], cache: sparse")
    run = api.run(recipe_from_text(text), runs=tmp_path).models["student"].seeds["0"]
    # Two of sixteen tokens a row.
    assert [weight for *_, weight in run.curves["gate_weight"]] == [14 / 16] * 10
    (stage,) = run.gate_report
    assert sum(part.tokens for part in stage.bins) > 100
    losses = [part.loss for part in stage.bins]
    assert losses == sorted(losses)
