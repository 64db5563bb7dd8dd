"""Fair comparisons through a whole recipe: length by another model's FLOPs, one baseline, easy and hard text."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tutelage import api
from tutelage.base.errors import UserError
from tutelage.compare.cost import cost_of
from tutelage.compare.summary import Summary
from tutelage.experiment.setup import Experiment
from tutelage.recipe import Teacher
from tutelage.recipe.load import recipe_from_text
from tutelage.training.parallel import Group

RECIPE = """
name: fair
data: {corpus: starter, tokenizer: {vocab_size: 400}, rows: {length: 32}}
models:
  small:
    config: {model_type: llama, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 16}
    steps: 12
    evaluations: 2
    optim: {batch_rows: 8, lr: 1.0e-2}
  baseline:
    config: {model_type: llama, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}
    steps: 20
    seeds: 2
    evaluations: 4
    optim: {batch_rows: 4, lr: 1.0e-2}
  salt:
    like: baseline
    stages:
      - {span: 60%, teachers: [small], objectives: {next_token: 0.333, distill: 0.667}}
      - {}
  baseline-flops: {like: baseline, flops_of: salt}
  baseline-all: {like: baseline, seeds: 1, flops_of: {model: salt, teachers: counted}}
evaluate: [test, buckets]
evaluation: {buckets: {by: small@step-6}}
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    runs = tmp_path_factory.mktemp("runs")
    return runs, api.run(recipe_from_text(RECIPE), runs=runs)


def opened(runs: Path, text: str = RECIPE) -> Experiment:
    return Experiment(recipe_from_text(text), runs, Group(0, 1, torch.device("cpu")))


@pytest.mark.parametrize("control", ["baseline-flops", "baseline-all"])
def test_a_control_takes_the_flops_of_its_student_to_within_a_step(done, control: str) -> None:
    models = done[1].models
    of, own = cost_of(models, "salt"), models[control].seeds["0"]
    budget = of.total_flops if control == "baseline-all" else of.flops + of.teacher_flops
    assert 0 <= budget - own.flops < own.flops / own.steps
    assert own.steps > models["salt"].seeds["0"].steps


def test_curves_of_cost_end_at_the_whole_cost(done) -> None:
    for model in done[1].models.values():
        for run in model.seeds.values():
            flops, seconds = run.curves["flops"], run.curves["seconds"]
            assert flops[0][2] == 0
            assert flops[-1][2] == pytest.approx(run.flops + run.teacher_flops)
            assert seconds[-1][2] <= run.seconds
            assert [point[:2] for point in flops[1:]] == [point[:2] for point in run.curves["val_loss"]]
            for curve in (flops, seconds):
                values = [point[2] for point in curve]
                assert values == sorted(values)


def test_teachers_count_while_they_teach(done) -> None:
    experiment = opened(done[0])
    plan = experiment.plans.of("salt")
    whole = plan.teacher_flops()
    assert plan.teacher_flops(until=12) == whole > 0
    assert plan.teacher_flops(until=3) == pytest.approx(whole / 4)
    assert plan.teacher_flops(until=0) == 0


def test_baselines_are_controls_and_are_reached_or_not(done) -> None:
    summary = done[1]
    roles = {name: model.role for name, model in summary.models.items()}
    assert roles == {
        "small": "teacher", "baseline": "control", "salt": "student", "baseline-flops": "control",
        "baseline-all": "control",
    }  # fmt: skip
    pairs = [("salt", "baseline"), ("salt", "baseline-flops"), ("salt", "baseline-all")]
    assert [(entry.a, entry.b) for entry in summary.reached] == pairs
    steps = [[point.step for point in entry.points] for entry in summary.curve_differences]
    assert steps[0] == [5, 10, 15, 20]


def test_buckets_together_are_the_test_loss_and_say_what_is_hard(done) -> None:
    for model in done[1].models.values():
        for run in model.seeds.values():
            values = run.measures["buckets"].values
            assert list(values) == ["easy", "medium", "hard"]
            count = sum(value.n for value in values.values())
            mean = sum(value.value * value.n for value in values.values()) / count
            assert mean == pytest.approx(run.test.loss, rel=1e-4)
    small = done[1].models["small"].seeds["0"].measures["buckets"].values
    assert small["easy"].value < small["medium"].value < small["hard"].value


def test_a_length_in_flops_is_kept_in_steps(done) -> None:
    experiment = opened(done[0])
    steps = done[1].models["baseline-flops"].seeds["0"].steps
    spec = experiment.run(Teacher(model="baseline-flops", seed=0)).spec
    assert spec["model"]["steps"] == steps
    assert "flops_of" not in spec["model"]
    longer = opened(done[0], RECIPE.replace("span: 60%", "span: 20%"))
    with pytest.raises(UserError, match=rf"model\.steps: {steps} there, {steps - 1} now"):
        longer.run(Teacher(model="baseline-flops", seed=0)).finished()


def test_estimates_know_lengths_in_flops(done) -> None:
    found = {e.name: e for e in api.show(recipe_from_text(RECIPE), runs=done[0], probe=False)}
    for name in ("baseline-flops", "baseline-all"):
        assert found[name].steps == done[1].models[name].seeds["0"].steps


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("flops_of: salt}", "flops_of: sal}", r"flops_of: names 'sal', which is not among models"),
        ("flops_of: salt}", "flops_of: baseline-flops}", r"in a circle: baseline-flops -> baseline-flops"),
        ("flops_of: salt}", "flops_of: salt, stages: [{teachers: [small], objectives: {distill: 1}}]}",
         r"`flops_of` is for models without teachers and scorers"),
        ("flops_of: salt}", "flops_of: salt, steps: 3}", r"exactly one of `epochs`, `steps`"),
        ("    steps: 12\n", "    flops_of: baseline-all\n", r"in a circle: small -> baseline-all -> small"),
        ("evaluation: {buckets: {by: small@step-6}}", "", r"evaluation\.buckets\.by"),
        ("by: small@step-6", "by: smal", r"buckets\.by: names 'smal', which is not among models"),
    ],
)  # fmt: skip
def test_lengths_and_references_that_cannot_be_are_refused(old: str, new: str, message: str) -> None:
    assert old in RECIPE
    with pytest.raises(UserError, match=message):
        recipe_from_text(RECIPE.replace(old, new))


def test_training_elsewhere_cannot_be_counted(done) -> None:
    folder = done[0] / "fair" / "small" / "seed-0" / "hf"
    text = RECIPE.replace("teachers: [small]", f"teachers: ['{folder}']").replace("name: fair", "name: outside")
    experiment = opened(done[0], text)
    assert experiment.plans.of("baseline-flops").steps.total > 20
    with pytest.raises(UserError, match=r"baseline-all\.flops_of: the training of '.*' happened elsewhere"):
        experiment.plans.of("baseline-all")


SELECTED = """
  salt-ds:
    like: salt
    stages:
      - span: 60%
        teachers: [small]
        objectives: {next_token: 0.2, distill: 0.6}
        select: {by: salt_ds, scorer: small@step-6, share: 50%}
      - {objectives: {next_token: 0.5}}
  salt-again: {like: salt-ds, without: select}
  selected-only: {like: salt-ds, without: teachers}
  plain: {like: salt-ds, without: [teachers, select]}
  plain-flops: {like: baseline, flops_of: salt-ds}
"""


def test_a_selection_can_be_left_out_with_the_teachers_or_alone() -> None:
    models = recipe_from_text(RECIPE.replace("evaluate:", SELECTED.strip("\n") + "\nevaluate:")).models
    chosen, again, only, plain = (models[name].stages for name in ("salt-ds", "salt-again", "selected-only", "plain"))
    assert again == (chosen[0].model_copy(update={"select": None}), chosen[1])
    assert only[0].select == chosen[0].select
    assert [stage.needs for stage in plain] == [(), ()]
    assert only[0].teachers == ()
    for stages in (only, plain):
        assert [stage.objectives.next_token.weight for stage in stages] == [1, 1]
    with pytest.raises(UserError, match="without names 'select', which 'salt' does not have"):
        recipe_from_text(RECIPE.replace("evaluate:", "  no: {like: salt, without: select}\nevaluate:"))


def test_scoring_counts_in_a_length_by_flops(done) -> None:
    experiment = opened(done[0], RECIPE.replace("evaluate:", SELECTED.strip("\n") + "\nevaluate:"))
    scoring = experiment.plans.of("salt-ds").flops() - experiment.plans.of("salt").flops()
    source = experiment.plans.of("small").source
    small = experiment.plans.cost_of("small", "causal")
    assert scoring == pytest.approx(small.forward_flops * source.tokens_per_epoch)
    assert experiment.plans.of("plain-flops").steps.total > 10 * experiment.plans.of("baseline-flops").steps.total
