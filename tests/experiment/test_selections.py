"""Stages that learn from selected rows: the whole way, resumed, refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tutelage import api
from tutelage.base import machine
from tutelage.base.errors import Interrupted, UserError
from tutelage.compare.cost import cost_of
from tutelage.corpus.batches import BatchSource
from tutelage.experiment import selections
from tutelage.experiment.loading import trained
from tutelage.experiment.setup import Experiment
from tutelage.recipe import Teacher
from tutelage.recipe.load import recipe_from_text
from tutelage.teaching.scores import Scores
from tutelage.training import checkpoint
from tutelage.training.parallel import Group

RECIPE = """
name: toy
data: {corpus: starter, words: 6000, tokenizer: {vocab_size: 400}, rows: {length: 16}}
models:
  small: &shape
    config: {model_type: llama, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}
    steps: 12
    evaluations: 2
    save_minutes: 0.000001
    optim: {batch_rows: 8, lr: 1.0e-2}
  plain: {<<: *shape}
  chosen:
    <<: *shape
    stages:
      - span: 50%
        teachers: [small]
        objectives: {next_token: 0.5, distill: 0.5}
        select: SELECT
      - {}
evaluate: [val]
"""
SALT_DS = "{by: salt_ds, scorer: small@step-4, share: 25%, k: 150}"
WAYS = [
    SALT_DS,
    "{by: salt_ds, scorer: small@step-4, rows: 100, k: 20, unlearnable: drop}",
    "{by: difference, scorer: small, reference: small@step-4, share: 25%}",
    "{by: perplexity, scorer: small, band: [20%, 80%]}",
    "{by: random, share: 25%}",
    "{by: excess, scorer: small@step-4, reference: small, share: 60%}",
]


def text(select: str = SALT_DS) -> str:
    return RECIPE.replace("SELECT", select)


def opened(runs: Path, select: str = SALT_DS) -> Experiment:
    return Experiment(recipe_from_text(text(select)), runs, Group(0, 1, torch.device("cpu")))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    api.train(recipe_from_text(text()), runs=runs)
    return runs


@pytest.fixture
def small_done(done: Path, tmp_path: Path) -> Path:
    """The same with the data and the small model only."""
    for part in ("data", "small"):
        shutil.copytree(done / "toy" / part, tmp_path / "toy" / part)
    return tmp_path


def rows_read(runs: Path, steps: range, select: str = SALT_DS) -> list[int]:
    """Return the rows of some steps as the loop would read them."""
    experiment = opened(runs, select)
    source = experiment.rows.training(experiment.recipe.models["chosen"]).with_batch_rows(8)
    found = selections.read(experiment.run(Teacher(model="chosen")).folder, 0)
    selected = source.with_rows(found.rows, found.targets)
    ends = experiment.plans.of("chosen").steps.ends
    batches = [selected.batch(step) if step < ends[0] else source.batch(step) for step in steps]
    return [row for batch in batches for row in batch.rows_B.tolist()]


def test_the_scorer_is_trained_first_and_its_checkpoint_kept(done: Path) -> None:
    experiment = opened(done)
    assert [str(run) for run in experiment.runs("chosen")] == ["small[0]", "chosen[0]"]
    assert experiment.plans.of("small").milestones == {4}


def test_selected_rows_are_those_of_the_formula(done: Path) -> None:
    experiment = opened(done)
    source = BatchSource(experiment.data.train, experiment.recipe.data.rows, 64, 0, shuffle=False)
    model = trained(experiment, Teacher.model_validate("small@step-4"), "causal")
    expected = []
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=machine.precision("auto") == "bf16"):
        for batch in source.once():
            log_p = torch.log_softmax(model.logits(batch.tokens_BT).float(), -1)[:, :-1]
            gold = log_p.gather(-1, batch.tokens_BT[:, 1:, None])
            loss = -gold.squeeze(-1) * ((log_p > gold).sum(-1) < 150)
            expected += np.median(loss.numpy(), axis=1).tolist()
    found = selections.read(experiment.run(Teacher(model="chosen", seed=0)).folder, 0)
    count = round(0.25 * source.count)
    threshold = sorted(expected)[-count]
    assert len(found.rows) == count
    # Numbers are kept in float16, and a batch of another size rounds bf16 otherwise.
    assert min(expected[row] for row in found.rows) > threshold - 0.05
    assert found.facts["lowest"] == pytest.approx(threshold, abs=0.05)


def test_the_first_stage_reads_selected_rows_and_the_second_goes_on_as_ever(done: Path, monkeypatch) -> None:
    read: list[list[int]] = []
    runs = done.parent / "watched"
    shutil.copytree(done, runs)
    shutil.rmtree(runs / "toy" / "chosen")
    from tutelage.training import stage_runner

    counted = stage_runner.count
    monkeypatch.setattr(stage_runner, "count", lambda batch: (read.append(batch.rows_B.tolist()), counted(batch))[1])
    api.train(recipe_from_text(text()), runs=runs, model="chosen")
    assert [row for rows in read for row in rows] == rows_read(done, range(12))
    plain = opened(done)
    source = plain.rows.training(plain.recipe.models["plain"]).with_batch_rows(8)
    assert read[6:] == [source.batch(step).rows_B.tolist() for step in range(6, 12)]


@pytest.mark.parametrize("select", WAYS[1:])
def test_every_way_trains(small_done: Path, select: str) -> None:
    api.train(recipe_from_text(text(select)), runs=small_done, model="chosen")
    experiment = opened(small_done, select)
    (facts,) = selections.facts_of(experiment.run(Teacher(model="chosen", seed=0)))
    found = selections.read(experiment.run(Teacher(model="chosen", seed=0)).folder, 0)
    rows = experiment.data.train.__len__() // 16
    expected = {"rows: 100": 100, "25%": round(0.25 * rows), "band": round(0.8 * rows) - round(0.2 * rows)}
    size = next((size for key, size in expected.items() if key in select), rows)
    assert len(found.rows) == size
    if "excess" in select:
        assert found.targets is not None
        # A row's last position predicts nothing, and is not among those selected.
        assert found.targets.sum() == facts["kept"] == round(0.6 * rows * 15)
        assert not found.targets.reshape(rows, 16)[:, -1].any()
    assert sum(facts["counts_kept"]) in (facts["kept"], 0)
    finished = experiment.run(Teacher(model="chosen", seed=0)).finished()
    scorers = 0 if "random" in select else 2 if "reference" in select else 1
    per_pass = experiment.plans.cost_of("small", "causal").forward_flops * rows * 16
    assert finished.scoring_flops == pytest.approx(scorers * per_pass)


def test_a_selection_that_is_mostly_chance_is_refused(small_done: Path) -> None:
    """After four steps hardly any token is among the ten likeliest, and nearly every row's median is 0."""
    hardly = "{by: salt_ds, scorer: small@step-4, share: 25%, k: 10}"
    match = r"cannot decide: [\d,]+ of the [\d,]+ rows it would keep have the same value .*a larger `k`"
    with pytest.raises(UserError, match=match):
        api.train(recipe_from_text(text(hardly)), runs=small_done, model="chosen")
    assert not list((small_done / "toy" / "chosen").rglob("stage-1.*"))


def test_ties_among_what_is_kept_are_warned_of(small_done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    api.train(recipe_from_text(text(SALT_DS.replace("150", "75"))), runs=small_done, model="chosen")
    (facts,) = selections.facts_of(
        opened(small_done, SALT_DS.replace("150", "75")).run(Teacher(model="chosen", seed=0))
    )
    assert 0.01 * facts["kept"] < facts["ties"] <= 0.5 * facts["kept"]
    told = " ".join(capsys.readouterr().err.split())
    assert f"{facts['ties']:,} of what is kept has the same value as rows left out" in told


@pytest.mark.parametrize("step", [3, 6, 9])  # inside the first stage, at the switch, inside the second
def test_a_run_interrupted_after_its_selection_ends_bitwise_the_same(
    done: Path, small_done: Path, monkeypatch, step: int
) -> None:
    import tutelage.training.loop as loop

    original, steps = loop.lr_at, iter(range(100))

    def stopping(*arguments: object) -> float:
        if next(steps) == step:
            raise Interrupted(15)
        return original(*arguments)

    monkeypatch.setattr(loop, "lr_at", stopping)
    with pytest.raises(Interrupted):
        api.train(recipe_from_text(text()), runs=small_done, model="chosen")
    monkeypatch.setattr(loop, "lr_at", original)
    kept = checkpoint.steps_in(small_done / "toy" / "chosen" / "seed-0" / "checkpoints")
    assert max(kept) == step
    # What was selected stands, whatever becomes of the scores.
    shutil.rmtree(small_done / "toy" / "scores")
    monkeypatch.setattr(Scores, "build", lambda *a: pytest.fail("scored again"))
    api.train(recipe_from_text(text()), runs=small_done, model="chosen")
    for file in ("hf/model.safetensors", "metrics.jsonl", "selections/stage-1.npz"):
        path = Path("toy") / "chosen" / "seed-0" / file
        assert (done / path).read_bytes() == (small_done / path).read_bytes()


def test_scores_are_shared_and_settings_without_selection_keep_their_fingerprint(done: Path) -> None:
    assert len(list((done / "toy" / "scores").iterdir())) == 1
    experiment = opened(done)
    assert "select" not in json.dumps(experiment.run(Teacher(model="plain", seed=0)).spec)
    spec = experiment.run(Teacher(model="chosen", seed=0)).spec
    assert "small@step-4" in spec["teachers"]


def test_another_selection_is_another_run(done: Path) -> None:
    with pytest.raises(UserError, match=r"select\.share: 0\.25 there, 0\.3 now"):
        api.train(recipe_from_text(text(SALT_DS.replace("25%", "30%"))), runs=done, model="chosen")


def test_a_damaged_selection_is_told(done: Path, tmp_path: Path) -> None:
    shutil.copytree(done / "toy", tmp_path / "toy")
    run = opened(tmp_path).run(Teacher(model="chosen", seed=0)).folder
    (run.path / "selections" / "stage-1.npz").write_bytes(b"")
    with pytest.raises(UserError, match=r"stage-1\.npz is missing or not what was written: delete"):
        selections.read(run, 0)
    with pytest.raises(UserError, match="other scores or settings"):
        selections.read(run, 0, key="another")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("share: 25%", "rows: 7"), r"models\.chosen\.stages\.0\.select leaves 7 of .* fewer than a batch of 8"),
        (("share: 25%", "rows: 100000"), r"rows=100,000, but the training split has only"),
        (("rows: {length: 16}", "rows: {length: 16, chunking: random}"), "these rows differ between epochs"),
    ],
)
def test_selections_that_cannot_be_are_refused_before_training(tmp_path: Path, change, message: str) -> None:
    with pytest.raises(UserError, match=message):
        api.train(recipe_from_text(text().replace(*change)), runs=tmp_path)
    assert not (tmp_path / "toy" / "small").exists()


def test_teachers_and_scorers_larger_than_memory_are_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(machine, "free_memory", lambda device="cpu": 1000.0)
    with pytest.raises(UserError, match=r"small would take 0\.0 GiB of memory in float32, .* 0\.0 GiB free"):
        api.train(recipe_from_text(text()), runs=tmp_path)
    assert not (tmp_path / "toy" / "small").exists()


def test_free_memory_is_read() -> None:
    free = machine.free_memory()
    assert free is None or 2**20 < free <= machine.environment()["memory_gib"] * 2**30
    machine.check_memory(1.0, "a byte")


def test_rows_that_are_read_again_are_warned_of(small_done: Path, capsys) -> None:
    api.train(recipe_from_text(text("{by: random, rows: 20}")), runs=small_done, model="chosen")
    said = capsys.readouterr().err
    assert "6 steps read the 20 selected rows 2.4 times" in said
    assert "20 of" in said


def test_a_scorer_of_another_vocabulary_is_refused(done: Path, tmp_path: Path) -> None:
    other = (
        text().replace("vocab_size: 400", "vocab_size: 450").replace("small@step-4", str(done / "toy/small/seed-0/hf"))
    )
    with pytest.raises(UserError, match="has another vocabulary"):
        api.train(recipe_from_text(other), runs=tmp_path)


def test_score_sums_up_and_refuses_other_content(done: Path, tmp_path: Path, capsys) -> None:
    from tutelage.cli.main import score

    score(text_file(tmp_path), "small@step-4", runs=done)
    said = capsys.readouterr()
    assert "scoring all" not in said.err  # the run has done it
    found = api.score(recipe_from_text(text()), "small", runs=done, to=tmp_path / "scores")
    store = opened(done).data.train
    rows = len(store) // 16
    assert (found.rows, found.tokens) == (rows, rows * 15)
    assert f"small@step-4: {rows * 15:,} tokens in {rows:,} rows" in said.out
    assert 3 < found.loss < 7
    assert 0 < found.top < 1
    assert list(found.losses) == sorted(found.losses)
    assert found.losses[0] < found.loss < found.losses[-1]
    with pytest.raises(UserError, match=r"score store of another content:\n  teachers\.0"):
        api.score(recipe_from_text(text()), "small@step-4", runs=done, to=tmp_path / "scores")
    with pytest.raises(UserError, match=r"did you mean 'small'"):
        api.score(recipe_from_text(text()), "smal", runs=done)
    with pytest.raises(UserError, match="that checkpoint was not kept"):
        api.score(recipe_from_text(text()), "small@step-5", runs=done)


def text_file(folder: Path) -> str:
    (folder / "toy.yaml").write_text(text())
    return str(folder / "toy.yaml")


def test_the_report_shows_what_was_selected(done: Path, tmp_path: Path) -> None:
    excess = text("{by: excess, scorer: small@step-4, reference: small, share: 60%}").split("  chosen:")[1]
    both = text().replace("evaluate:", f"  tokens:{excess.split('evaluate:')[0]}evaluate:")
    for part in ("data", "small", "plain", "chosen"):
        shutil.copytree(done / "toy" / part, tmp_path / "toy" / part)
    summary = api.run(recipe_from_text(both), runs=tmp_path, publish=tmp_path / "published")
    chosen, tokens = summary.models["chosen"], summary.models["tokens"]
    (found,), (other,) = chosen.selections, tokens.selections
    assert (found.by, found.scorer, found.what, found.stage) == ("salt_ds", "small@step-4", "rows", 1)
    assert sum(found.counts) == found.of
    assert sum(found.counts_kept) == found.kept
    assert len(found.texts_kept) == len(found.texts_dropped) == 3
    assert min(e.value for e in found.texts_kept) >= max(e.value for e in found.texts_dropped)
    assert other.kept == round(0.6 * other.of)
    assert all("[" in example.text for example in other.texts_kept)
    assert chosen.scorers == ["small@step-4"]
    assert summary.models["plain"].selections == []
    cost = cost_of(summary.models, "chosen")
    assert cost.scoring_flops > 0
    small = summary.models["small"].seeds["0"].flops
    run = chosen.seeds["0"]
    assert cost.total_flops == pytest.approx(run.flops + run.teacher_flops + run.scoring_flops + small)
    for page in ("toy/report.html", "published/report.md"):
        written = (tmp_path / page).read_text()
        assert "What was selected" in written
        assert "Examples of what was selected" in written
        assert "scoring rows" in written
    assert (tmp_path / "published" / "plots" / "selections.png").is_file()


def rewritten(select: str) -> str:
    """The recipe with a student whose rows `ul2` rewrites."""
    mixture = "causal: 0.5, prefix: 0.5, span: 0"
    whole = text(select).replace("next_token: 0.5", f"ul2: {{weight: 0.5, {mixture}}}")
    return whole.replace("- {}", f"- {{objectives: {{ul2: {{{mixture}}}}}}}")


def test_rows_that_are_rewritten_are_scored_as_they_stand(done: Path, small_done: Path) -> None:
    api.train(recipe_from_text(rewritten(SALT_DS)), runs=small_done, model="chosen")
    path = Path("toy") / "chosen" / "seed-0" / "selections" / "stage-1.npz"
    assert (small_done / path).read_bytes() == (done / path).read_bytes()


def test_tokens_of_rows_that_are_rewritten_cannot_be_selected(small_done: Path) -> None:
    with pytest.raises(UserError, match=r"`ul2` rewrites them in every epoch; select rows"):
        api.train(recipe_from_text(rewritten(WAYS[-1])), runs=small_done, model="chosen")
