"""A whole experiment at toy size: order, skipping, refusal to mix, report, export."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tutelage import api
from tutelage.base.errors import UserError
from tutelage.compare.cost import cost_of
from tutelage.compare.summary import read_summary
from tutelage.corpus.prepare import Prepared
from tutelage.experiment.loading import trained
from tutelage.experiment.score import Scoring
from tutelage.experiment.setup import Experiment
from tutelage.experiment.summary import _without_local_paths
from tutelage.models.build import load
from tutelage.recipe import Teacher
from tutelage.recipe.load import recipe_from_text
from tutelage.recipe.words import SCHEDULES
from tutelage.training import checkpoint
from tutelage.training.outcome import Finished
from tutelage.training.parallel import Group

RECIPE = """
name: toy
data: {corpus: starter, tokenizer: {vocab_size: 500}, rows: {length: 32}}
models:
  student:
    config: {model_type: llama, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}
    steps: 8
    seeds: 2
    evaluations: 2
    stages: [{teachers: [wide, other], objectives: {next_token: 0.5, distill: 0.5}}]
    optim: {batch_rows: 8, lr: 1.0e-2}
  control: {like: student, without: teachers}
  wide: {like: control, seeds: 1, config: {hidden_size: 32, intermediate_size: 48}}
  other:
    config: {model_type: gpt2, n_embd: 16, n_layer: 1, n_head: 2, n_positions: 64}
    tokens: 2100
    evaluations: 1
    optim: {batch_rows: 8, lr: 1.0e-2}
evaluate: [val, test, starter-pairs]
compare: {models: [student, control, wide, other, "ensemble(wide, other)"]}
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, object]:
    runs = tmp_path_factory.mktemp("runs")
    return runs, api.run(recipe_from_text(RECIPE), runs=runs, publish=runs / "published")


def opened(runs: Path, text: str = RECIPE) -> tuple[Experiment, Scoring]:
    experiment = Experiment(recipe_from_text(text), runs, Group(0, 1, torch.device("cpu")))
    return experiment, Scoring.of(experiment)


def test_teachers_come_before_students(done) -> None:
    order = [str(run) for run in opened(done[0])[0].runs()]
    assert order == ["wide[0]", "other[0]", "student[0]", "student[1]", "control[0]", "control[1]"]


def test_summary_holds_every_model_and_seed(done) -> None:
    summary = done[1]
    assert {name: len(model.seeds) for name, model in summary.models.items()} == {
        "student": 2, "control": 2, "wide": 1, "other": 1, "ensemble(wide, other)": 1,
    }  # fmt: skip
    roles = {name: model.role for name, model in summary.models.items()}
    assert (roles["student"], roles["control"], roles["wide"]) == ("student", "control", "teacher")
    for model in summary.models.values():
        for run in model.seeds.values():
            assert run.test.loss > 0
            assert run.suites["starter-pairs"].items == 960
    pairs = {(c.a, c.b) for c in summary.comparisons if c.metric == "test.loss"}
    assert ("student", "control") in pairs
    one = summary.models["student"].seeds["0"]
    assert one.tokens == 8 * 8 * 32
    assert one.teacher_flops > 0
    assert summary.models["control"].seeds["0"].teacher_flops == 0
    assert one.seconds_teaching < one.seconds
    assert one.seconds_teaching > 0
    assert summary.models["other"].seeds["0"].steps == 8  # 2,100 tokens in steps of 256


def test_published_folder_reads_back_and_names_no_local_path(done) -> None:
    folder = done[0] / "published"
    summary = read_summary(folder / "summary.json")
    assert summary.recipe == "toy"
    assert (folder / "report.md").is_file()
    assert str(done[0]) not in (folder / "summary.json").read_text()


def test_summary_shortens_absolute_paths() -> None:
    found = _without_local_paths({"corpus": "/home/someone/texts", "teachers": ["~/models/big", "wide@step-2"], "n": 3})
    assert found == {"corpus": "texts", "teachers": ["big", "wide@step-2"], "n": 3}


def test_page_exists_and_is_self_contained(done) -> None:
    page = (done[0] / "toy" / "report.html").read_text()
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert 'src="http' not in page


def test_second_run_computes_nothing(done, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = done[0]
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("hf/*")}
    monkeypatch.setattr("tutelage.experiment.train.train", lambda *a: pytest.fail("trained again"))
    monkeypatch.setattr("tutelage.evaluation.named.evaluate", lambda *a: pytest.fail("scored again"))
    monkeypatch.setattr("tutelage.experiment.score.held_out", lambda *a, **k: pytest.fail("measured again"))
    api.run(recipe_from_text(RECIPE), runs=runs)
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("hf/*")} == before


def test_changed_recipe_refuses_old_results_and_names_the_difference(done) -> None:
    with pytest.raises(UserError, match=r"optim\.lr: 0\.01 there, 0\.02 now"):
        api.train(recipe_from_text(RECIPE.replace("lr: 1.0e-2", "lr: 2.0e-2")), runs=done[0])


def test_scores_and_reports_refuse_settings_that_were_not_trained(done) -> None:
    changed = recipe_from_text(RECIPE.replace("lr: 1.0e-2", "lr: 2.0e-2"))
    with pytest.raises(UserError, match=r"optim\.lr: 0\.01 there, 0\.02 now"):
        api.evaluate(changed, runs=done[0])
    with pytest.raises(UserError, match=r"optim\.lr: 0\.01 there, 0\.02 now"):
        api.report(changed, runs=done[0])


def test_a_misspelt_model_to_evaluate_is_told(done) -> None:
    with pytest.raises(UserError, match="no model 'studnt' in this recipe; did you mean 'student'"):
        api.evaluate(recipe_from_text(RECIPE), runs=done[0], model="studnt")


def test_a_run_folder_stands_for_its_recipe(done, tmp_path: Path) -> None:
    summary = api.report(done[0] / "toy", publish=tmp_path / "again")
    assert summary.models.keys() == done[1].models.keys()
    assert [c.mean for c in summary.comparisons] == [c.mean for c in done[1].comparisons]


def test_estimates_match_what_was_trained(done) -> None:
    estimates = {e.name: e for e in api.show(recipe_from_text(RECIPE), runs=done[0])}
    for name, found in estimates.items():
        run = done[1].models[name].seeds["0"]
        assert (found.steps, found.tokens) == (run.steps, run.tokens)
        assert found.flops == pytest.approx(found.seeds * (run.flops + run.teacher_flops))
        assert found.seconds > 0


def test_teachers_that_are_not_compared_still_cost_something(done) -> None:
    text = RECIPE[: RECIPE.index("compare:")] + "compare: {models: [student, control]}\n"
    summary = api.report(recipe_from_text(text), runs=done[0])
    assert list(summary.models) == ["student", "control", "wide", "other"]
    full = cost_of(done[1].models, "student")
    assert cost_of(summary.models, "student") == full
    assert full.teachers_training_flops > 0
    assert full.uncounted == ()


def test_a_run_keeps_the_precision_it_began_with(done, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = opened(done[0])[0].run(Teacher(model="student", seed=0)).spec
    other = "fp32" if begun["model"]["precision"] == "bf16" else "bf16"
    monkeypatch.setattr("tutelage.base.machine.precision", lambda wish: other)
    assert opened(done[0])[0].run(Teacher(model="student", seed=0)).spec == begun


def test_milestones_are_kept_without_changing_the_run(done, tmp_path: Path) -> None:
    text = RECIPE.replace("teachers: [wide, other]", "teachers: [wide@step-3, other]")
    (tmp_path / "toy").mkdir()
    shutil.copytree(done[0] / "toy" / "data", tmp_path / "toy" / "data")
    api.train(recipe_from_text(text), runs=tmp_path, model="wide")
    found, expected = tmp_path / "toy" / "wide" / "seed-0", done[0] / "toy" / "wide" / "seed-0"
    assert (found / "metrics.jsonl").read_bytes() == (expected / "metrics.jsonl").read_bytes()
    assert checkpoint.steps_in(found / "checkpoints") == [3, 4, 8]


def with_checkpoints(written: str) -> str:
    return RECIPE.replace("  wide: {like", f"  wide: {{checkpoints: {written}, save_minutes: 0.000001, like")


def test_checkpoints_by_words_are_kept_without_changing_the_run(done, tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    shutil.copytree(done[0] / "toy" / "data", tmp_path / "toy" / "data")
    text = with_checkpoints("[300, 350, 500, 1M]")
    api.train(recipe_from_text(text), runs=tmp_path, model="wide")
    experiment, _ = opened(tmp_path, text)
    run, quiet = experiment.run(Teacher(model="wide", seed=0)).folder, done[0] / "toy" / "wide" / "seed-0"
    for name in ("metrics.jsonl", "hf/model.safetensors"):
        assert (run.path / name).read_bytes() == (quiet / name).read_bytes()
    assert Finished.read(run.finished).best_step == 8

    # The slow way: count the words batch by batch.
    store = experiment.data.train
    source = experiment.plans.of("wide").source
    seen = [words * store.words / len(store) for words in np.cumsum([source.batch(s).token_count for s in range(8)])]
    steps = {words: next(s + 1 for s in range(8) if seen[s] >= words) for words in (300, 350, 500)}
    assert experiment.plans.of("wide").steps.words == steps
    assert checkpoint.steps_in(run.checkpoints) == sorted({*steps.values(), 7, 8})
    for step in checkpoint.steps_in(run.checkpoints):
        folder = checkpoint.folder_of(run.checkpoints, step)
        assert checkpoint.verify(folder) is None
        assert (folder / "optimizer.safetensors").is_file() == (step >= 7)
    by_words = trained(experiment, Teacher.model_validate("wide@words-500"), "causal")
    by_step = trained(experiment, Teacher.model_validate(f"wide@step-{steps[500]}"), "causal")
    best = trained(experiment, Teacher.model_validate("wide"), "causal")
    assert torch.equal(by_words.weight_VD, by_step.weight_VD)
    assert not torch.equal(by_words.weight_VD, best.weight_VD)
    with pytest.raises(UserError, match=r"'wide@words-1M': no checkpoint .* \(there are: 300, 350, 500\)"):
        trained(experiment, Teacher.model_validate("wide@words-1M"), "causal")

    # What holds weights only is nothing to go on from: without the last two, the run is told to be broken.
    for step in (7, 8):
        shutil.rmtree(checkpoint.folder_of(run.checkpoints, step))
    with pytest.raises(UserError, match="is damaged, or holds weights only; nothing was changed"):
        checkpoint.newest_good(run.checkpoints)


def test_asking_for_checkpoints_disowns_no_earlier_run(done) -> None:
    experiment, _ = opened(done[0], with_checkpoints("[300]"))
    assert experiment.run(Teacher(model="wide", seed=0)).finished().steps == 8
    with pytest.raises(UserError, match=r"was not kept; there are \[4, 8\]"):
        trained(experiment, Teacher.model_validate("wide@words-300"), "causal")


def test_teachers_named_by_words_are_kept(done) -> None:
    def milestones(reference: str) -> frozenset[int]:
        return opened(done[0], RECIPE.replace("[wide, other]", f"[{reference}, other]"))[0].plans.of("wide").milestones

    store = opened(done[0])[0].data.train
    assert milestones("wide@words-300") == {math.ceil(300 / (8 * 32 * store.words / len(store)))}
    with pytest.raises(UserError, match=r"'wide@words-1M' is asked for, but wide sees only \d+ words"):
        milestones("wide@words-1M")


def test_a_length_in_words_ends_at_its_last_checkpoint(done) -> None:
    changed = with_checkpoints("[500, 1K]").replace("wide: {", "wide: {steps: null, words: 1000, ")
    found = opened(done[0], changed)[0].plans.of("wide").steps
    assert found.words[1000] == found.total
    assert opened(done[0], changed.replace("1K", "1001"))[0].plans.of("wide").steps.words.keys() == {500}


def test_the_end_stands_for_a_checkpoint_of_babylm_a_little_beyond_it(done, monkeypatch) -> None:
    def kept(words: int, written: str = "babylm-strict-small") -> dict[int, int]:
        changed = with_checkpoints(written).replace("wide: {", f"wide: {{steps: null, words: {words}, ")
        found = opened(done[0], changed)[0].plans.of("wide").steps
        assert all(step <= found.total for step in found.words.values())
        return {count: found.total - step for count, step in found.words.items()}

    monkeypatch.setitem(SCHEDULES, "babylm-strict-small", (500, 1000))
    assert kept(1000)[1000] == kept(991)[1000] == 0
    assert kept(989).keys() == kept(991, "[500, 1000]").keys() == {500}


def test_changed_teacher_makes_the_student_another_one(done) -> None:
    experiment, _ = opened(done[0])
    changed, _ = opened(done[0], RECIPE.replace("n_embd: 16", "n_embd: 18"))
    student = Teacher(model="student", seed=0)
    assert experiment.run(student).spec["teachers"] != changed.run(student).spec["teachers"]


def test_another_convention_is_measured_anew(done) -> None:
    _, scoring = opened(done[0], RECIPE + 'evaluation: {convention: "2026"}\n')
    subject = next(scoring.subjects())
    assert scoring.read(subject, "starter-pairs") is None
    assert scoring.read(subject, "test") is not None


@pytest.mark.parametrize("model", ["student[1]", "other@last"])
def test_exported_model_loads_in_stock_transformers_with_equal_logits(done, tmp_path: Path, model: str) -> None:
    folder = api.export(recipe_from_text(RECIPE), model, tmp_path / "model", runs=done[0])
    stock = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "The cat sat on the mat, and the dogs were asleep.\nA letter came."
    tokens = tokenizer(text, return_tensors="pt").input_ids
    ours = Prepared.open(done[0] / "toy" / "data").tokenizer
    assert tokens[0].tolist() == ours(text)["input_ids"]
    assert tokenizer.decode(tokens[0]) == text
    with torch.no_grad():
        expected = load(str(folder), ours, "causal").logits(tokens)
        assert (stock(tokens).logits - expected).abs().max() < 1e-5
    assert "tutelage" in (folder / "README.md").read_text()


def test_ensemble_is_the_softmax_of_mean_logits(done) -> None:
    experiment, scoring = opened(done[0])
    ensemble = next(s for s in scoring.subjects() if s.name.startswith("ensemble"))
    models = [trained(experiment, member, "causal") for member in ensemble.members]
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in experiment.rows.held_out("test", experiment.recipe.models["wide"]).once():
            logits = sum(model.logits(batch.tokens_BT) for model in models) / 2
            losses = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), batch.targets_BT.flatten(), reduction="none"
            )
            total += losses.sum().item()
            count += int((batch.targets_BT >= 0).sum())
    assert scoring.read(ensemble, "test")["loss"] == pytest.approx(total / count, rel=2e-3)


def test_best_checkpoint_is_chosen_by_val(done) -> None:
    for run in (done[0] / "toy").glob("*/seed-*"):
        evaluated = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses = {line["step"]: line["val"]["loss"] for line in evaluated if "val" in line}
        finished = json.loads((run / "finished.json").read_text())
        assert losses[finished["best_step"]] == min(losses.values())


def test_training_learns(done) -> None:
    summary = done[1]
    for name in ("student", "control", "wide", "other"):
        assert summary.models[name].seeds["0"].test.loss < 6.0  # ln 500 = 6.21 nats is chance
