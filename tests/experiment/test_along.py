"""Evaluations at every checkpoint by words seen: scored once, kept, resumed, told in summary, plots and cards."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tutelage import api
from tutelage.babylm.export import export_babylm
from tutelage.base.errors import UserError
from tutelage.evaluation import named
from tutelage.evaluation.benchmarks.conventions import CONVENTIONS
from tutelage.evaluation.suites.suites import evaluate, find_suite
from tutelage.experiment.score import Scoring
from tutelage.experiment.setup import Experiment
from tutelage.experiment.word_checkpoints import word_checkpoints
from tutelage.models.build import load
from tutelage.recipe import Teacher
from tutelage.recipe.load import recipe_from_text
from tutelage.teaching.teachers import Ensemble
from tutelage.training.parallel import Group

RECIPE = """
name: curves
data: {corpus: starter, tokenizer: {vocab_size: 400}, rows: {length: 32}}
models:
  student:
    config: {model_type: llama, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}
    steps: 8
    seeds: 2
    evaluations: 2
    checkpoints: [200, 500, 1M]
    stages: [{teachers: [teacher], objectives: {next_token: 0.5, distill: 0.5}}]
    optim: {batch_rows: 8, lr: 1.0e-2}
  plain: {like: student, without: teachers, seeds: 1, checkpoints: []}
  teacher: {like: student, without: teachers, seeds: 1, checkpoints: [300]}
evaluate: [val]
evaluation: {along: [starter-pairs, "PAIRS"]}
compare: {models: [student, plain, teacher, "ensemble(plain, teacher)", "ensemble(teacher)"]}
"""
PAIRS = """
{"sentence_good": "The dog sleeps.", "sentence_bad": "The dog sleep.", "UID": "verbs"}
{"sentence_good": "Two dogs sleep.", "sentence_bad": "Two dogs sleeps.", "UID": "verbs"}
{"sentence_good": "A cat sees it.", "sentence_bad": "It cat a sees.", "UID": "order"}
"""
AT = {"student": (200, 500), "teacher": (300,)}
STATES = 3 + 2 + 2 + 1
"""Three finished models that have checkpoints, two times two checkpoints of the student, one of its teacher."""


class Killed(Exception):
    """Stands for a kill between two scores."""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "pairs.jsonl").write_text(PAIRS.strip() + "\n")
    return RECIPE.replace("PAIRS", f"pairs:{folder}")


@pytest.fixture(scope="module")
def done(text: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Trained, scored up to the seventh score, killed, and scored to its end."""
    runs = tmp_path_factory.mktemp("runs")
    scored: list[str] = []
    kills = [6]

    def counted(ensemble, tokenizer, suite, *rest):
        if len(scored) in kills:
            kills.clear()
            raise Killed
        scored.append(suite.name)
        return evaluate(ensemble, tokenizer, suite, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(named, "evaluate", counted)
        with pytest.raises(Killed):
            api.run(recipe_from_text(text), runs=runs)
        assert len(scored) == 6
        summary = api.run(recipe_from_text(text), runs=runs, publish=runs / "published")
    assert len(scored) == 2 * STATES
    return runs, summary


def opened(runs: Path, text: str) -> Experiment:
    return Experiment(recipe_from_text(text), runs, Group(0, 1, torch.device("cpu")))


def test_curves_are_what_each_checkpoint_scores_by_itself(done: tuple[Path, Any], text: str) -> None:
    runs, summary = done
    experiment, names = opened(runs, text), recipe_from_text(text).evaluation.along
    assert [name for name, model in summary.models.items() if model.seeds["0"].along] == ["student", "teacher"]
    for model, places in AT.items():
        for seed, told in summary.models[model].seeds.items():
            run = experiment.run(Teacher(model=model, seed=int(seed)))
            finished = load(str(run.folder.hf), experiment.data.tokenizer, "causal")
            states = [one.load() for one in word_checkpoints(experiment, run)]
            assert list(told.along) == list(names)
            for name, found in told.along.items():
                suite = find_suite(name)

                def by_hand(one, suite=suite, run=run):
                    precision = run.precision
                    return evaluate(
                        Ensemble([one]), experiment.data.tokenizer, suite, CONVENTIONS["2025"], precision=precision
                    ).macro("accuracy")

                assert [words for words, _ in found.points] == list(places)
                assert [value for _, value in found.points] == [by_hand(one) for one in states]
                best = run.finished()
                assert found.finished == (round(best.words * best.best_step / best.steps), by_hand(finished))
                assert (found.measure, found.unit, found.chance) == ("accuracy", "accuracy", 0.5)
    starter = summary.models["student"].seeds["0"].along["starter-pairs"]
    assert len({value for _, value in (*starter.points, starter.finished)}) == 3
    # What is only repeated along the training is no evaluation of the finished models, and enters no comparison.
    assert all(not run.suites for model in summary.models.values() for run in model.seeds.values())


def test_scores_outlive_the_checkpoints(
    done: tuple[Path, Any], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(done[0], runs)
    for folder in runs.glob("curves/*/seed-*/checkpoints"):
        shutil.rmtree(folder)
    for user in ("score", "word_checkpoints"):
        monkeypatch.setattr(f"tutelage.experiment.{user}.trained", lambda *a: pytest.fail("loaded again"))
    assert api.run(recipe_from_text(text), runs=runs).models == done[1].models

    # Under other rules everything is measured anew, so that the checkpoints are missed, before anything is scored.
    later = text.replace("along:", 'convention: "2026", along:')
    with pytest.raises(UserError, match=r"student\[0\] was trained without the checkpoints at 200, 500 words"):
        api.evaluate(recipe_from_text(later), runs=runs)


def test_a_changed_model_or_suite_has_no_scores(done: tuple[Path, Any], text: str, tmp_path: Path) -> None:
    scoring = Scoring.of(opened(done[0], text))
    subject = next(scoring.subjects("student"))
    state = scoring.along(subject)[500]
    assert str(state) == "student[0]@words-500"
    name = "starter-pairs"
    assert scoring.read(state, name) is not None
    assert scoring.read(state, name) != scoring.read(subject, name)
    for old, new in (("lr: 1.0e-2", "lr: 2.0e-2"), ("along:", 'convention: "2026", along:'), ("steps: 8", "steps: 9")):
        changed = Scoring.of(opened(done[0], text.replace(old, new)))
        assert changed.read(changed.along(next(changed.subjects("student")))[500], name) is None


def test_texts_are_tokenized_once(
    done: tuple[Path, Any], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(done[0], tmp_path / "runs")
    for folder in (tmp_path / "runs").glob("curves/*/seed-*/scores"):
        shutil.rmtree(folder)
    calls: list[int] = []

    def counted(tokenizer, items, *rest, encode=named.encode):
        calls.append(len(items))
        return encode(tokenizer, items, *rest)

    monkeypatch.setattr(named, "encode", counted)
    monkeypatch.setattr("tutelage.evaluation.suites.suites.encode", lambda *a: pytest.fail("tokenized once more"))
    api.evaluate(recipe_from_text(text), runs=tmp_path / "runs")
    assert sorted(calls) == [6, 1920]


def test_the_report_has_a_plot_for_each(done: tuple[Path, Any]) -> None:
    plots = sorted(path.name for path in (done[0] / "published" / "plots").glob("learning-*.png"))
    assert len(plots) == 2
    assert plots[1] == "learning-starter-pairs.png"
    assert "Learning curves: starter-pairs" in (done[0] / "curves" / "report.html").read_text()


def test_revisions_carry_their_scores(done: tuple[Path, Any], text: str, tmp_path: Path) -> None:
    one = opened(done[0], text)
    folder = export_babylm(one, one.run(Teacher(model="student")), "2026", tmp_path / "upload")
    points = dict(done[1].models["student"].seeds["0"].along["starter-pairs"].points)
    for words, accuracy in points.items():
        card = (folder / f"chck_{words}" / "README.md").read_text()
        assert f"| starter-pairs | accuracy {100 * accuracy:.2f} %" in card
        assert "Not measured" not in card


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("starter-pair", "unknown evaluation 'starter-pair'; did you mean 'starter-pairs'"),
        ("test", r"evaluation\.along: 'test' needs held-out text"),
        ("calibration", r"evaluation\.along: 'calibration' needs held-out text"),
        ("aoa", r"evaluation\.along: 'aoa' needs all checkpoints at once.* name suites, such as blimp-fast"),
    ],
)
def test_what_needs_more_than_a_model_is_refused_before_anything_is_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.setattr("tutelage.experiment.setup.prepare", lambda *a: pytest.fail("prepared"))
    text = RECIPE.replace('[starter-pairs, "PAIRS"]', f"[{name}]")
    for verb in (api.show, api.train, api.run):
        with pytest.raises(UserError, match=message):
            verb(recipe_from_text(text), runs=tmp_path)


def test_a_recipe_without_checkpoints_is_told_before_training(
    done: tuple[Path, Any], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tutelage.api.recipes.train_run", lambda *a: pytest.fail("trained"))
    shutil.copytree(done[0] / "curves" / "data", tmp_path / "curves" / "data")
    # The longer one lies beyond the end of the training.
    changed = text.replace("[200, 500, 1M]", "[1M]").replace("checkpoints: [300]", "checkpoints: []")
    with pytest.raises(UserError, match=r"no model that is compared keeps any: name some in models\.\*\.checkpoints"):
        api.run(recipe_from_text(changed), runs=tmp_path)


def test_checkpoints_asked_for_too_late_are_told(done: tuple[Path, Any], text: str) -> None:
    changed = recipe_from_text(text.replace("seeds: 1, checkpoints: []", "seeds: 1, checkpoints: [100]"))
    with pytest.raises(UserError, match=r"plain\[0\] was trained without the checkpoints at 100 words"):
        api.evaluate(changed, runs=done[0])
    with pytest.raises(UserError, match=r"plain\[0\] has no score for 'starter-pairs' yet"):
        api.report(changed, runs=done[0])
