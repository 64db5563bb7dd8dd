"""Teachers have a loss on `test`, also where they are not compared and where they come from outside."""

from __future__ import annotations

from pathlib import Path

import pytest

from tutelage import api
from tutelage.compare.comparisons import student_and_control
from tutelage.compare.cost import cost_of
from tutelage.recipe.evaluation import Evaluation
from tutelage.recipe.load import recipe_from_text

RECIPE = """
name: seeds
data: {{corpus: starter, tokenizer: {{vocab_size: 400}}, rows: {{length: 32}}}}
models:
  teacher:
    config: {{model_type: llama, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 16}}
    steps: 4
    seeds: 2
    evaluations: 1
    optim: {{batch_rows: 4, lr: 1.0e-2}}
  student:
    like: teacher
    seeds: 1
    stages:
      - {{teachers: {teachers}, objectives: {{next_token: 0.5, distill: 0.5}}}}
evaluate: [test]
compare: {{models: [student]}}
"""


def test_every_teacher_has_a_loss_and_like_teachers_are_the_control(tmp_path: Path) -> None:
    first = api.run(recipe_from_text(RECIPE.format(teachers='["teacher[0]", "teacher[1]"]')), runs=tmp_path)
    assert first is not None
    assert set(first.models) == {"student", "teacher"}
    assert first.models["teacher"].role == "control"
    losses = [run.test.loss for run in first.models["teacher"].seeds.values() if run.test is not None]
    assert len(losses) == 2
    assert list(student_and_control(first.models)) == [("student", "teacher")]
    own = first.models["teacher"].seeds["0"].flops
    assert cost_of(first.models, "student").teachers_training_flops == pytest.approx(2 * (own or 0))

    outside = tmp_path / "seeds" / "teacher" / "seed-1" / "hf"
    text = RECIPE.format(teachers=f'["{outside}"]').replace("name: seeds", "name: outside")
    second = api.run(recipe_from_text(text), runs=tmp_path)
    assert second is not None
    found = second.models["hf"]
    assert (found.role, found.outside) == ("teacher", True)
    test = found.seeds["0"].test
    assert test is not None
    assert test.loss == pytest.approx(losses[1])
    assert cost_of(second.models, "student").uncounted == ("hf",)


def test_a_years_convention_rules_fine_tuning_too() -> None:
    assert Evaluation.model_validate({"convention": 2024}).finetune.rules == "2024"
    assert (
        Evaluation.model_validate({"convention": "2026", "finetune": {"rules": "tutelage"}}).finetune.rules
        == "tutelage"
    )
    assert Evaluation().finetune.rules == "tutelage"
